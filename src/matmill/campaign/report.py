"""``report.html``: one self-contained page about a run, to open offline, print or send."""

import json
import math
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from matmill import __version__, charts
from matmill.campaign import provenance
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.ranking import target_value
from matmill.campaign.results import FEW_ENTRIES, Results
from matmill.campaign.store import Store
from matmill.crystals import viewing
from matmill.crystals.lattice import to_parameters
from matmill.crystals.symmetry import SYMPREC
from matmill.quantities import BY_COLUMN
from matmill.verify.verdict import Fate


def write(
    store: Store,
    results: Results,
    settings: CampaignSettings,
    path: Path,
    *,
    warnings: list[str] | None = None,
) -> None:
    """Write the report of a run."""
    import jinja2

    folder = resources("matmill.campaign")
    source = folder.joinpath("report.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(source)
    request = results.request
    columns = predicted_columns(results)
    heads, rows = _table(results, columns)
    record = provenance.make(store, results, settings)
    text = template.render(
        title=_title(results),
        version=__version__,
        seed=request.seed,
        elements=", ".join(request.elements or ()),
        exclude=", ".join(request.exclude),
        targets=[target.describe() for target in request.parsed],
        n_wanted=request.n,
        n_delivered=len(results.delivered),
        n_on_target=results.n_on_target,
        warnings=warnings or [],
        funnel=charts.bars(results.funnel, title="Number of candidates after each step"),
        fates=[(fate, n, Fate(fate).explanation) for fate, n in results.fates.items()],
        heads=heads,
        rows=rows,
        hull_name=next((r["hull_name"] for r in results.rows if r.get("hull_name")), ""),
        charts=_charts(results, columns),
        hull_chart=_hull_chart(results),
        record=json.dumps(record, indent=2, ensure_ascii=False),
        viewer=viewing.viewer(),
        styles=viewing.script(viewing.styles(results.crystals)),
        crystals=viewing.script(_crystals(results)),
    )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def predicted_columns(results: Results) -> list[str]:
    """Return the columns worth showing: targets first, then everything that was predicted."""
    present = {name for row in results.rows for name in row if name in BY_COLUMN}
    wanted = [t.column for t in results.request.parsed]
    others = [c for c, q in BY_COLUMN.items() if c in present and (not q.exact or c in wanted)]
    return [c for c in dict.fromkeys([*wanted, *others]) if c in present]


def with_error(row: dict[str, Any], column: str) -> str:
    """Return ``"2.03 ± 0.21"``, or the plain value where it is exact."""
    value, std = row.get(column), row.get(f"{column}_std")
    if value is None:
        return "–"
    digits = 1 if abs(value) >= 100 else 2
    if std is None:
        return f"{value:.{digits}f}"
    mark = "" if row.get(f"{column}_in_domain", True) else " ?"
    return f"{value:.{digits}f} ± {std:.{digits}f}{mark}"


def entries_text(row: dict[str, Any]) -> str:
    """Return how many known crystals the hull has in this system, marked when they are few."""
    n = row.get("n_competitors")
    return "–" if n is None else f"{n}{'' if n >= FEW_ENTRIES else ' !'}"


def known_text(row: dict[str, Any]) -> str:
    """Return whether a crystal is new, or which known one it is."""
    if row.get("known_as") is None:
        return "novel"
    return f"known: {row['known_as']}" + ("" if row.get("known_is_confirmed") else " (likely)")


def _title(results: Results) -> str:
    request = results.request
    what = ", ".join(request.targets) or "any property"
    where = request.formula or ("-".join(request.elements) if request.elements else "")
    return f"Design: {what}" + (f" in {where}" if where else "")


def _table(results: Results, columns: list[str]) -> tuple[list[str], list[list[dict[str, Any]]]]:
    heads = ["rank", "formula", "space group", "atoms", "E above hull (eV/atom)", "entries"]
    heads += [BY_COLUMN[c].title for c in columns] + ["P(targets)", "novelty", "score"]
    rows = []
    for row in results.rows:
        above = row["energy_above_hull_ev_per_atom"]
        mark = " *" if row["is_filled"] else ""
        cells: list[Any] = [
            row["rank"],
            row["formula"],
            f"{row['space_group_symbol']} ({row['space_group']})",
            row["n_atoms"],
            f"{above:.3f}{mark}",
            entries_text(row),
            *(with_error(row, c) for c in columns),
            f"{row['target_probability']:.2f}",
            known_text(row),
            f"{row['score']:.3f}",
        ]
        words = {1, 2, len(cells) - 2}
        rows.append([{"text": cell, "n": i not in words} for i, cell in enumerate(cells)])
    return heads, rows


def _charts(results: Results, columns: list[str]) -> list[str]:
    made = []
    for target in results.request.parsed:
        rows = []
        for row in results.rows:
            mean, std = target_value(target, row)
            rows.append((row["name"], math.nan if mean is None else mean, std or 0.0))
        title = target.quantity.title
        made.append(charts.intervals(rows, title=title, low=target.low, high=target.high))
    if not made:
        for column in columns[:4]:
            values = [row[column] for row in results.rows if row.get(column) is not None]
            made.append(charts.histogram(values, title=BY_COLUMN[column].title))
    return made


def _hull_chart(results: Results) -> str:
    values = [
        c.values["energy_above_hull_ev_per_atom"]
        for c in results.candidates
        if c.values.get("energy_above_hull_ev_per_atom") is not None
    ]
    return charts.histogram(
        values,
        title="Energy above hull (eV/atom)",
        limit=results.request.hull_threshold_ev_per_atom,
        width=640,
    )


def _crystals(results: Results) -> list[dict[str, Any]]:
    """Return what the viewer draws."""
    parameters = to_parameters(results.crystals.lattice).tolist()
    names = [f"{row['name']}   {row['space_group_symbol']}" for row in results.rows]
    facts = [_facts(row, cell) for row, cell in zip(results.rows, parameters, strict=True)]
    return viewing.entries(results.crystals, names, facts, symprec=SYMPREC)


def _facts(row: dict[str, Any], cell: list[float]) -> str:
    a, b, c, alpha, beta, gamma = cell
    lines = [
        f"cell          {a:.3f} {b:.3f} {c:.3f} Å   {alpha:.1f} {beta:.1f} {gamma:.1f}°",
        f"energy        {row.get('energy_ev_per_atom', math.nan):.4f} eV/atom",
        f"above hull    {row['energy_above_hull_ev_per_atom']:.4f} eV/atom",
        f"relaxation    {row.get('n_relax_steps', '–')} steps, "
        f"{row.get('energy_drop_ev_per_atom', math.nan):.3f} eV/atom gained",
        f"novelty       {known_text(row)}",
    ]
    lines += [
        f"{q.name:<26} {with_error(row, column)} {q.unit}"
        for column, q in BY_COLUMN.items()
        if row.get(column) is not None
    ]
    return "\n".join(lines)
