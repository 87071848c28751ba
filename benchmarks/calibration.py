"""What the intervals of predictors hold: shipped ones on held-out rows, and under shift.

Usage: python benchmarks/calibration.py [shipped] [subsets] [elements] [--data FOLDER]
           [--work FOLDER] [--elements O,F,Li,Fe,Se] [--rows 5000] [--seconds 35] [--out FILE]

- ``shipped``: coverage of the shipped predictor on its held-out rows, for each property.
- ``subsets``: the same rows, asked about one family at a time, as if somebody had only these:
  plain intervals, intervals within the family, and weighted ones.
- ``elements``: small predictors of formation energy and gap that saw no crystal of an element, and
  what their intervals hold on the crystals of that element.

Repeat the command after an interruption: finished trainings are kept.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from matmill.cli.output import print_table
from matmill.cli.progress import show
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import number
from matmill.data.table import LabelledCrystals
from matmill.predict.calibrate import coverage
from matmill.predict.chemistry import FAMILIES, families
from matmill.predict.domain import elements_of
from matmill.predict.ensemble import EnsembleModel, load_model
from matmill.predict.protocol import shipped_files
from matmill.predict.scores import evaluate_predictor
from matmill.predict.train import TrainSettings, train_predictor
from matmill.randomness import child
from matmill.training.checkpoint import write_atomically
from train_predictors import MAX_ATOMS, load_table

ROOT = Path(__file__).parents[1]
COLUMNS = ("formation_energy_per_atom_ev", "band_gap_ev")
LEVEL = 0.9
LEAST = 100  # rows of a subset
SHIPPED_HEADINGS = (
    *("property", "rows", "50 %", "80 %", "90 %", "95 %", "width 90 %", "miscal. area"),
    *("z std", "rank corr.", "AUSE", "NLL", "CRPS", "88-92 %?"),
)
SHIFT_HEADINGS = (
    *("property", "asked about", "rows", "MAE", "plain", "family", "weighted", "width plain"),
    *("weighted", "unbounded", "eff. size", "promise", "flagged", "by distance"),
)


def test_rows(table: LabelledCrystals) -> LabelledCrystals:
    return table.select(torch.tensor([note == "test" for note in table.notes["split"]]))


def shipped(table: LabelledCrystals) -> list[dict]:
    rows = []
    for path in shipped_files():
        model = load_model(path)
        held_out = test_rows(table)
        for column in model.columns:
            scores = evaluate_predictor(model.view(column), held_out)
            rows.append({"file": path.name, "column": column, **scores})
    print_table(
        SHIPPED_HEADINGS,
        [
            (
                row["column"],
                row["n_test"],
                *(100 * row["intervals"][k]["covered"] for k in ("0.50", "0.80", "0.90", "0.95")),
                row["intervals"]["0.90"]["mean_width"],
                row["miscalibration_area"],
                row["z_std"],
                row["rank_correlation_error_std"],
                row["sparsification_error"],
                row["nll"],
                row["crps"],
                "yes" if 0.88 <= row["intervals"]["0.90"]["covered"] <= 0.92 else "NO",
            )
            for row in rows
        ],
        title="Shipped predictors on their held-out rows (moduli: log10)",
    )
    return rows


def subsets(table: LabelledCrystals) -> list[dict]:
    rows = []
    held_out = test_rows(table)
    kinds = families(element_counts(held_out.crystals))
    for path in shipped_files():
        model = load_model(path)
        for place, name in enumerate(FAMILIES):
            rows += [
                {"subset": name, **row} for row in compared(model, held_out.select(kinds == place))
            ]
    rows.sort(key=lambda row: row["column"])
    print_shift("Shipped predictors, asked about one family only", rows)
    return rows


def compared(model: EnsembleModel, asked: LabelledCrystals) -> list[dict]:
    """Return what each kind of interval holds on these rows, for each property."""
    graph = model.graphs(asked.crystals)
    raw = model.raw(graph)
    in_domain, reasons = model.judge(graph, raw.distance)
    far = torch.tensor(["farther" in reason for reason in reasons])
    kinds = families(elements_of(graph))
    rows = []
    for target, column in enumerate(model.columns):
        known = torch.isfinite(asked.column(column))
        if int(known.sum()) < LEAST:
            continue
        scale, truth = model.scales[target], asked.column(column).double()[known]
        mean = raw.mean[known, target]
        std = raw.std[known, target] * model.card["calibration"][column]["std_factor"]
        row: dict = {"column": column, "n": len(truth)}
        row["mae"] = float((scale.from_learned(mean) - truth).abs().mean())
        for kind in ("split", "family", "shifted"):
            found = model.calibration_rows.factors(
                column, LEVEL, raw.features[known], kinds[known], kind=kind
            )
            low, high = (scale.from_learned(mean + s * found.factor * std) for s in (-1, 1))
            finite = torch.isfinite(high - low)
            row[kind] = coverage(truth, low, high)
            row[f"{kind}_width"] = float((high - low)[finite].mean())
            row["unbounded"] = float((~finite).double().mean())
            row["effective_size"] = float(found.effective_size[0])
            row["promise"] = "no guarantee" not in found.names[0]
        row["flagged"] = float((~in_domain[known]).double().mean())
        row["flagged_by_distance"] = float(far[known].double().mean())
        rows.append(row)
    return rows


def print_shift(title: str, rows: list[dict]) -> None:
    print_table(
        SHIFT_HEADINGS,
        [
            (
                row["column"],
                row["subset"],
                row["n"],
                row["mae"],
                *(100 * row[kind] for kind in ("split", "family", "shifted")),
                row["split_width"],
                row["shifted_width"],
                100 * row["unbounded"],
                row["effective_size"],
                "yes" if row["promise"] else "none",
                100 * row["flagged"],
                100 * row["flagged_by_distance"],
            )
            for row in rows
        ],
        title=f"{title}: % of true values in 90 % intervals, % of crystals flagged",
    )


def elements(table: LabelledCrystals, args: argparse.Namespace) -> list[dict]:
    values = torch.stack([table.column(column) for column in COLUMNS], dim=1)
    table = table.select(torch.isfinite(values).all(1))
    counts = element_counts(table.crystals)
    rows = []
    for symbol in args.elements.split(","):
        kept = args.work / f"{symbol}-{args.rows}-{args.seconds:g}-{args.seed}.json"
        if kept.exists():
            rows += json.loads(kept.read_text(encoding="utf-8"))
            continue
        has = counts[:, number(symbol)] > 0
        rng = child(args.seed, "held out", symbol)
        order = torch.randperm(len(table), generator=rng)
        others, own = order[~has[order]], order[has[order]][:1000]
        n_train, n_val = args.rows, args.rows // 5
        others = others[: n_train + n_val + 1000]
        sizes = (n_train, n_val, len(others) - n_train - n_val)
        parts = [
            name for name, n in zip(("train", "val", "test"), sizes, strict=True) for _ in range(n)
        ]
        chosen = table.select(others)
        chosen = LabelledCrystals(
            crystals=chosen.crystals, notes={"split": tuple(parts)}, source=table.source
        )
        with show() as on_event:
            model = train_predictor(
                chosen,
                COLUMNS,
                settings=TrainSettings(
                    max_atoms=MAX_ATOMS,
                    n_members=3,
                    seconds_per_member=args.seconds,
                    precision="fp32",
                ),
                folder=args.work / symbol,
                seed=args.seed,
                on_event=on_event,
            )
        found = []
        alike = chosen.select(torch.arange(n_train + n_val, len(others)))
        for name, asked in ((f"without {symbol}", alike), (f"with {symbol}", table.select(own))):
            found += [{"subset": name, **row} for row in compared(model, asked)]
        write_atomically(kept, json.dumps(found).encode())
        rows += found
        print(json.dumps(found), flush=True)
    print_shift(f"Small predictors ({args.rows:,} rows) that never saw an element", rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("MATMILL_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("what", nargs="*", default=["shipped", "subsets", "elements"])
    parser.add_argument("--data", type=Path, default=Path(shared))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "calibration")
    parser.add_argument("--elements", default="O,F,Li,Fe,Se")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=35.0, help="of each of three members")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    table = load_table(args.data)
    found = {}
    if "shipped" in args.what:
        found["shipped"] = shipped(table)
    if "subsets" in args.what:
        found["subsets"] = subsets(table)
    if "elements" in args.what:
        found["elements"] = elements(table, args)
    if args.out:
        write_atomically(args.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
