"""Crystals as the matcher compares them: pymatgen's Niggli and primitive cells, as plain arrays.

Other reductions change verdicts, so these are pymatgen's. Its way to the Niggli cell is compiled,
and it is asked itself where a step is a close call. Its search for a primitive cell, the slow
part, is only started where a compiled test says that there may be one.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from multiprocessing import get_context

import numpy as np
from jaxtyping import Float, Int

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS

_PER_CRYSTAL = ("lattice", "length", "minima", "edges", "anchor", "status")

_FLAT = 1e-9  # volume over the product of edges: three vectors in a plane, or less

_NIGGLI_TOLERANCE = 1e-5  # relative, pymatgen's
_ORIGIN, _PERIODIC = np.zeros((1, 3)), np.ones(3, dtype=np.int64)
_TRIALS = (
    # Where equal cells abound.
    np.eye(3) * 4.0,
    np.array([[0.0, 2.7, 2.7], [2.7, 0.0, 2.7], [2.7, 2.7, 0.0]]),
    np.array([[3.1, 0.0, 0.0], [-1.55, 3.1 * 0.75**0.5, 0.0], [0.0, 0.0, 4.9]]),
    np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [2.0, 2.0, 3.1]]),
)

PRIMITIVE_TOLERANCE = 0.25  # Å, pymatgen's; what lies this close counts as an image


class ReductionStatus(IntEnum):
    """What became of a crystal."""

    OK = 0
    BROKEN = 1
    """No cell or no coordinates that make sense, or pymatgen finds no Niggli cell."""
    TOO_LARGE = 2
    """More sites than asked for; not reduced."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedCrystals:
    """Reduced crystals, stored flat: sites of crystal 0 first, then those of crystal 1, and so on.

    A crystal that could not be reduced has no sites and matches nothing.

    Attributes:
        lattice: Row vectors scaled to unit volume per site, ``(n_crystals, 3, 3)``.
        frac: Fractional coordinates; sites of an element together, in pymatgen's order,
            ``(n_sites_total, 3)``.
        numbers: Atomic numbers, ascending in each crystal, ``(n_sites_total,)``.
        start: First site of each crystal, and the end, ``(n_crystals + 1,)``.
        length: (volume / site)^(1/3) in Å: what the lattice was divided by, ``(n_crystals,)``.
        minima: Successive minima of the lattice, ascending, unit volume, ``(n_crystals, 3)``.
        edges: Edges of the cell, ascending, unit volume, ``(n_crystals, 3)``.
        anchor: The site from which translations are taken: the first of the rarest element,
            ``(n_crystals,)``.
        status: `ReductionStatus` of each, ``(n_crystals,)``.
    """

    lattice: Float[np.ndarray, "n_crystals 3 3"]
    frac: Float[np.ndarray, "n_sites_total 3"]
    numbers: Int[np.ndarray, " n_sites_total"]
    start: Int[np.ndarray, " n_crystals_and_end"]
    length: Float[np.ndarray, " n_crystals"]
    minima: Float[np.ndarray, "n_crystals 3"]
    edges: Float[np.ndarray, "n_crystals 3"]
    anchor: Int[np.ndarray, " n_crystals"]
    status: Int[np.ndarray, " n_crystals"]

    def __len__(self) -> int:
        return len(self.lattice)

    @cached_property
    def keys(self) -> Int[np.ndarray, " n_crystals"]:
        """64-bit hash of the sites per element of each: crystals that match have the same."""
        found = np.zeros(len(self), dtype=np.uint64)
        for i in range(len(self)):
            content = self.numbers[self.start[i] : self.start[i + 1]].astype("<i2").tobytes()
            digest = hashlib.blake2b(content, digest_size=8).digest()
            found[i] = int.from_bytes(digest, "little")
        return found

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return what `match_search.compare_pairs` reads."""
        return (
            self.lattice,
            self.frac,
            self.numbers,
            self.start,
            self.minima,
            self.edges,
            self.anchor,
        )

    def select(self, rows: Sequence[int] | np.ndarray) -> "ReducedCrystals":
        """Return the crystals at these positions, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        sizes = self.start[rows + 1] - self.start[rows]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        sites = np.repeat(self.start[rows] - start[:-1], sizes) + np.arange(start[-1])
        return ReducedCrystals(
            frac=self.frac[sites],
            numbers=self.numbers[sites],
            start=start,
            **{name: getattr(self, name)[rows] for name in _PER_CRYSTAL},
        )

    @classmethod
    def concatenate(cls, parts: Sequence["ReducedCrystals"]) -> "ReducedCrystals":
        """Return all crystals of these, in order."""
        parts = [part for part in parts if len(part)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return _pack([])
        sizes = np.concatenate([np.diff(part.start) for part in parts])
        return cls(
            frac=np.concatenate([part.frac for part in parts]),
            numbers=np.concatenate([part.numbers for part in parts]),
            start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in _PER_CRYSTAL
            },
        )


