"""Redundancy control: how fast, how much it keeps beside the published counts, what it does to MAE.

Run: OMP_NUM_THREADS=1 python benchmarks/redundancy.py [--data FOLDER] [--parts times,counts,scores]

times   CPU and wall seconds, fingerprints included, on formulas and structures.
counts  Rows kept at the published thresholds. The published ones are of another release of the
        Materials Project (its formulas and structures of 2022-23); ours of 129,801 rows up to 64
        atoms, and of MP-20 for structures. Equal counts are not expected, equal trends are.
scores  MAE of trees on composition descriptors, equally many training rows for every kind of
        split, with the share of test rows that have a near-copy in training.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import open_compositions
from matmill.data.redundancy.reduce import reduce
from matmill.data.redundancy.report import report
from matmill.data.splits import split
from matmill.data.table import open_table
from matmill.predict.descriptors.blocks import compute
from matmill.randomness import child, child_seed

PUBLISHED = {
    "mendeleev": {0.5: 40544, 0.8: 27958, 1.0: 21268, 1.5: 12706, 2.0: 7643, 2.5: 4930, 3.0: 3177},
    "xrd": {0.5: 62729, 0.6: 45988, 0.8: 21038, 0.9: 13828},
    "ofm": {0.15: 57395, 0.2: 48568, 0.45: 22756, 0.7: 13120},
}
KINDS = {
    "random": {"kind": "random"},
    "formula": {"kind": "formula"},
    "cluster, composition 1.0": {"kind": "cluster", "threshold": 1.0},
    "redundancy, composition 1.0": {"kind": "redundancy", "threshold": 1.0},
    "redundancy, composition 2.0": {"kind": "redundancy", "threshold": 2.0},
    "redundancy, structure ofm 0.7": {
        "kind": "redundancy",
        "by": "structure",
        "metric": "ofm",
        "threshold": 0.7,
    },
}
TARGETS = ("formation_energy_per_atom_ev", "band_gap_ev")


def timed(data, **settings):
    cpu, wall = time.process_time(), time.perf_counter()
    found = reduce(data, **settings)
    line = {
        **found.settings,
        "rows": len(data),
        "kept": len(found),
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.perf_counter() - wall, 1),
    }
    print(json.dumps(line), flush=True)
    return line


def times(data: Path) -> list[dict]:
    union = open_compositions(data / "mp_union.parquet")
    oqmd = open_compositions(data / "oqmd_compositions.parquet")
    crystals = open_table(data / "mp_20.parquet")
    return [
        timed(union, by="composition", threshold=1.0),
        timed(union, by="composition", threshold=0.3, metric="facts"),
        timed(oqmd, by="composition", threshold=1.0),
        timed(oqmd, by="composition", threshold=0.5),
        timed(crystals, by="structure", metric="xrd", threshold=0.6),
        timed(crystals, by="structure", metric="ofm", threshold=0.2),
    ]


def counts(data: Path) -> list[dict]:
    union = open_compositions(data / "mp_union.parquet")
    crystals = open_table(data / "mp_20.parquet")
    lines = []
    for metric, published in PUBLISHED.items():
        rows, by = (union, "composition") if metric == "mendeleev" else (crystals, "structure")
        for threshold, theirs in published.items():
            line = timed(rows, by=by, metric=metric, threshold=threshold)
            line["published"] = theirs
            print(f"{metric} {threshold}: kept {line['kept']}, published {theirs}", flush=True)
            lines.append(line)
    return lines


def scores(data: Path, n_rows: int, seeds: int) -> list[dict]:
    """Return MAE by kind of split; all kinds learn from equally many rows."""
    table = open_table(data / "mp_20.parquet", target=TARGETS[0])
    order = torch.randperm(len(table), generator=child(0, "rows"))[:n_rows]
    table = table.select(order.sort().values)
    columns = compute(CompositionBatch.of(table.crystals), ["composition"]).values
    columns = columns.nan_to_num(nan=0.0).numpy().astype(np.float32)
    divisions = {
        name: [
            split(table, seed=seed, fractions=(0.8, 0.0, 0.2), **options) for seed in range(seeds)
        ]
        for name, options in KINDS.items()
    }
    n_train = min(len(d.train) for found in divisions.values() for d in found)
    lines = []
    for name, found in divisions.items():
        line: dict = {"split": name, "n_train": n_train, "n_test": [len(d.test) for d in found]}
        near = [
            report(table.select(d.train), table.select(d.test), threshold=1.0).near_share
            for d in found[:1]
        ]
        line["near_share"] = round(near[0], 3)
        for target in TARGETS:
            values = table.column(target).numpy()
            errors, plain = [], []
            for seed, division in enumerate(found):
                rng = child(seed, name, target)
                train = division.train[torch.randperm(len(division.train), generator=rng)[:n_train]]
                train, test = train.numpy(), division.test.numpy()
                model = trees(child_seed(seed, target) % 2**32).fit(columns[train], values[train])
                errors.append(np.abs(model.predict(columns[test]) - values[test]).mean())
                plain.append(np.abs(np.median(values[train]) - values[test]).mean())
            line[target] = [round(float(np.mean(errors)), 4), round(float(np.std(errors)), 4)]
            line[f"{target}, median"] = round(float(np.mean(plain)), 4)
        print(json.dumps(line), flush=True)
        lines.append(line)
    print_scores(lines)
    return lines


def trees(seed: int):
    from sklearn.ensemble import ExtraTreesRegressor

    return ExtraTreesRegressor(100, max_features=0.33, random_state=seed, n_jobs=1)


def print_scores(lines: list[dict]) -> None:
    """Print MAE, and its ratio to that of the training median: parts differ in spread."""
    head = f"{'MAE':>15} {'of median':>10}"
    print(f"\n{'':32} {'near':>6}    formation energy (eV/atom)      band gap (eV)")
    print(f"{'split':32} {'':6} {head}    {head}")
    for line in lines:
        cells = []
        for target in TARGETS:
            mean, std = line[target]
            share = mean / line[f"{target}, median"]
            cells.append(f"{mean:.3f} ± {std:.3f} {share:>10.3f}")
        print(f"{line['split']:32} {line['near_share']:6.1%} {cells[0]:>26}    {cells[1]:>26}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--parts", default="times,counts,scores")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = arguments.parts.split(",")
    results: dict[str, list[dict]] = {}
    if "times" in wanted:
        results["times"] = times(arguments.data)
    if "counts" in wanted:
        results["counts"] = counts(arguments.data)
    if "scores" in wanted:
        results["scores"] = scores(arguments.data, arguments.rows, arguments.seeds)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
