"""Extending the hull that ships: merging new energies into its table, and updating its card.

The table has one crystal a formula and how many were computed, so new crystals can be added and
relaxed ones lowered without the energies of all others.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hull_common import WORK
from matmill.verify.hull import ON_HULL
from matmill.verify.hull_entries import HullEntries, reduced


@dataclass(frozen=True)
class Added:
    """What was computed beyond the table.

    Attributes:
        energy_ev_per_atom: By id, as given.
        relaxed_ev_per_atom: By id, relaxed; only those that converged.
    """

    energy_ev_per_atom: dict[str, float]
    relaxed_ev_per_atom: dict[str, float]


def read_added(counts: dict[str, np.ndarray]) -> Added:
    """Return what ``build_hull_energies.py --extend`` and ``build_hull_relax.py`` left.

    Args:
        counts: Atoms of each element in the cell, by id.
    """

    def read(pattern: str) -> list[dict[str, Any]]:
        return [
            row for path in sorted(WORK.glob(pattern)) for row in pq.read_table(path).to_pylist()
        ]

    def per_atom(rows: list[dict[str, Any]]) -> dict[str, float]:
        values = {r["material_id"]: r["energy_ev"] / counts[r["material_id"]].sum() for r in rows}
        return {key: float(value) for key, value in values.items() if np.isfinite(value)}

    relaxed = [row for row in read("relaxed/[0-9]*.parquet") if row["converged"]]
    return Added(per_atom(read("energies/extend_*.parquet")), per_atom(relaxed))


def merge(entries: HullEntries, added: Added, counts: dict[str, np.ndarray]) -> HullEntries:
    """Return the table with what was added; distances are left out, they are another.

    Args:
        entries: The table that ships.
        added: New energies.
        counts: Of every given crystal, by id.
    """
    keys = list(counts)
    rows = reduced(np.stack([counts[key] for key in keys]))
    formula_of = {key: row.tobytes() for key, row in zip(keys, rows, strict=True)}
    row_of = {formula_of[key]: row for key, row in zip(keys, rows, strict=True)}
    given = Counter(formula_of[key] for key in keys if not key.startswith("ref:"))
    best: dict[bytes, tuple[float, bool, str]] = {}
    known: dict[bytes, int] = {}
    computed: dict[bytes, set[str]] = defaultdict(set)
    for i, row in enumerate(entries.counts):
        formula = row.tobytes()
        key = entries.ids[i]
        energy, relaxed = float(entries.energy_ev_per_atom[i]), bool(entries.relaxed[i])
        if not relaxed and key in added.relaxed_ev_per_atom:
            energy, relaxed = added.relaxed_ev_per_atom[key], True
        best[formula] = energy, relaxed, key
        row_of[formula], known[formula] = row, int(entries.n_crystals[i])
        computed[formula].add(key)
    for key, as_given in added.energy_ev_per_atom.items():
        formula = formula_of[key]
        computed[formula].add(key)
        energy = added.relaxed_ev_per_atom.get(key, as_given)
        if formula not in best or energy < best[formula][0]:
            best[formula] = energy, key in added.relaxed_ev_per_atom, key
    order = sorted(best, key=lambda formula: best[formula][2])

    def n_crystals(formula: bytes) -> int:
        mine = sum(not key.startswith("ref:") for key in computed[formula])
        n = given[formula] if mine >= given[formula] else max(known.get(formula, 0), mine)
        return max(n, 1)

    return HullEntries(
        counts=np.stack([row_of[formula] for formula in order]),
        energy_ev_per_atom=np.round([best[formula][0] for formula in order], 6),
        relaxed=np.array([best[formula][1] for formula in order]),
        n_crystals=np.array([n_crystals(formula) for formula in order]),
        ids=[best[formula][2] for formula in order],
    )


def all_energies(
    tables: Sequence[HullEntries], added: Added, counts: dict[str, np.ndarray]
) -> pa.Table:
    """Return energies by id in the layout of `build_hull.load_energies`, of all that is at hand.

    Args:
        tables: The new table and the one before, which has crystals that were lowest then.
        added: New energies.
        counts: Of every given crystal, by id.
    """
    energy = dict(added.energy_ev_per_atom)
    lowered = dict(added.relaxed_ev_per_atom)
    for table in tables:
        for key, value, relaxed in zip(
            table.ids, table.energy_ev_per_atom, table.relaxed, strict=True
        ):
            energy.setdefault(key, float(value))
            if relaxed:
                lowered.setdefault(key, float(value))
    ids = list(energy)
    n_atoms = np.array([int(counts[key].sum()) for key in ids])
    total = np.array([energy[key] for key in ids]) * n_atoms
    relaxed_total = np.array([lowered.get(key, np.nan) for key in ids]) * n_atoms
    return pa.table(
        {
            "material_id": ids,
            "n_atoms": n_atoms,
            "energy_ev": total,
            "relaxed_ev": relaxed_total,
        }
    )


def rise(before: HullEntries, after: HullEntries, distance: np.ndarray) -> float:
    """Return by how much the hull is higher at most, eV per atom; new entries can only lower it.

    Args:
        before: The table that ships, with distances.
        after: The new table.
        distance: Of the new entries to their hull.
    """
    assert before.above_hull_ev_per_atom is not None
    floor = after.energy_ev_per_atom - distance
    now = {row.tobytes(): value for row, value in zip(after.counts, floor, strict=True)}
    then = before.energy_ev_per_atom - before.above_hull_ev_per_atom
    return max(
        float(now[row.tobytes()] - value) for row, value in zip(before.counts, then, strict=True)
    )


def update_card(
    card: dict[str, Any],
    before: HullEntries,
    after: HullEntries,
    distance: np.ndarray,
    *,
    about: dict[str, Any],
    n_given: int,
    calibration: dict[str, Any],
) -> dict[str, Any]:
    """Return the card with new counts and calibration; what cannot be known again stays.

    Args:
        card: The card of the table that ships.
        before: That table.
        after: The new table.
        distance: Of the new entries to their hull.
        about: Name, potential and scheme.
        n_given: Crystals given.
        calibration: Measured anew.
    """
    vertices, near = distance <= ON_HULL, distance <= 0.03
    counts = dict(card["counts"])
    counts["crystals_computed"] += int(after.n_crystals.sum() - before.n_crystals.sum())
    counts |= {
        "crystals_given": n_given,
        "formulas": len(after.ids),
        "vertices": int(vertices.sum()),
        "within_30_mev": int(near.sum()),
    }
    relaxation = dict(card["relaxation"])
    relaxation |= {
        "vertices_relaxed": f"{int(after.relaxed[vertices].sum())} of {int(vertices.sum())}",
        "within_30_mev_relaxed": f"{int(after.relaxed[near].sum())} of {int(near.sum())}",
        "note": "The statistics of relaxation are those of the first version of this table.",
    }
    return {
        **card,
        **{key: about[key] for key in ("name", "scheme", "version")},
        "command": [
            *[line for line in card["command"] if "--extend" not in line],
            "python benchmarks/build_hull_energies.py --extend",
            "python benchmarks/build_hull.py --extend",
        ],
        "counts": counts,
        "relaxation": relaxation,
        "calibration": calibration,
    }
