"""``report.html``: a scorecard as one page that opens offline, with charts and crystals to turn."""

import json
import math
from collections.abc import Sequence
from importlib.resources import files as resources
from typing import Any

from matmill import __version__, charts
from matmill.crystals import viewing
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system
from matmill.verify.patience import patiently
from matmill.verify.published import TABLES
from matmill.verify.samples import Samples
from matmill.verify.scorecard.card import Scorecard
from matmill.verify.scorecard.distributions import OF
from matmill.verify.scorecard.space_groups import groups_of
from matmill.verify.scorecard.symmetry import drawn
from matmill.verify.statuses import Status

N_SHOWN = 6
"""Best crystals that are shown, and as many of the worst."""

_COLUMNS = {
    "density": "density_g_cm3",
    "volume_per_atom": "volume_per_atom_a3",
    "n_sites": "n_sites",
    "n_elements": "n_elements",
}


def render(
    card: Scorecard,
    samples: Samples,
    reference: CrystalBatch | None = None,
    test: CrystalBatch | None = None,
) -> str:
    """Return the page.

    Args:
        card: The scorecard.
        samples: What it is about, for the crystals that are shown.
        reference: The training set.
        test: The test set; compared with instead of the training set where the protocol says so.
    """
    import jinja2

    source = resources("matmill.verify.scorecard").joinpath("page.html.j2")
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        source.read_text(encoding="utf-8")
    )
    sets = {"test": test, "reference": reference}
    first = card.basis.protocol.distributions.against
    other = sets[first] if sets[first] is not None else (test if test is not None else reference)
    crystals, styles = _crystals(card, samples)
    return template.render(
        card=card,
        protocol=card.basis.protocol,
        version=__version__,
        compared="" if other is None else f"{len(other):,} crystals",
        groups=[
            (title, [(n.label, *n.shown(), n.note) for n in numbers])
            for title, numbers in card.groups.items()
        ],
        statuses=charts.bars(card.statuses, title="Samples of each status"),
        meanings=[
            (name, count, _meaning(name), _first_reason(card, name))
            for name, count in card.statuses.items()
        ],
        histograms=_histograms(card, other),
        systems=_systems(card, other),
        hull=_hull(card),
        published=_published(card),
        record=json.dumps(card.basis.model_dump(mode="json"), indent=2, ensure_ascii=False),
        viewer=viewing.viewer(),
        styles=viewing.script(styles),
        crystals=viewing.script(crystals),
        names=[crystal["name"] for crystal in crystals],
    )


def ranked(card: Scorecard) -> list[dict[str, Any]]:
    """Return the rows that have a crystal, the best first.

    By the distance to the hull where there is one; what has none is behind, by how near the
    smallest distance is to the sum of the covalent radii; impossible geometries come last.
    """

    def badness(row: dict[str, Any]) -> tuple[int, float]:
        above = row.get("energy_above_hull_ev_per_atom")
        ratio = row["smallest_distance_ratio"]
        if above is not None and math.isfinite(above):
            return 0, above
        if not row["is_geometry_valid"]:
            return 3, -ratio if math.isfinite(ratio) else math.inf
        failed = row["status"] != Status.OK
        return (2 if failed else 1), abs(ratio - 1.0) if math.isfinite(ratio) else 10.0

    return sorted((row for row in card.rows if row["formula"] is not None), key=badness)


def _histograms(card: Scorecard, other: CrystalBatch | None) -> list[str]:
    drawings = []
    for key, column in _COLUMNS.items():
        label, unit, of = OF[key]
        mine = [float(row[column]) for row in card.rows if row.get(column) is not None]
        theirs = [] if other is None else of(other).tolist()
        title = f"{label[0].upper()}{label[1:]}" + (f" ({unit})" if unit else "")
        drawings.append(charts.compared(mine, theirs, title=title))
    symprec = card.basis.protocol.symmetry.symprec_a
    groups = [
        float(row[f"space_group_{symprec:g}"])
        for row in card.rows
        if row.get(f"space_group_{symprec:g}") is not None
    ]
    theirs = [float(group) for group in _groups(card, other)]
    title = f"Space group number (symprec {symprec:g} Å)"
    return [*drawings, charts.compared(groups, theirs, title=title)]


