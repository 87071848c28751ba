"""Write docs/cards/predictors.md from the cards beside the shipped weights.

Usage: python benchmarks/predictor_card.py [--out FILE]
"""

import argparse
import json
from pathlib import Path

from matmill.crystals.elements import SYMBOLS
from matmill.predict.protocol import shipped_files
from matmill.quantities import BY_COLUMN

ROOT = Path(__file__).parents[1]


def _number(value, digits=3):
    return "–" if value is None else f"{value:.{digits}f}"


def _accuracy(card):
    lines = [
        "| property | train / test rows | MAE | median error | R² | MAE of one member "
        "| composition only (trees) | always the median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column, scores in card["scores"].items():
        quantity = BY_COLUMN[column]
        baseline = card["baselines"][column]
        labels = card["data"]["labels"][column]
        digits = 1 if quantity.log else 3
        single = sum(scores["mae_of_single_members"]) / len(scores["mae_of_single_members"])
        mae = f"{_number(scores['mae'], digits)} {quantity.unit}"
        trees = f"{_number(baseline.get('composition_trees_mae'))} {quantity.unit}"
        if quantity.log:
            mae += f" ({scores['mae_log10']:.3f} log10)"
            trees = f"{baseline['composition_trees_mae_log10']:.3f} log10"
        lines.append(
            f"| {quantity.label} | {labels['train']:,} / {scores['n_test']:,} | {mae} "
            f"| {_number(scores['median_error'], digits)} | {scores['r2']:.3f} "
            f"| {_number(single, digits)} | {trees} "
            f"| {_number(baseline['median_mae'], digits)} {quantity.unit} |"
        )
    return lines


def _calibration(card):
    lines = [
        "| property | 50 % | 80 % | 90 % | 95 % | mean width at 90 % | miscalibration area "
        "| spread of error ÷ σ | rank correlation of error and σ | in domain: share, MAE "
        "| outside: MAE |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for column, scores in card["scores"].items():
        quantity = BY_COLUMN[column]
        levels = [
            f"{100 * scores['intervals'][k]['covered']:.1f} %"
            for k in ("0.50", "0.80", "0.90", "0.95")
        ]
        unit = "log10" if quantity.log else quantity.unit
        digits = 1 if quantity.log else 3
        lines.append(
            f"| {quantity.label} | {' | '.join(levels)} "
            f"| {scores['intervals']['0.90']['mean_width']:.3f} {unit} "
            f"| {scores['miscalibration_area']:.3f} "
            f"| {_number(scores.get('z_std'), 2)} "
            f"| {scores['rank_correlation_error_std']:.2f} "
            f"| {100 * scores['share_in_domain']:.1f} %, "
            f"{_number(scores['mae_in_domain'], digits)} "
            f"| {_number(scores['mae_out_of_domain'], digits)} |"
        )
    return lines


def _lowest_family(card):
    for column, scores in card["scores"].items():
        families = scores.get("covered_by_family", {})
        if families:
            name = min(families, key=lambda family: families[family]["covered"])
            entry = families[name]
            label = BY_COLUMN[column].label
            yield f"{label} {100 * entry['covered']:.1f} % ({name}, {entry['n']} rows)"


def _section(path):
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    data, training = card["data"], card["training"]
    seconds = sum(entry["seconds"] for entry in training.values())
    elements = ", ".join(SYMBOLS[z] for z in card["elements_z"])
    ranges = [
        f"- {BY_COLUMN[s['column']].label}: {s['low']:.4g} to {s['high']:.4g} "
        f"{BY_COLUMN[s['column']].unit}"
        for s in card["scales"]
        if s["column"] in card["columns"]
    ]
    steps = "; ".join(
        f"{name}: {e['steps']:,} steps, {e['epochs']} epochs" for name, e in training.items()
    )
    bonds = card.get("shortest_bond_angstrom")
    return [
        f"## {path.name}",
        "",
        f"{card['n_members']} networks ({card['network']}, {card['n_neighbors']} nearest "
        f"neighbours within {card['cutoff_angstrom']:g} Å), {path.stat().st_size / 1e6:.1f} MB, "
        f"SHA-256 `{card['weights_sha256']}`.",
        f"Made by `{card['command']}` (seed {card['seed']}, matmill {card['matmill_version']}); "
        f"{seconds / 60:.0f} minutes on one thread of a busy machine. {steps}.",
        "",
        f"**Data.** {data['n_crystals']:,} crystals of `{data['source']}` with at most "
        f"{data['largest_cell_atoms']} atoms, content hash `{data['content_hash']}`. Training, "
        "validation and test rows share no reduced formula. " + " ".join(card["attribution"]),
        f"**Licence.** {card['licence']}",
        "",
        "### Accuracy on the test rows",
        "",
        *_accuracy(card),
        "",
        "The tree baseline (scikit-learn gradient boosting on element fractions and element "
        "statistics) was trained and tested on the same rows.",
        "",
        "### Error bars on the test rows",
        "",
        "Share of true values inside the split-conformal intervals, calibrated on the validation "
        "rows.",
        "",
        *_calibration(card),
        "",
        "The lowest coverage of 90 % intervals within a family of compounds: "
        + "; ".join(_lowest_family(card))
        + ".",
        "",
        "### Where it may be used",
        "",
        "Trained range:",
        "",
        *ranges,
        "",
        f"Elements seen: {elements}.",
        "",
        "A prediction is flagged as out of domain when an element was never seen, the shortest "
        + (f"bond is outside {bonds[0]:g}–{bonds[1]:g} Å, " if bonds else "")
        + "or the learned features lie farther from their nearest training crystals than those of "
        "99 % of the validation rows. Distance alone hardly notices an element that was never "
        "seen; the list of elements does (`benchmarks/calibration.py elements`).",
        "",
        "### Limits",
        "",
        *[f"- {limit}" for limit in card["limits"]],
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "cards" / "predictors.md")
    args = parser.parse_args()
    lines = [
        "# Shipped predictors",
        "",
        "Generated by `python benchmarks/predictor_card.py` from the cards beside the weights; do "
        "not edit. Density, volume per atom and number of elements are computed, not predicted.",
        "",
    ]
    for path in shipped_files():
        lines += _section(path)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
