"""The table behind a hull: the lowest known entry of each formula, and its file.

A file of this kind is written by the scripts that compute a hull with one potential; files that
people bring are read by `hull_reference`.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from matmill.crystals.elements import SYMBOLS

_WORDS = 2  # 64-bit words that hold a set of elements


@dataclass(frozen=True)
class HullEntries:
    """The lowest known entry of each reduced formula.

    Attributes:
        counts: Atoms of each element in the reduced formula, ``(n_entries, 119)``.
        energy_ev_per_atom: In the scheme of the hull, ``(n_entries,)``. NaN says that the crystal
            matters but was not computed: nothing is known of the systems that contain it.
        relaxed: Whether the crystal was relaxed with the hull's method, ``(n_entries,)``.
        n_crystals: Known crystals with this formula, this one included, ``(n_entries,)``.
        ids: Id of the crystal in its database.
        above_hull_ev_per_atom: Distance of each entry to the hull of all of them, where known:
            only vertices can matter for others, so the rest is left out of every solution.
    """

    counts: np.ndarray
    energy_ev_per_atom: np.ndarray
    relaxed: np.ndarray
    n_crystals: np.ndarray
    ids: list[str]
    above_hull_ev_per_atom: np.ndarray | None = None


def reduced(counts: Int[np.ndarray, "n 119"]) -> Int[np.ndarray, "n 119"]:
    """Return compositions without their common divisor; an empty one stays empty."""
    if not len(counts):
        return counts.astype(np.int32)
    divisor = np.maximum(np.gcd.reduce(counts, axis=1), 1)
    return (counts // divisor[:, None]).astype(np.int32)


def lowest_of_each_formula(
    counts: Int[np.ndarray, "n 119"], energy_ev_per_atom: np.ndarray, ids: list[str]
) -> HullEntries:
    """Return the lowest row of each reduced formula, in the order in which formulas come first."""
    rows = reduced(counts)
    best: dict[bytes, int] = {}
    members: dict[bytes, int] = {}
    for i, row in enumerate(rows):
        key = row.tobytes()
        members[key] = members.get(key, 0) + 1
        if key not in best or energy_ev_per_atom[i] < energy_ev_per_atom[best[key]]:
            best[key] = i
    chosen = list(best.values())
    return HullEntries(
        counts=rows[chosen],
        energy_ev_per_atom=energy_ev_per_atom[chosen].astype(np.float64),
        relaxed=np.zeros(len(chosen), dtype=bool),
        n_crystals=np.array(list(members.values()), dtype=np.int64),
        ids=[ids[i] for i in chosen],
    )


def element_masks(present: np.ndarray) -> np.ndarray:
    """Return sets of elements as bits, ``(n, 2)`` of uint64, from a table of bools ``(n, 119)``."""
    padded = np.zeros((len(present), 64 * _WORDS), dtype=np.uint8)
    padded[:, : present.shape[1]] = present
    return np.packbits(padded, axis=1).view(np.uint64)


def counts_from_lists(elements: pa.ListArray, amounts: pa.ListArray) -> np.ndarray:
    """Return compositions, ``(n, 119)``, from lists of atomic numbers and of amounts."""
    sizes = np.diff(elements.offsets.to_numpy())
    rows = np.repeat(np.arange(len(elements)), sizes)
    counts = np.zeros((len(elements), len(SYMBOLS)), dtype=np.int32)
    counts[rows, elements.flatten().to_numpy()] = amounts.flatten().to_numpy()
    return counts


def entries_from_table(table: pa.Table) -> HullEntries:
    """Return the entries of a table with the columns that `entries_to_table` writes."""
    energy = table["energy_ev_per_atom"].to_numpy().astype(np.float64)
    return HullEntries(
        counts=counts_from_lists(
            table["elements_z"].combine_chunks(), table["counts"].combine_chunks()
        ),
        energy_ev_per_atom=energy,
        relaxed=table["relaxed"].to_numpy(zero_copy_only=False),
        n_crystals=table["n_crystals"].to_numpy().astype(np.int64),
        ids=table["material_id"].to_pylist(),
        above_hull_ev_per_atom=table["above_hull_ev_per_atom"].to_numpy()
        if "above_hull_ev_per_atom" in table.column_names
        else None,
    )


def entries_to_table(entries: HullEntries, about: dict[str, object]) -> pa.Table:
    """Return a table that `Hull.load` reads; ``about`` must have a ``name``."""
    present = [np.nonzero(row)[0] for row in entries.counts]
    amounts = [row[z] for row, z in zip(entries.counts, present, strict=True)]
    table = pa.table(
        {
            "material_id": entries.ids,
            "elements_z": pa.array(present, pa.list_(pa.int8())),
            "counts": pa.array(amounts, pa.list_(pa.int16())),
            "energy_ev_per_atom": pa.array(entries.energy_ev_per_atom),
            "relaxed": pa.array(entries.relaxed),
            "n_crystals": pa.array(entries.n_crystals, pa.int32()),
        }
    )
    if entries.above_hull_ev_per_atom is not None:
        above = pa.array(entries.above_hull_ev_per_atom, pa.float32())
        table = table.append_column("above_hull_ev_per_atom", above)
    return table.replace_schema_metadata({"matmill": json.dumps(about)})
