"""Does it matter how a training table is cut into batches? By size against even, in paired runs.

    python benchmarks/batch_cuts.py --rows 500 2000 5000 --network cgcnn --epochs 30 --seeds 3

Formation energies of so many MP-20 training rows, one network without an ensemble; the error on
the first 2,000 test rows. Runs of a seed share rows and initial weights.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from generator_common import DATA, markdown
from matmill import registry
from matmill.data.table import open_table
from matmill.randomness import child

ENERGY = "formation_energy_per_atom_ev"
CUTS = ("by-size", "even")
HEADS = ["rows", "seed", "batches", "error, meV/atom", "steps", "CPU s"]
N_VAL, N_TEST = 500, 2000


def part(table, name):
    """Return the row numbers of a published part."""
    return torch.tensor([i for i, split in enumerate(table.notes["split"]) if split == name])


def error(table, train, cut, arguments, seed):
    """Return the test error in meV/atom, the steps taken and the CPU seconds."""
    val = part(table, "val")[:N_VAL]
    learnt = table.select(torch.cat([train, val]))
    names = ["train"] * len(train) + ["val"] * len(val)
    learnt = replace(learnt, notes={**learnt.notes, "split": tuple(names)})
    test, begin = part(table, "test")[:N_TEST], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        predictor = registry.predictors.load(arguments.network).fit(
            learnt,
            ENERGY,
            folder=Path(folder),
            seed=seed,
            n_members=1,
            epochs=arguments.epochs,
            calibration="held-out",
            batches=cut,
        )
    seconds = time.process_time() - begin
    predicted = predictor.predict(table.crystals.select(test)).mean.double()
    off = (predicted - table.column(ENERGY)[test].double()).abs().mean()
    return 1000 * float(off), predictor.card["training"]["member-0"]["steps"], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", type=int, default=[500, 2000, 5000])
    parser.add_argument("--network", default="cgcnn")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = open_table(arguments.data / "mp_20.parquet")
    rows, all_train = [], part(table, "train")
    for n in arguments.rows:
        for seed in range(arguments.seeds):
            chosen = torch.randperm(len(all_train), generator=child(seed, "rows"))[:n]
            for cut in CUTS:
                found = error(table, all_train[chosen], cut, arguments, seed)
                rows.append([n, seed, cut, *(f"{x:.4g}" for x in found)])
                print(markdown(HEADS, rows[-1:]).splitlines()[-1], flush=True)
    print(markdown(HEADS, rows))


if __name__ == "__main__":
    main()