@dataclass(frozen=True, slots=True)
class _One:
    lattice: np.ndarray
    frac: np.ndarray
    numbers: np.ndarray
    length: float
    anchor: int
    status: int


_BROKEN = (np.full((3, 3), np.nan), np.zeros((0, 3)), np.zeros(0, dtype=np.int16))


def reduce_crystals(
    batch: CrystalBatch, *, max_sites: int = 1000, n_processes: int = 1
) -> ReducedCrystals:
    """Return the crystals in pymatgen's primitive Niggli cells.

    Args:
        batch: Any number of crystals; elements only, so oxidation states do not matter.
        max_sites: Crystals with more sites are not reduced: `ReductionStatus.TOO_LARGE`.
        n_processes: With more than one, pieces of the batch go to worker processes; worth their
            start, of some seconds, from a few thousand crystals on.
    """
    lattice = np.ascontiguousarray(batch.lattice.detach().double().cpu().numpy())
    frac = np.ascontiguousarray(batch.frac_coords.detach().double().cpu().numpy())
    numbers = batch.atomic_numbers.cpu().numpy()
    stops = np.cumsum(batch.n_atoms.cpu().numpy()).tolist()
    cells = [
        (lattice[i], frac[a:b], numbers[a:b], max_sites)
        for i, (a, b) in enumerate(zip([0, *stops], stops, strict=False))
    ]
    if n_processes > 1 and len(cells) > 1:
        piece = max(1, min(500, len(cells) // (4 * n_processes)))
        with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(_reduced, cells, chunksize=piece))
    else:
        found = [_reduced(cell) for cell in cells]
    return _pack(found)


def _pack(found: Sequence[_One]) -> ReducedCrystals:
    n = len(found)
    sizes = [len(one.numbers) for one in found]
    lattice = np.stack([one.lattice for one in found]) if n else np.zeros((0, 3, 3))
    minima = np.full((n, 3), np.inf)
    if n:
        from matmill.crystals.match_cells import successive_minima

        for i, one in enumerate(found):
            if one.status == ReductionStatus.OK:
                minima[i] = successive_minima(one.lattice)
    return ReducedCrystals(
        lattice=lattice,
        frac=np.concatenate([_BROKEN[1], *[one.frac for one in found]]),
        numbers=np.concatenate([_BROKEN[2], *[one.numbers for one in found]]),
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        length=np.array([one.length for one in found], dtype=np.float64),
        minima=minima,
        edges=np.sort(np.linalg.norm(lattice, axis=2), axis=1),
        anchor=np.array([one.anchor for one in found], dtype=np.int64),
        status=np.array([one.status for one in found], dtype=np.int8),
    )


def _reduced(cell: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> _One:
    from matmill.crystals.match_sites import blocks_of

    lattice, frac, numbers, max_sites = cell
    if len(numbers) > max_sites:
        return _One(*_BROKEN, np.nan, 0, ReductionStatus.TOO_LARGE)
    broken = _One(*_BROKEN, np.nan, 0, ReductionStatus.BROKEN)
    if not len(numbers) or not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return broken
    if not 0 < numbers.min() <= numbers.max() < len(SYMBOLS):
        return broken
    if abs(np.linalg.det(lattice)) <= _FLAT * np.linalg.norm(lattice, axis=1).prod():
        return broken
    try:
        new = _niggli(lattice)
        if (np.abs(new - lattice) > 1e-8 + 1e-5 * np.abs(lattice)).any():  # as Lattice compares
            frac = np.mod(frac @ lattice @ np.linalg.inv(new), 1.0)
            lattice = new
        lattice, frac, numbers = _primitive(lattice, frac, numbers)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return broken
    volume = abs(float(np.linalg.det(lattice)))
    length = (volume / len(numbers)) ** (1.0 / 3.0)
    if not (math.isfinite(length) and length > 0.0):
        return broken
    order = np.argsort(numbers, kind="stable")
    block = blocks_of(numbers[order])
    count = block[:, 1] - block[:, 0]
    rare = np.flatnonzero(count == count.min())
    return _One(
        np.ascontiguousarray(lattice / length),
        np.ascontiguousarray(frac[order]),
        numbers[order].astype(np.int16),
        length,
        int(rare[order[rare].argmin()]),
        ReductionStatus.OK,
    )


def _niggli(lattice: np.ndarray) -> np.ndarray:
    """Return pymatgen's Niggli cell, from compiled steps where none of them is a close call."""
    from pymatgen.core import Lattice

    found = _compiled_niggli(lattice) if _is_pymatgen_as_expected() else None
    if found is not None:
        return found
    return np.array(Lattice(lattice).get_niggli_reduced_lattice(tol=_NIGGLI_TOLERANCE).matrix)


@cache
def _is_pymatgen_as_expected() -> bool:
    """Return whether pymatgen takes the axes that the compiled steps take.

    Releases differ in which of several equal cells they prefer.
    """
    from pymatgen.core import Lattice

    for lattice in _TRIALS:
        found = _compiled_niggli(lattice)
        theirs = Lattice(lattice).get_niggli_reduced_lattice(tol=_NIGGLI_TOLERANCE).matrix
        if found is None or not np.allclose(found, theirs, atol=1e-9):
            return False
    return True


def _compiled_niggli(lattice: np.ndarray) -> np.ndarray | None:
    from pymatgen.optimization.neighbors import find_points_in_spheres

    from matmill.crystals.match_niggli import first_mapping, niggli_parameters

    wanted, found = np.empty(6), np.empty((3, 3))
    e, sure = niggli_parameters(lattice, _NIGGLI_TOLERANCE, wanted)
    if sure:
        # The order in which pymatgen meets lattice vectors decides between equal cells.
        _, _, images, lengths = find_points_in_spheres(
            all_coords=_ORIGIN,
            center_coords=_ORIGIN,
            r=float(wanted[:3].max() * (1.0 + e)),
            pbc=_PERIODIC,
            lattice=lattice,
            tol=1e-8,
        )
        if first_mapping(lattice, images, lengths, wanted, e, found) == 1:
            return found
    return None


def _primitive(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what pymatgen makes of a Niggli cell."""
    from matmill.crystals.match_cells import may_be_smaller
    from matmill.crystals.match_sites import blocks_of

    order = np.argsort(numbers, kind="stable")
    block = blocks_of(numbers[order])
    units = int(np.gcd.reduce(block[:, 1] - block[:, 0]))
    if units == 1:
        return lattice, frac, numbers
    sites = np.ascontiguousarray(frac[order])
    if not may_be_smaller(sites, block, lattice, PRIMITIVE_TOLERANCE, units):
        return lattice, frac, numbers
    from pymatgen.core import Structure

    symbols = [SYMBOLS[z] for z in numbers.tolist()]
    small = Structure(lattice, symbols, frac).get_primitive_structure()
    sites = np.array([site.frac_coords for site in small])
    return np.array(small.lattice.matrix), sites, np.array([site.specie.Z for site in small])
