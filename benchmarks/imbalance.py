"""Methods against class imbalance on real tasks, the same stratified folds for all.

Run: OMP_NUM_THREADS=1 python benchmarks/imbalance.py [--data FOLDER] [--tasks glass,wide-gap]

Printed is mean ± std over the folds, next to the illustrative table of a review (Small and
imbalanced data in materials design: "Performance metrics for different strategies on a sample
task"), which names no data: it is not a bar. Columns are composition descriptors, but for the
ferroelectrics, which have their own.

At most --rows rows are drawn of each; class 1 is the rarer one.

glass          matbench_glass: alloys that form no metallic glass (29 %)
is-metal       matbench_expt_is_metal (about half: nearly balanced, for comparison)
ferroelectric  perovskite formability of Bi(Me1Me2)O3-PbTiO3, 192
wide-gap       MP-20 formulas whose PBE gap exceeds 5 eV
stable-perov   Castelli's ABX3 cells with a negative heat of formation: all 45 of 11,322 and others
               drawn up to the number of rows, so they are less rare here than in the set
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from matmill.crystals.compositions import parse_formulas
from matmill.predict.descriptors.blocks import compute
from matmill.predict.imbalance.classifiers import METHODS
from matmill.predict.imbalance.compare import SCORES, compare
from matmill.randomness import child

REVIEW = (
    ("no adjustment", 0.95, 0.45, 0.61, 0.88),
    ("random under-sampling", 0.80, 0.75, 0.77, 0.85),
    ("SMOTE", 0.82, 0.78, 0.80, 0.87),
    ("class weights", 0.85, 0.80, 0.82, 0.89),
    ("balanced random forest", 0.87, 0.82, 0.84, 0.90),
    ("conditional GAN", 0.89, 0.85, 0.87, 0.91),
)


def described(formulas: list[str]) -> torch.Tensor:
    return compute(parse_formulas(formulas), ["composition"]).values


def drawn(formulas: np.ndarray, classes: np.ndarray, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return columns and classes of n random rows."""
    order = torch.randperm(len(formulas), generator=child(0, "imbalance"))[:n].numpy()
    return described(formulas[order].tolist()), torch.from_numpy(classes[order].astype(float))


def glass(data: Path, n: int):
    frame = pq.read_table(data / "properties" / "matbench_glass.parquet").to_pandas()
    return drawn(frame["formula"].to_numpy(), ~frame["gfa"].to_numpy().astype(bool), n)


def is_metal(data: Path, n: int):
    frame = pq.read_table(data / "properties" / "matbench_expt_is_metal.parquet").to_pandas()
    return drawn(frame["formula"].to_numpy(), frame["is_metal"].to_numpy(), n)


def ferroelectric(data: Path, n: int):  # noqa: ARG001 - all 192 rows
    name = "ferroelectric_perovskites_bala2018_class.parquet"
    frame = pq.read_table(data / "properties" / name).to_pandas()
    symbols = [frame[f"me{i}"].fillna("").astype(str) for i in (1, 2, 3)]
    shares = [frame[f"frac_me{i}"].fillna(0.0).to_numpy(dtype=float) for i in (1, 2, 3)]
    x = frame["x_bi_me1me2_o3"].to_numpy(dtype=float)
    x = x / 100 if x.max() > 1 else x
    texts = []
    for row in range(len(frame)):
        metals = "".join(
            f"{symbol[row]}{x[row] * share[row]:.5f}"
            for symbol, share in zip(symbols, shares, strict=True)
            if symbol[row] and share[row] * x[row] > 0
        )
        rest = f"Pb{1 - x[row]:.5f}Ti{1 - x[row]:.5f}" if x[row] < 1 else ""
        bismuth = f"Bi{x[row]:.5f}" if x[row] > 0 else ""
        texts.append(f"{bismuth}{metals}{rest}O3")
    classes = frame["perovskite_formable"].to_numpy().astype(float)
    rare = 1.0 if classes.mean() < 0.5 else 0.0
    return described(texts), torch.from_numpy((classes == rare).astype(float))


def wide_gap(data: Path, n: int):
    frame = pq.read_table(data / "mp_20.parquet", columns=["formula", "band_gap_ev"]).to_pandas()
    frame = frame[np.isfinite(frame["band_gap_ev"])].drop_duplicates("formula")
    return drawn(frame["formula"].to_numpy(), frame["band_gap_ev"].to_numpy() > 5.0, n)


def stable_perovskites(data: Path, n: int):
    frame = pq.read_table(
        data / "properties" / "perovskites_castelli_perov5.parquet",
        columns=["formula", "matbench_e_form_ev_cell"],
    ).to_pandas()
    frame = frame[np.isfinite(frame["matbench_e_form_ev_cell"])]
    stable = frame["matbench_e_form_ev_cell"] < 0
    others = frame[~stable].sample(n - int(stable.sum()), random_state=0)
    frame = pd.concat([frame[stable], others])
    return drawn(frame["formula"].to_numpy(), frame["matbench_e_form_ev_cell"].to_numpy() < 0, n)


TASKS = {
    "glass": glass,
    "is-metal": is_metal,
    "ferroelectric": ferroelectric,
    "wide-gap": wide_gap,
    "stable-perov": stable_perovskites,
}


def print_table(found) -> None:
    widths = [28, *[16] * len(SCORES)]
    for line in [("method", *SCORES), *found.table]:
        print("".join(cell[: w - 1].ljust(w) for cell, w in zip(line, widths, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rows", type=int, default=2000, help="most rows of a task")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--trees", type=int, default=60)
    parser.add_argument("--inner-folds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    print("review (illustrative, data not named): precision, recall, F1, ROC-AUC")
    for name, *values in REVIEW:
        print(f"  {name:24}" + "  ".join(f"{value:.2f}" for value in values))
    for name in args.tasks.split(","):
        start = time.process_time()
        columns, classes = TASKS[name](args.data, args.rows)
        found = compare(
            columns,
            classes,
            args.methods.split(","),
            folds=args.folds,
            seed=args.seed,
            n_trees=args.trees,
            inner_folds=args.inner_folds,
        )
        seconds = time.process_time() - start
        print(f"\n{name}: {found.n_rows} rows, class 1 {found.share:.1%}, {seconds:.0f} CPU s")
        print_table(found)
        results[name] = found.as_dict()
        if args.out is not None:
            args.out.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
