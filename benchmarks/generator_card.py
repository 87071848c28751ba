"""Write docs/cards/generator.md from the card beside the weights and the measurements.

    python benchmarks/generator_card.py
    python benchmarks/generator_card.py --sheet S.json --csp T.json V.json --conditioning C.json

Measurements that are not given are those on the card itself, if it has any.
"""

import argparse
import json
from pathlib import Path

import conditioning
import csp
import generator_curves
from generator_common import markdown
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


def sheet_table(sheet):
    """Return the sheet as a table, one column a set of crystals."""
    columns = {k: v for k, v in sheet.items() if isinstance(v, list)}
    names = list(dict.fromkeys(m["name"] for values in columns.values() for m in values))
    rows = []
    for name in names:
        cells = []
        for values in columns.values():
            found = next((m for m in values if m["name"] == name), None)
            cells.append("" if found is None else cell(found))
        rows.append([name, *cells])
    return markdown(["", *columns], rows)


def cell(metric):
    """Return one metric as a share with its counts, or a number."""
    value, top, n = metric["value"], metric["numerator"], metric["denominator"]
    if value is None or value != value:
        return "–"
    is_share = metric.get("is_share", top == int(top) and 0 <= value <= 1)
    return f"{value:.1%} ({int(top)}/{n})" if is_share else f"{value:.3g}"


def signature_tables(sheet):
    """Return the failure signatures of each set of crystals, with what to do about those found."""
    lines = []
    for name, found in sheet.get("signatures", {}).items():
        rows = [
            [
                entry["name"],
                "**found**" if entry["is_found"] else "not found",
                f"{entry['statistic']}: {entry['value']:.3g}",
                f"{entry['reference']:.3g}",
                f"{entry['limit']:.3g}",
                entry["n"],
                entry["advice"] if entry["is_found"] else "",
            ]
            for entry in found
        ]
        header = ["signature", "", "measured", "known crystals", "limit", "n", "advice"]
        lines += [f"In the {name}:", "", markdown(header, rows), ""]
    if lines:
        lines.append(
            "A share counts as too high when the lower end of the 95 % interval of its excess over "
            "known crystals is above the limit; a ratio when it is below."
        )
        lines.append("")
    return lines


def sheet_part(sheet):
    """Return the lines about a sheet of `generator_sheet.py`."""
    draws = sheet.get("draws_per_sample")
    speed = sheet.get("crystals_per_second")
    about = [f"`python {sheet['command']}`; reference: the test part of MP-20."]
    if draws:
        about.append(
            "Unscreened: before overlapping crystals are drawn again "
            f"({draws:.2f} draws a delivered crystal)."
        )
    if speed:
        about.append(f"{speed:.1f} crystals a second of one core.")
    lines = ["## Sheet", "", " ".join(about), "", sheet_table(sheet), ""]
    if found := signature_tables(sheet):
        lines += ["## Failure signatures", "", *found]
    return lines


def csp_part(runs):
    """Return the lines about structure prediction, of reports old and new."""
    lines = ["## Structure prediction", ""]
    for run in runs:
        if "by_samples" in run:
            lines += [f"`python {run['command']}`", "", csp.page(run), ""]
            continue
        lines += [
            f"`python benchmarks/csp.py`: {run['compositions']} compositions of MP-20 validation "
            f"rows, {run['samples']} sample(s) each, {run['steps']} steps:",
            "",
        ]
        for name, (value, top, n) in run["one_sample"].items():
            entry = {"value": value, "numerator": top, "denominator": n}
            lines.append(f"- one sample, {name}: {cell(entry)}")
        if "any_sample" in run:
            lines.append(f"- any of {run['samples']}: {run['any_sample']:.1%}")
            lines.append(f"- the one of lowest CHGNet energy: {run['lowest_energy']:.1%}")
        lines.append("")
    return lines


def page(card, path, results):
    """Return the whole page: the card, and what was measured."""
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
        f"{training['seconds'] / 60:.0f} minutes. {card.get('note', '')}".rstrip(),
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
    if sheet := results.get("sheet"):
        lines += sheet_part(sheet)
    if runs := results.get("csp"):
        lines += csp_part(runs)
    if found := results.get("conditioning"):
        lines += ["## Conditions", "", f"`python {found['command']}`", "", conditioning.page(found)]
        lines.append("")
    if found := results.get("curves"):
        lines += ["## Network calls and precision", "", f"`python {found['command']}`", ""]
        lines += [generator_curves.page(found), ""]
    lines += [
        "## Limits",
        "",
        f"- Ordered crystals of at most {card['max_atoms']} atoms in the primitive cell; no noble "
        "gases.",
        "- Soft symmetry is a wish, not a constraint: the space group that is found can differ "
        "from the one that was asked for. Every output says both.",
        "- Moduli were known for few training crystals (see the table): expect weak steering.",
        "- Energies and gaps of the training crystals are PBE; gaps are too small by nature.",
        "- Large cells are learned last: see the match rate by size.",
        "",
    ]
    return "\n".join(lines)


def read(path):
    """Return a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ASSETS / "flow.safetensors")
    parser.add_argument("--sheet", type=Path, help="JSON of benchmarks/generator_sheet.py")
    parser.add_argument("--csp", type=Path, nargs="*", help="JSON files of benchmarks/csp.py")
    parser.add_argument("--conditioning", type=Path, help="JSON of benchmarks/conditioning.py")
    parser.add_argument("--curves", type=Path, help="JSON of benchmarks/generator_curves.py")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "cards" / "generator.md")
    arguments = parser.parse_args()
    _, card = checkpoint.load(arguments.model)
    results = dict(card.get("scores", {}))
    if arguments.csp:
        results["csp"] = [read(path) for path in arguments.csp]
    for name in ("sheet", "conditioning", "curves"):
        if given := getattr(arguments, name):
            results[name] = read(given)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(card, arguments.model, results), encoding="utf-8")


if __name__ == "__main__":
    main()
