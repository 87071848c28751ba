"""Our CGCNN against the original's method, both in one run on the same crystals and threads.

Usage: python benchmarks/cgcnn_speed.py [--threads 1] [--data TABLE] [--repeats 5] [--accuracy]
       [--out FILE.json]

First the outputs are checked to be equal for equal weights. Then graphs from parsed structures, a
warm training epoch and prediction on cached graphs are timed, the two ways in turn, and the
fastest of the repeats counts. With one thread times are CPU seconds of this process, so that a
busy machine does not spoil them; with more they are wall seconds. Ratios are what counts.

``--accuracy`` trains both recipes on formation energies and prints the errors over seeds.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import cgcnn_original as original
from matmill.data.table import open_table
from matmill.graphs.graph import build
from matmill.predict.cgcnn import Cgcnn
from matmill.predict.networks import chunks
from matmill.predict.reference import ReferenceCgcnn, element_one_hot
from matmill.predict.task import GraphBatches, PlainBatches, PropertyTask
from matmill.training.fit import FitSettings, fit

DATA = Path(__file__).parents[2] / "shared" / "data"
DIELECTRIC = DATA / "properties" / "dielectric_petousis_mp.parquet"


def compared(ways, *, repeats, clock):
    """Fastest time of each way, taken in turn, so that a busy neighbour disturbs all alike."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, action in ways.items():
            start = clock()
            action()
            best[name] = min(best[name], clock() - start)
    return best


def same_weights(network):
    """Our reference network with the weights of the original's."""
    ours = ReferenceCgcnn(1)
    ours.load_state_dict(network.state_dict(), strict=False)
    return ours.eval()


def check_equal(network, data, graphs):
    """Largest differences from the original: of neighbour distances, and of outputs.

    Where the last neighbours of an atom are equally far, the original takes those that its search
    happens to find first. So outputs are compared on our choice of neighbours.
    """
    network.train()
    with torch.no_grad():
        for inputs, _ in original.loader_of(data, is_shuffled=True):
            network(*inputs)
    full = graphs["full"]
    distance = torch.where(full.mask, full.distance, torch.full_like(full.distance, 9.0))
    theirs = torch.cat([data[i][0][1] for i in range(len(data))])
    ours = original.expanded(distance.double().numpy())
    differences = {"gaussians_of_neighbours": float((ours - theirs).abs().max())}
    chosen = original.Structures(data.structures, data.targets, data.element_table)
    rows = torch.where(full.mask, full.neighbor - full.offsets[full.crystal_index, None].int(), 0)
    ends = full.n_atoms.cumsum(0).tolist()
    for i, end in enumerate(ends):
        own = slice(end - int(full.n_atoms[i]), end)
        chosen.made[i] = (data[i][0][0], ours[own], rows[own].long())
    expected = original.predict(network, original.loader_of(chosen, is_shuffled=False))
    reference = same_weights(network)
    for name, graph in graphs.items():
        with torch.no_grad():
            found = torch.cat([reference(part)[0][:, 0] for part in chunks(graph)])
        differences[f"outputs_{name}"] = float((found - expected).abs().max())
    return differences


def our_epoch(network, batches, *, optimizer):
    """A function that trains for one epoch."""
    task = PropertyTask(
        network, batches.shares, torch.ones(1), loss="mse" if optimizer == "sgd" else "l1"
    )
    if optimizer == "sgd":
        steps = torch.optim.SGD(task.parameters(), lr=0.01, momentum=0.9)
    else:
        steps = torch.optim.AdamW(task.parameters(), lr=1e-3, fused=True)
    rng = torch.Generator().manual_seed(0)

    def run():
        task.train()
        for batch in batches.epoch(0, rng):
            loss = task.loss(batch, rng)["loss"]
            loss.backward()
            steps.step()
            steps.zero_grad()

    return run


def fit_epoch(batches, clock):
    """Seconds of an epoch in the fit loop, from the difference of two lengths."""

    def run(n):
        task = PropertyTask(Cgcnn(1), batches.shares, torch.ones(1))
        settings = FitSettings(max_epochs=n, precision="fp32", checkpoint_every_seconds=1e9)
        with tempfile.TemporaryDirectory() as folder:
            start = clock()
            fit(task, batches, settings=settings, folder=Path(folder), seed=0)
            return clock() - start

    run(1)
    return min((run(11) - run(1)) / 10 for _ in range(2))