def _groups(card: Scorecard, other: CrystalBatch | None) -> list[int]:
    if other is None:
        return []
    protocol = card.basis.protocol
    return groups_of(drawn(other, card.seed), protocol, protocol.symmetry.symprec_a)[0].tolist()


def _systems(card: Scorecard, other: CrystalBatch | None) -> str:
    mine = [row["crystal_system"] for row in card.rows if row.get("crystal_system")]
    theirs = [crystal_system(group) for group in _groups(card, other)]
    return charts.paired_bars(_shares(mine), _shares(theirs) if theirs else {}, title="Systems")


def _shares(names: Sequence[str]) -> dict[str, float]:
    return {name: names.count(name) / max(len(names), 1) for name in CRYSTAL_SYSTEMS}


def _hull(card: Scorecard) -> str:
    column = "energy_above_hull_ev_per_atom"
    values = [row[column] for row in card.rows if row.get(column) is not None]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    limit = card.basis.protocol.stability.msun_ev_per_atom
    # Far outliers are many eV up and would hide the part that matters.
    shown = [min(value, 1.0) for value in values]
    title = "Energy above hull (eV/atom); the last bin holds what lies beyond 1"
    return charts.histogram(shown, title=title, limit=limit, width=640)


def _published(card: Scorecard) -> list[dict[str, Any]]:
    numbers = card.numbers
    tables = []
    for table in TABLES:
        ours = []
        for _, key in table.columns:
            number = numbers.get(key)
            if number is None or math.isnan(number.value):
                ours.append("–")
            else:
                value = 100 * number.value if number.is_share else number.value
                ours.append(_figure(value))
        if all(cell == "–" for cell in ours):
            continue
        tables.append(
            {
                "title": table.title,
                "source": table.source,
                "protocol": table.protocol,
                "heads": [head for head, _ in table.columns],
                "ours": ours,
                "rows": [
                    (name, ["–" if v is None else _figure(v) for v in values], mark)
                    for name, values, mark in table.rows
                ],
                "is_nearest": table.preset == card.basis.protocol.name,
                "preset": table.preset,
            }
        )
    return sorted(tables, key=lambda table: not table["is_nearest"])


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _meaning(name: str) -> str:
    if name == "missing":
        return "Requested of the generator and never found."
    return Status(name).explanation


def _first_reason(card: Scorecard, name: str) -> str:
    reasons = (row["reason"] for row in card.rows if row["status"] == name and row["reason"])
    return next(reasons, "")


def _crystals(
    card: Scorecard, samples: Samples
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the best and the worst crystals as the viewer takes them, and their styles."""
    order = ranked(card)
    n = min(N_SHOWN, (len(order) + 1) // 2)
    worst = order[max(n, len(order) - n) :][::-1]
    chosen = [("best", row) for row in order[:n]] + [("worst", row) for row in worst]
    crystal_of = {entry: i for i, entry in enumerate(samples.place.tolist())}
    rows = [crystal_of[row["position"] - 1] for _, row in chosen]
    batch = samples.crystals.select(rows)
    names = [
        f"{kind} {k % n + 1}: {row['formula']} ({row['name']})"
        for k, (kind, row) in enumerate(chosen)
    ]
    facts = [_facts(row) for _, row in chosen]

    def draw(part: list[int]) -> list[dict[str, Any]]:
        is_roomy = all(chosen[i][1]["smallest_distance_a"] >= 0.5 for i in part)
        return viewing.entries(
            batch.select(part),
            [names[i] for i in part],
            [facts[i] for i in part],
            symprec=0.01 if is_roomy else None,
        )

    found, _ = patiently(draw, range(len(rows)), chunk=1)
    return list(found.values()), viewing.styles(batch)


def _facts(row: dict[str, Any]) -> str:
    hidden = {"position", "name", "formula", "row"}
    lines = []
    for key, value in row.items():
        if key in hidden or value is None or value == "":
            continue
        if isinstance(value, float):
            if not math.isfinite(value):
                continue
            value = f"{value:.4g}"
        lines.append(f"{key:<40} {value}")
    return "\n".join(lines)
