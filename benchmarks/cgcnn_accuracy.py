"""Test errors of the original's recipe, of ours by the same recipe, and of our tuned one.

Called by ``python benchmarks/cgcnn_speed.py --accuracy``. Each seed draws its own rows and parts
(80/10/10, no formula in two parts); the arms of a seed share them.
"""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import cgcnn_original as original
from matmill.data.parts import divided, rows_of
from matmill.data.table import open_table
from matmill.predict.reference import element_one_hot
from matmill.predict.train import TrainSettings, train_predictor

TARGET = "formation_energy_per_atom_ev"


def original_error(table, epochs, seed):
    """Test error of the original's program: SGD, best of the validated epochs."""
    torch.manual_seed(seed)
    values = table.column(TARGET)
    one_hot = element_one_hot().numpy()
    structures = original.structures_of(table.crystals)
    data = {}
    for part, rows in rows_of(table).items():
        chosen = [structures[row] for row in rows.tolist()]
        data[part] = original.Structures(chosen, values[rows], one_hot)
    train = torch.as_tensor(data["train"].targets)
    sample = train[torch.randperm(len(train))[:500]]
    mean, std = float(sample.mean()), float(sample.std())
    network = original.Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    loader = original.loader_of(data["train"], is_shuffled=True)
    best, kept = float("inf"), network
    for _ in range(epochs):
        original.train_epoch(network, optimizer, loader, mean, std)
        error = error_of(network, data["val"], mean, std)
        if error < best:
            best, kept = error, copy.deepcopy(network)
    return error_of(kept, data["test"], mean, std)


def error_of(network, data, mean, std):
    """Mean absolute error."""
    found = original.predict(network, original.loader_of(data, is_shuffled=False), mean, std)
    return float((found - torch.as_tensor(data.targets)).abs().mean())


def our_error(table, settings, seed):
    """Test error of one network trained by these settings."""
    with tempfile.TemporaryDirectory() as folder:
        model = train_predictor(table, [TARGET], settings=settings, folder=Path(folder), seed=seed)
    return model.card["scores"][TARGET]["mae"]


def accuracy(path, n_rows, epochs, n_seeds):
    """Errors of all arms over seeds, printed as they come."""
    everything = open_table(path, target=TARGET)
    everything = replace(everything, notes={})
    long = 3 * epochs
    arms = {
        f"original, {epochs} epochs": lambda t, s: original_error(t, epochs, s),
        f"cgcnn-reference, {epochs} epochs": lambda t, s: our_error(
            t, TrainSettings(preset="reference", epochs=epochs), s
        ),
        f"cgcnn, {epochs} epochs": lambda t, s: our_error(
            t, TrainSettings(n_members=1, epochs=epochs), s
        ),
        f"cgcnn, {long} epochs": lambda t, s: our_error(
            t, TrainSettings(n_members=1, epochs=long), s
        ),
    }
    found = {name: [] for name in arms}
    for seed in range(n_seeds):
        rng = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(everything), generator=rng)[:n_rows]
        table = divided(everything.select(rows), seed=seed)
        for name, arm in arms.items():
            found[name].append(arm(table, seed))
            print(f"seed {seed}  {name:<32} {1e3 * found[name][-1]:.1f} meV/atom", flush=True)
    for name, errors in found.items():
        values = torch.tensor(errors) * 1e3
        print(f"{name:<32} {values.mean():.1f} ± {values.std():.1f} meV/atom over {n_seeds} seeds")
    return {"test_mae_ev_per_atom": found, "n_rows": n_rows}