def speed(table, target, *, repeats, clock):
    """All timings of one table."""
    crystals, values = table.crystals, table.column(target)
    n = len(crystals)
    structures = original.structures_of(crystals)
    one_hot = element_one_hot().numpy()
    some = slice(0, min(n, 200))
    part = crystals.select(torch.arange(n)[some])
    build(part, is_merged=True)
    times = compared(
        {
            "original": lambda: [original.graph_of(s, one_hot) for s in structures[some]],
            "ours": lambda: build(part),
            "ours, merged": lambda: build(part, is_merged=True),
        },
        repeats=repeats,
        clock=clock,
    )
    found = {"n_crystals": n, "n_atoms": len(crystals.atomic_numbers)}
    found["graphs"] = {k: {"ms_per_structure": 1e3 * t / len(part)} for k, t in times.items()}
    add_ratios(found["graphs"], times)

    data = original.Structures(structures, values, one_hot)
    list(original.loader_of(data, is_shuffled=False))  # fill its cache
    graphs = {"full": build(crystals), "merged": build(crystals, is_merged=True)}
    found["share_of_nodes"] = len(graphs["merged"].weight) / len(graphs["full"].weight)
    found["share_of_edges"] = int(graphs["merged"].mask.sum()) / int(graphs["full"].mask.sum())
    network = original.Network()
    found["largest_difference"] = check_equal(network, data, graphs)

    labels = ((values - values.mean()) / values.std()).float()[:, None]
    plain = PlainBatches(graphs["merged"], labels, n_crystals=256)
    batches = {k: GraphBatches(graphs["merged"], labels, n_crystals=k) for k in (64, 256)}
    loader = original.loader_of(data, is_shuffled=True)
    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    mean, std = float(values.mean()), float(values.std())
    ways = {
        "original": lambda: original.train_epoch(network, sgd, loader, mean, std),
        "ours, same network and recipe": our_epoch(ReferenceCgcnn(1), plain, optimizer="sgd"),
        "ours, batch 256": our_epoch(Cgcnn(1), batches[256], optimizer="adamw"),
        "ours, batch 64": our_epoch(Cgcnn(1), batches[64], optimizer="adamw"),
    }
    for action in ways.values():
        action()
    times = compared(ways, repeats=repeats, clock=clock)
    times["ours, batch 256, whole fit loop"] = fit_epoch(batches[256], clock)
    found["epoch"] = {k: {"seconds": t, "crystals_per_s": n / t} for k, t in times.items()}
    add_ratios(found["epoch"], times)

    ours, ordered = Cgcnn(1).eval(), original.loader_of(data, is_shuffled=False)
    exact = same_weights(network)

    def predict(net, graph):
        with torch.no_grad():
            return torch.cat([net(part)[0] for part in chunks(graph)])

    times = compared(
        {
            "original": lambda: original.predict(network, ordered),
            "ours, same network": lambda: predict(exact, graphs["merged"]),
            "ours": lambda: predict(ours, graphs["merged"]),
        },
        repeats=repeats,
        clock=clock,
    )
    found["prediction"] = {k: {"seconds": t, "crystals_per_s": n / t} for k, t in times.items()}
    add_ratios(found["prediction"], times)
    return found


def add_ratios(rows, times):
    """Write how many times faster than the original each way is."""
    for name, row in rows.items():
        row["ratio"] = times["original"] / times[name]


def show(found):
    """Print the timings."""
    for part in ("graphs", "epoch", "prediction"):
        for name, row in found[part].items():
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{part:>11}  {name:<32} {numbers}")
    print(f"largest differences for equal weights: {found['largest_difference']}")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1, choices=(1, 2))
    parser.add_argument("--data", type=Path, default=DIELECTRIC)
    parser.add_argument("--target", default="refractive_index")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=int, default=2000, help="crystals at most")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--rows", type=int, default=3000, help="rows of --accuracy")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of --accuracy")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    about = {
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.processor(),
    }
    if options.accuracy:
        from cgcnn_accuracy import accuracy

        found = accuracy(DATA / "mp_20.parquet", options.rows, options.epochs, options.seeds)
    else:
        table = open_table(options.data, target=options.target)
        if len(table) > options.most:
            rng = torch.Generator().manual_seed(0)
            table = table.select(torch.randperm(len(table), generator=rng)[: options.most])
        found = speed(table, options.target, repeats=options.repeats, clock=clock)
        show(found)
    if options.out:
        options.out.write_text(json.dumps({**about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
