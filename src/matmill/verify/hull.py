"""Energy above the convex hull of known crystals.

Best by our own energies of those crystals: candidates and competitors are computed with the same
potential, so a good part of its error cancels and no correction scheme is needed. The table that
ships says of every entry whether its crystal was relaxed with that potential or taken at its given
geometry; the card beside it says what that means. Hulls of DFT energies are read by
`hull_reference`; which energies a hull may be compared with is decided in `schemes`.
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
from matmill.verify.hull_entries import HullEntries, element_masks, entries_from_table, reduced

SHIPPED = {"chgnet-0.3.0": "hull_chgnet.parquet"}
"""Tables among the assets, by the potential that computed them; the first is the default."""

ON_HULL = 1e-7
"""An entry within this distance (eV per atom) counts as a vertex of the hull."""

FEW = 3
"""A system with fewer known crystals than this is flagged: its hull may lie too high."""

_SMALL = 10  # elements up to which subsystems are listed; beyond, all entries are looked through


@dataclass(frozen=True)
class _System:
    """Entries of one chemical system and all its subsystems, over its elements only."""

    fractions: np.ndarray  # (n_entries, n_elements)
    energies: np.ndarray  # eV per atom, (n_entries,)


class Hull:
    """The convex hull of a table of entries, one chemical system at a time.

    Args:
        entries: The table.
        name: Potential or source, and state of the references; goes into every verdict.
        hash: Content hash of the table.
        scheme: What its energies are, as `schemes` has it; None takes energies as they come.
        potential: Name of the potential that computed it; None for DFT.
    """

    def __init__(
        self,
        entries: HullEntries,
        *,
        name: str,
        hash: str,
        scheme: str | None = None,
        potential: str | None = None,
    ) -> None:
        self.entries = entries
        self.name = name
        self.hash = hash
        self.scheme = scheme
        self.potential = potential
        above = entries.above_hull_ev_per_atom
        vertices = np.arange(len(entries.counts))
        if above is not None:  # what was not computed counts, so that its system is known to lack
            vertices = np.nonzero((above <= ON_HULL) | np.isnan(entries.energy_ev_per_atom))[0]
        counts = entries.counts[vertices]
        self._vertices = vertices
        self._vertex_fractions = counts / counts.sum(1, keepdims=True)
        self._vertex_energies = entries.energy_ev_per_atom[vertices]
        self._systems: dict[bytes, _System] = {}
        self._values: dict[bytes, float] = {}

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Hull":
        """Read a hull that matmill wrote; without a path the one that ships.

        Raises:
            DataError: If the file is missing or is no hull table.
        """
        source = _asset(next(iter(SHIPPED))) if path is None else Path(path)
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
            scheme=about.get("scheme"),
            potential=about.get("potential"),
        )

    @classmethod
    def of_potential(cls, name: str) -> "Hull | None":
        """Return the hull that ships for a potential, None if there is none."""
        return cls.load(_asset(name)) if name in SHIPPED else None

    @cached_property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements that have an entry of their own; others give NaN."""
        alone = (self.entries.counts > 0).sum(1) == 1
        alone &= ~np.isnan(self.entries.energy_ev_per_atom)
        return frozenset(SYMBOLS[z] for z in np.nonzero(self.entries.counts[alone].sum(0))[0])

    def energy_above(
        self, energy_ev: Float[Tensor, " n_crystals"], batch: CrystalBatch
    ) -> Float[Tensor, " n_crystals"]:
        """Return the energy above the hull in eV per atom, negative for what lies below it.

        The candidates themselves are never part of the hull; `joint_hull` makes them so.

        Args:
            energy_ev: Total energy of each cell, in the scheme of this hull.
            batch: The crystals.

        Returns:
            NaN where the energy is NaN or the hull lacks an element.
        """
        rows = reduced(element_counts(batch).numpy())
        reference = [self._value(row) for row in rows]
        per_atom = energy_ev.double() / batch.n_atoms
        return per_atom - torch.tensor(reference, dtype=torch.float64)

    def value(self, counts: np.ndarray) -> float:
        """Return the energy of the hull at a composition, eV per atom; NaN without references.

        Args:
            counts: Atoms of each element, ``(119,)``.
        """
        return self._value(reduced(counts[None])[0])

    def n_competitors(
        self, batch: CrystalBatch, *, subsystems: bool = False
    ) -> Int[Tensor, " n_crystals"]:
        """Return how many known crystals have exactly the elements of each crystal.

        Few competitors mean a hull that may lie too high, so a candidate that looks too stable.

        Args:
            batch: The crystals.
            subsystems: Count the crystals of all subsystems too.
        """
        present = element_counts(batch).numpy() > 0
        known: dict[bytes, int] = {}
        found = []
        for mask, row in zip(element_masks(present), present, strict=True):
            key = mask.tobytes()
            if key not in known:
                inside = self._inside(row, mask) if subsystems else [key]
                known[key] = sum(self._n_crystals.get(part, 0) for part in inside)
            found.append(known[key])
        return torch.tensor(found, dtype=torch.int64)

    def competitors(self, counts: np.ndarray) -> "tuple[np.ndarray, np.ndarray]":
        """Return what may lie on the hull of the system of a composition, subsystems included.

        Args:
            counts: Atoms of each element, ``(119,)``; only which are there matters.

        Returns:
            Atomic fractions of each entry over the elements that are there, ``(n, n_elements)``,
            and its energy in eV per atom, ``(n,)``.
        """
        system = self._system(counts > 0)
        return system.fractions, system.energies

    @cached_property
    def _places(self) -> dict[bytes, np.ndarray]:
        """Positions among the vertices by chemical system."""
        masks = element_masks(self.entries.counts[self._vertices] > 0)
        return _grouped(masks)

    @cached_property
    def _n_crystals(self) -> dict[bytes, int]:
        """Known crystals by chemical system."""
        groups = _grouped(element_masks(self.entries.counts > 0))
        return {key: int(self.entries.n_crystals[rows].sum()) for key, rows in groups.items()}

    def _inside(self, present: np.ndarray, mask: np.ndarray) -> list[bytes]:
        """Return the systems of the table that need no other elements than these."""
        elements = np.nonzero(present)[0]
        if len(elements) > _SMALL:
            keys = np.frombuffer(b"".join(self._n_crystals), dtype=np.uint64).reshape(-1, len(mask))
            return [key.tobytes() for key in keys[((keys & ~mask) == 0).all(1)]]
        bits = np.zeros((len(elements), len(present)), dtype=bool)
        bits[np.arange(len(elements)), elements] = True
        subsets = np.zeros((1, len(mask)), dtype=np.uint64)
        for bit in element_masks(bits):
            subsets = np.concatenate([subsets, subsets | bit])
        return [key for key in map(np.ndarray.tobytes, subsets) if key in self._n_crystals]

    def _system(self, present: np.ndarray) -> _System:
        mask = element_masks(present[None])[0]
        key = mask.tobytes()
        if key not in self._systems:
            parts = [self._places[k] for k in self._inside(present, mask) if k in self._places]
            inside = np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
            fractions = self._vertex_fractions[inside][:, np.nonzero(present)[0]]
            self._systems[key] = _System(fractions, self._vertex_energies[inside])
        return self._systems[key]

    def _value(self, counts: np.ndarray) -> float:
        key = counts.tobytes()
        if key not in self._values:
            system = self._system(counts > 0)
            target = counts[counts > 0] / max(counts.sum(), 1)
            self._values[key] = lowest_mixture(system.fractions, system.energies, target)
        return self._values[key]


def _asset(potential: str) -> Path:
    return Path(str(files("matmill").joinpath("assets", SHIPPED[potential])))


def _grouped(masks: np.ndarray) -> dict[bytes, np.ndarray]:
    """Return the rows that have each mask."""
    if not len(masks):
        return {}
    order = np.lexsort(masks.T[::-1])
    ordered = masks[order]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)])
    starts = np.nonzero(first)[0]
    parts = np.split(order, starts[1:])
    return {ordered[k].tobytes(): rows for k, rows in zip(starts, parts, strict=True)}


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
        Energy per atom; NaN if an element has no entry of its own, or if the energy of an entry
        is NaN.
    """
    n = len(target)
    if not n or bool(np.isnan(energies).any()):
        return float("nan")
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
