"""Energy above the convex hull of known crystals, by our own energies of those crystals.

Candidates and competitors are computed with the same potential, so a good part of its error
cancels and no correction scheme is needed. The table that ships says of every entry whether its
crystal was relaxed with that potential or taken at its given geometry; the card beside it says
what that means.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import SYMBOLS
from matmill.errors import DataError

ASSET = "hull_chgnet.parquet"
ON_HULL = 1e-7
"""An entry within this distance (eV per atom) counts as a vertex of the hull."""

_WORDS = 2  # 64-bit words that hold a set of elements


@dataclass(frozen=True)
class HullEntries:
    """The lowest known entry of each reduced formula.

    Attributes:
        counts: Atoms of each element in the reduced formula, ``(n_entries, 119)``.
        energy_ev_per_atom: By the potential of the hull, ``(n_entries,)``.
        relaxed: Whether the crystal was relaxed with that potential, ``(n_entries,)``.
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


class Hull:
    """The convex hull of a table of entries, one chemical system at a time.

    Args:
        entries: The table.
        name: Potential, source and state of the references; goes into every verdict.
        hash: Content hash of the table.
    """

    def __init__(self, entries: HullEntries, *, name: str, hash: str) -> None:
        self.entries = entries
        self.name = name
        self.hash = hash
        self._masks = element_masks(entries.counts > 0)
        above = entries.above_hull_ev_per_atom
        vertices = slice(None) if above is None else np.nonzero(above <= ON_HULL)[0]
        counts = entries.counts[vertices]
        self._vertex_masks = self._masks[vertices]
        self._vertex_fractions = counts / counts.sum(1, keepdims=True)
        self._vertex_energies = entries.energy_ev_per_atom[vertices]
        self._systems: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self._values: dict[bytes, float] = {}

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Hull":
        """Read a hull; without a path the one that ships.

        Raises:
            DataError: If the file is missing or is no hull table.
        """
        source = Path(str(files("matmill").joinpath("assets", ASSET))) if path is None else path
        source = Path(source)
        try:
            content = source.read_bytes()
            table = pq.read_table(pa.BufferReader(content))
            about = json.loads((table.schema.metadata or {})[b"matmill"])
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise DataError(f"{source} is no hull table of matmill: {error}.") from error
        return cls(
            entries_from_table(table),
            name=str(about["name"]),
            hash=hashlib.sha256(content).hexdigest()[:16],
        )

    @cached_property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements that have an entry of their own; others give NaN."""
        alone = self.entries.counts[(self.entries.counts > 0).sum(1) == 1]
        return frozenset(SYMBOLS[z] for z in np.nonzero(alone.sum(0))[0])

    def energy_above(
        self, energy_ev: Float[Tensor, " n_crystals"], batch: CrystalBatch
    ) -> Float[Tensor, " n_crystals"]:
        """Return the energy above the hull in eV per atom, negative for what lies below it.

        The candidates themselves are never part of the hull.

        Args:
            energy_ev: Total energy of each cell, by the potential of this hull.
            batch: The crystals.

        Returns:
            NaN where the energy is NaN or the hull lacks an element.
        """
        counts = element_counts(batch).numpy()
        reference = [self.value(row) for row in counts]
        per_atom = energy_ev.double() / batch.n_atoms
        return per_atom - torch.tensor(reference, dtype=torch.float64)

    def value(self, counts: np.ndarray) -> float:
        """Return the energy of the hull at a composition, eV per atom; NaN without references.

        Args:
            counts: Atoms of each element, ``(119,)``.
        """
        divisor = np.gcd.reduce(counts[counts > 0]) if counts.any() else 1
        reduced = (counts // divisor).astype(np.int32)
        key = reduced.tobytes()
        if key not in self._values:
            self._values[key] = self._solve(reduced)
        return self._values[key]

    def n_competitors(
        self, batch: CrystalBatch, *, subsystems: bool = False
    ) -> Int[Tensor, " n_crystals"]:
        """Return how many known crystals have exactly the elements of each crystal.

        Few competitors mean a hull that may lie too high, so a candidate that looks too stable.

        Args:
            batch: The crystals.
            subsystems: Count the crystals of all subsystems too.
        """
        masks = element_masks(element_counts(batch).numpy() > 0)
        known: dict[bytes, int] = {}
        for mask in masks:
            if mask.tobytes() not in known:
                mine = (self._masks & ~mask) == 0 if subsystems else self._masks == mask
                mine = mine.all(1)
                known[mask.tobytes()] = int(self.entries.n_crystals[mine].sum())
        return torch.tensor([known[mask.tobytes()] for mask in masks], dtype=torch.int64)

    def _solve(self, counts: np.ndarray) -> float:
        elements = np.nonzero(counts)[0]
        mask = element_masks((counts > 0)[None])[0]
        key = mask.tobytes()
        if key not in self._systems:
            inside = np.nonzero(((self._vertex_masks & ~mask) == 0).all(1))[0]
            fractions = self._vertex_fractions[inside][:, elements]
            self._systems[key] = fractions, self._vertex_energies[inside]
        fractions, energies = self._systems[key]
        target = counts[elements] / counts.sum()
        return lowest_mixture(fractions, energies, target)


def lowest_mixture(
    fractions: Float[np.ndarray, "n_entries n_elements"],
    energies: Float[np.ndarray, " n_entries"],
    target: Float[np.ndarray, " n_elements"],
) -> float:
    """Return the lowest energy of any mixture of entries with a given composition, per atom.

    The revised simplex method, started from the elements, in float64. A mixture needs no more
    entries than there are elements, so every step solves a system of that size.

    Args:
        fractions: Atomic fractions of each entry; rows add up to one.
        energies: Energy per atom of each entry.
        target: Atomic fractions of the mixture, all positive.

    Returns:
        Energy per atom; NaN if an element has no entry of its own.
    """
    n = len(target)
    best = np.full(n, -1)
    for column in range(n):
        alone = np.nonzero(fractions[:, column] == 1.0)[0]
        if not len(alone):
            return float("nan")
        best[column] = alone[np.argmin(energies[alone])]
    # Energies of formation: smaller numbers, and zero for the starting mixture.
    formation = energies - fractions @ energies[best]
    elemental = float(target @ energies[best])
    basis = best
    for step in range(100 * n):
        inverse = np.linalg.inv(fractions[basis])
        price = inverse @ formation[basis]
        gain = formation - fractions @ price
        # The steepest entry first; Bland's rule later, which cannot cycle.
        better = np.nonzero(gain < -1e-12)[0]
        if not len(better):
            break
        entering = better[0] if step > 20 * n else better[np.argmin(gain[better])]
        amount = target @ inverse
        change = fractions[entering] @ inverse
        shrinking = change > 1e-12
        ratio = np.full(n, np.inf)
        ratio[shrinking] = np.maximum(amount[shrinking], 0.0) / change[shrinking]
        ties = np.nonzero(ratio <= ratio.min() + 1e-15)[0]
        leaving = ties[np.argmin(basis[ties])]
        basis = basis.copy()
        basis[leaving] = entering
    amount = np.linalg.solve(fractions[basis].T, target)
    return elemental + float(amount @ formation[basis])


def element_masks(present: np.ndarray) -> np.ndarray:
    """Return sets of elements as bits, ``(n, 2)`` of uint64, from a table of bools ``(n, 119)``."""
    padded = np.zeros((len(present), 64 * _WORDS), dtype=np.uint8)
    padded[:, : present.shape[1]] = present
    return np.packbits(padded, axis=1).view(np.uint64)


def entries_from_table(table: pa.Table) -> HullEntries:
    """Return the entries of a table with the columns that `entries_to_table` writes."""
    lists = table["elements_z"].combine_chunks()
    sizes = np.diff(lists.offsets.to_numpy())
    rows = np.repeat(np.arange(table.num_rows), sizes)
    counts = np.zeros((table.num_rows, len(SYMBOLS)), dtype=np.int32)
    amounts = table["counts"].combine_chunks().flatten().to_numpy()
    counts[rows, lists.flatten().to_numpy()] = amounts
    return HullEntries(
        counts=counts,
        energy_ev_per_atom=table["energy_ev_per_atom"].to_numpy().astype(np.float64),
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
