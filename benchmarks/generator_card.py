"""Write docs/cards/generator.md from the card beside the shipped weights.

python benchmarks/generator_card.py
"""

import argparse
from pathlib import Path

from matmill.crystals.elements import SYMBOLS
from matmill.generate.protocol import ASSETS
from matmill.quantities import BY_COLUMN
from matmill.training import checkpoint

ROOT = Path(__file__).parents[1]


def conditions(card):
    """Return the table of what can be asked for."""
    lines = [
        "| condition | trained from | to | unit | training crystals |",
        "|---|---|---|---|---|",
    ]
    for column, entry in card["conditions"].items():
        if entry["low"] is None:
            continue
        quantity = BY_COLUMN[column]
        lines.append(
            f"| {quantity.name} | {entry['low']:.3g} | {entry['high']:.3g} | {quantity.unit} "
            f"| {entry['count']:,} |"
        )
    return lines


def scores(card):
    """Return the sheet as a table, one column a set of crystals."""
    columns = {k: v for k, v in card["scores"]["sheet"].items() if isinstance(v, list)}
    names = list(dict.fromkeys(m["name"] for values in columns.values() for m in values))
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in names:
        cells = []
        for values in columns.values():
            found = next((m for m in values if m["name"] == name), None)
            cells.append("" if found is None else cell(found))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def cell(metric):
    """Return one metric as a share with its counts, or a number."""
    value, top, n = metric["value"], metric["numerator"], metric["denominator"]
    if value is None or value != value:
        return "–"
    if top == int(top) and 0 <= value <= 1:
        return f"{value:.1%} ({int(top)}/{n})"
    return f"{value:.3g}"


def page(card, path):
    """Return the whole page."""
    training, data = card["training"], card["data"]
    lines = [
        "# The shipped generator",
        "",
        "Made by `benchmarks/generator_card.py` from the card beside the weights; do not edit.",
        "",
        f"Size {card['size']}, {card['n_parameters']:,} parameters, stored as "
        f"{card.get('stored_as', 'float32')} ({path.stat().st_size / 1e6:.1f} MB). "
        f"Cells of at most {card['max_atoms']} atoms.",
        "",
        f"Trained on {data['crystals_used']:,} crystals for {training['views'] / 1e6:.2f} million "
        f"views: {training['steps']:,} steps, {training['epochs']} epochs, "
        f"{training['seconds'] / 60:.0f} minutes on one core of a 2-core AMD EPYC (bfloat16), "
        "in two sittings of 90 and 22 minutes; the learning rate fell to zero at the end of each.",
        "",
        *[f"- {name}: {count:,} crystals" for name, count in card["sources"].items()],
        f"- Command: `{card['command']}`",
        f"- Attribution: {card['attribution']}",
        f"- Licence: {card['licence']}",
        "",
        "## What can be asked for",
        "",
        *conditions(card),
        "",
        "Space group, crystal system, chemical system, composition and number of atoms as well. "
        f"Elements: {', '.join(SYMBOLS[z] for z in card['elements'])}.",
        "",
    ]
    if "scores" in card:
        lines += [
            "## Sheet",
            "",
            "`python benchmarks/generator_sheet.py --generator flow -n 1000`; reference: the test "
            "part of MP-20. Unscreened: before overlapping crystals are drawn again "
            f"({card['scores']['sheet']['draws_per_sample']:.2f} draws a delivered crystal).",
            "",
            *scores(card),
            "",
            "## Structure prediction",
            "",
            "`python benchmarks/csp.py`: compositions of MP-20 validation rows.",
            "",
        ]
        for run in card["scores"]["csp"]:
            lines.append(
                f"{run['compositions']} compositions, {run['samples']} sample(s) each, "
                f"{run['steps']} steps:"
            )
            lines.append("")
            for name, (value, top, n) in run["one_sample"].items():
                lines.append(f"- one sample, {name}: {cell_of(value, top, n)}")
            if "any_sample" in run:
                lines.append(f"- any of {run['samples']}: {run['any_sample']:.1%}")
                lines.append(f"- the one of lowest CHGNet energy: {run['lowest_energy']:.1%}")
            lines.append("")
    lines += [
        "## Limits",
        "",
        "- Ordered crystals of at most 20 atoms in the primitive cell; no noble gases.",
        "- Symmetry is a wish, not a constraint: the found space group can differ from the one "
        "asked for.",
        "- Moduli were known for few training crystals (see the table): expect weak steering.",
        "- Energies and gaps of the training crystals are PBE; gaps are too small by nature.",
        "- Large cells are learned last: see the match rate by size.",
        "",
    ]
    return "\n".join(lines)


def cell_of(value, top, n):
    """Return a metric given as three numbers."""
    return cell({"value": value, "numerator": top, "denominator": n})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "cards" / "generator.md")
    arguments = parser.parse_args()
    path = ASSETS / "flow.safetensors"
    _, card = checkpoint.load(path)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(card, path), encoding="utf-8")


if __name__ == "__main__":
    main()
