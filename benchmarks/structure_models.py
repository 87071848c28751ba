"""Transformer against CGCNN: same rows, same graphs, same recipe, equal training time.

Usage: python benchmarks/structure_models.py --out FILE.jsonl [--data FOLDER] [--seconds 45]
           [--tasks NAME ...] [--models NAME[,setting=value] ...] [--epochs N] [--seeds 0 ...]

Time is CPU seconds of this process on one thread, so that a busy machine does not spoil it; the
rate falls to 0 over the second half of the time, and graphs are built before the clock starts.
``--epochs`` trains for passes over the data instead. Each result is one line of the file; what is
there already is not measured again. ``--table`` prints the file as a table and ends.

Tasks: MP-20 formation energy and gap (its own test rows, 2,500 of them; 5,000 or 20,000 training
rows), the open part of matbench's phonons and all of its exfoliation energies (the folds of
matbench: five, shuffled, seed 18012019), and the perovskites of matbench whose value is certain.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from matmill.data.table import open_table
from matmill.graphs.graph import build
from matmill.predict.cgcnn import Cgcnn
from matmill.predict.task import GraphBatches, PropertyTask
from matmill.predict.transformer import DEGREE, CrystalTransformer

ROOT = Path(__file__).parents[1]
NETWORKS = {"cgcnn": Cgcnn, "transformer": CrystalTransformer}
MP20 = "mp_20.parquet"
# name -> file, column, training rows, fold, whether the logarithm is learned
TASKS = {
    "e_form 5k": (MP20, "formation_energy_per_atom_ev", 5000, None, False),
    "e_form 20k": (MP20, "formation_energy_per_atom_ev", 20000, None, False),
    "gap 5k": (MP20, "band_gap_ev", 5000, None, False),
    "gap 20k": (MP20, "band_gap_ev", 20000, None, False),
    "phonons 0": ("properties/matbench_phonons.parquet", "last_phdos_peak_cm1", None, 0, True),
    "phonons 1": ("properties/matbench_phonons.parquet", "last_phdos_peak_cm1", None, 1, True),
    "jdft2d 0": (
        "properties/matbench_jdft2d.parquet",
        "exfoliation_energy_mev_atom",
        None,
        0,
        False,
    ),
    "jdft2d 1": (
        "properties/matbench_jdft2d.parquet",
        "exfoliation_energy_mev_atom",
        None,
        1,
        False,
    ),
    "perovskites": (
        "properties/perovskites_castelli_perov5.parquet",
        "matbench_e_form_ev_cell",
        None,
        0,
        False,
    ),
}
MAX_ATOMS = 60
TEST_ROWS = 2500


@dataclass
class Data:
    """Graphs and values of both parts; values on the learned scale for training only."""

    train: torch.Tensor
    test: torch.Tensor
    graph: object
    values: torch.Tensor


def load(task, data, n_neighbors):
    """Return the graph of all rows that are used, their values, and which train and test."""
    file, column, n_train, fold, _ = TASKS[task]
    table = open_table(data / file)
    usable = torch.isfinite(table.column(column)) & (table.crystals.n_atoms <= MAX_ATOMS)
    table = table.select(torch.nonzero(usable).flatten())
    rng = torch.Generator().manual_seed(0)
    if n_train is None:
        from sklearn.model_selection import KFold

        folds = KFold(5, shuffle=True, random_state=18012019).split(np.arange(len(table)))
        train, test = (torch.from_numpy(rows) for rows in list(folds)[fold])
    else:
        part = np.array(table.notes["split"])
        train, test = (torch.from_numpy(np.flatnonzero(part == p)) for p in ("train", "test"))
        train = train[torch.randperm(len(train), generator=rng)[:n_train]]
        test = test[torch.randperm(len(test), generator=rng)[:TEST_ROWS]]
    table = table.select(torch.cat([train, test]))
    graph = build(table.crystals, k=n_neighbors, is_merged=True, degree=DEGREE)
    rows = torch.arange(len(table))
    return Data(rows[: len(train)], rows[len(train) :], graph, table.column(column).double())


def trained(network, data, learned, *, seconds, epochs, rate, seed):
    """Train by the recipe of `predict.train`; return what it took."""
    batches = GraphBatches(data.graph.select(data.train), learned[:, None].float(), n_crystals=64)
    task = PropertyTask(network, batches.shares, torch.ones(1))
    parameters = list(task.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    state = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    average = {name: values.clone() for name, values in state.items()}
    step, epoch, errors = 0, 0, []
    start = time.process_time()

    def progress(share):
        return (epoch + share) / epochs if epochs else (time.process_time() - start) / seconds

    network.train()
    while progress(0.0) < 1.0:
        rng = torch.Generator().manual_seed(1000 * seed + epoch)
        seen = 0
        for batch in batches.epoch(epoch, rng):
            done = progress(seen / len(data.train))
            if done >= 1.0:
                break
            seen += len(batch.graph)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 100, 2.0 * (1.0 - done))
            parts = task.loss(batch, rng)
            parts["loss"].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            share = 1.0 - min(0.99, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), list(state.values()), share)
            errors.append(float(parts["mean_error"]))
        else:
            epoch += 1
    used = time.process_time() - start
    network.load_state_dict(average, strict=False)
    return {
        "steps": step,
        "epochs": epoch,
        "cpu_seconds": round(used, 1),
        "ms_per_step": round(1e3 * used / step, 2),
        "error_on_training_batches": round(float(np.mean(errors[-50:])), 4),
    }


def measured(task, model, args, data):
    name, *changes = model.split(",")
    settings = {key: json.loads(value) for key, value in (c.split("=") for c in changes)}
    rate = settings.pop("rate", 2e-3)
    values = data.values.log() if TASKS[task][4] else data.values
    center = values[data.train].median()
    spread = (values[data.train] - center).abs().mean()
    learned = (values[data.train] - center) / spread
    result = {"task": task, "model": model, "n_train": len(data.train), "n_test": len(data.test)}
    for seed in args.seeds:
        torch.manual_seed(seed)
        network = NETWORKS[name](1, **settings)
        facts = trained(
            network,
            data,
            learned,
            seconds=args.seconds,
            epochs=args.epochs,
            rate=rate,
            seed=seed,
        )
        network.eval()
        with torch.no_grad():
            parts = [network(data.graph.select(rows))[0] for rows in data.test.split(256)]
        guess = torch.cat(parts)[:, 0].double() * spread + center
        guess = guess.exp() if TASKS[task][4] else guess
        error = (guess - data.values[data.test]).abs()
        n_parameters = sum(p.numel() for p in network.parameters())
        yield {
            **result,
            "seed": seed,
            "limit": f"{args.epochs} epochs" if args.epochs else f"{args.seconds:g} s",
            "n_neighbors": args.n_neighbors,
            "mae": float(error.mean()),
            "n_parameters": n_parameters,
            **facts,
        }


def show(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    print("| task | limit | k | model | MAE | steps | ms/step | runs |")
    print("|---|---|---|---|---|---|---|---|")
    keys = ("task", "limit", "n_neighbors", "model")
    for key in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        mine = [row for row in rows if tuple(row[k] for k in keys) == key]
        mean = {k: np.mean([row[k] for row in mine]) for k in ("mae", "steps", "ms_per_step")}
        cells = [*key, f"{mean['mae']:.4g}", f"{mean['steps']:.0f}", f"{mean['ms_per_step']:.1f}"]
        print("| " + " | ".join(map(str, [*cells, len(mine)])) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--models", nargs="+", default=["cgcnn", "transformer"])
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n-neighbors", type=int, default=12)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        show(args.out)
        return
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    seeds = args.seeds
    for task in args.tasks:
        data = None
        for model in args.models:
            limit = f"{args.epochs} epochs" if args.epochs else f"{args.seconds:g} s"
            lines = args.out.read_text().splitlines() if args.out.exists() else []
            there = [json.loads(line) for line in lines]
            key = {"task": task, "model": model, "limit": limit, "n_neighbors": args.n_neighbors}
            done = {r["seed"] for r in there if all(r[k] == v for k, v in key.items())}
            args.seeds = [seed for seed in seeds if seed not in done]
            if not args.seeds:
                continue
            data = data or load(task, args.data, args.n_neighbors)
            for result in measured(task, model, args, data):
                with args.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
