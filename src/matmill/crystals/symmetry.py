"""Space groups and symmetrised cells behind one function per question.

The default library is moyopy (about seven times faster than spglib here). The two are not
interchangeable at equal tolerance: on rattled crystals moyopy finds more symmetry. A protocol
names its library. Crystals whose symmetry cannot be found count as P1, and keep their cell.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.periodic import shortest_step, wrap
from matmill.errors import UnknownNameError

if TYPE_CHECKING:
    from moyopy import MoyoDataset

Library = Literal["moyopy", "spglib"]

SYMPREC = 0.1
"""Tolerance on positions in Å of every space group that is reported, unless said otherwise.

Relaxed crystals are converged to about this; a coarser one merges distinct crystals.
"""

_SYSTEM_ENDS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
CRYSTAL_SYSTEMS: tuple[str, ...] = tuple(name for _, name in _SYSTEM_ENDS)


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """Symmetry of every crystal of a batch.

    Attributes:
        number: International number of the space group, 1 to 230, ``(n_crystals,)``.
        symbol: Short Hermann–Mauguin symbols such as ``"Fm-3m"``.
        crystal_system: Names such as ``"cubic"``.
        pearson: Pearson symbols such as ``"cF8"``; empty where unknown.
        wyckoffs: Wyckoff letter of each atom, one string list per crystal.
        found: False where the search failed and P1 was assumed, ``(n_crystals,)``.
    """

    number: Int[Tensor, " n_crystals"]
    symbol: tuple[str, ...]
    crystal_system: tuple[str, ...]
    pearson: tuple[str, ...]
    wyckoffs: tuple[tuple[str, ...], ...]
    found: Bool[Tensor, " n_crystals"]


def crystal_system(number: int) -> str:
    """Return the crystal system of a space-group number, e.g. ``"cubic"`` for 225."""
    return next(name for end, name in _SYSTEM_ENDS if number <= end)


def find(
    batch: CrystalBatch,
    *,
    symprec: float = SYMPREC,
    angle_tolerance: float = 5.0,
    library: Library = "moyopy",
) -> Symmetry:
    """Return the symmetry of each crystal.

    Args:
        batch: Any number of crystals.
        symprec: Tolerance on positions in Å.
        angle_tolerance: Tolerance on angles in degrees, of spglib; moyopy derives its own.
        library: ``"moyopy"`` or ``"spglib"``.

    Raises:
        UnknownNameError: If the library is neither.
    """
    if library not in ("moyopy", "spglib"):
        raise UnknownNameError("symmetry library", library, ["moyopy", "spglib"])
    answer = _ask_moyopy if library == "moyopy" else _ask_spglib
    rows = [
        answer(*crystal, symprec=symprec, angle_tolerance=angle_tolerance)
        for crystal in _crystals(batch)
    ]
    numbers = [row[0] if row else 1 for row in rows]
    return Symmetry(
        number=torch.tensor(numbers, dtype=torch.int64),
        symbol=tuple(_symbol(number) for number in numbers),
        crystal_system=tuple(crystal_system(number) for number in numbers),
        pearson=tuple(row[1] if row else "" for row in rows),
        wyckoffs=tuple(
            row[2] if row else ("a",) * n
            for row, n in zip(rows, batch.n_atoms.tolist(), strict=True)
        ),
        found=torch.tensor([row is not None for row in rows], dtype=torch.bool),
    )


def datasets(batch: CrystalBatch, *, symprec: float = 0.1) -> "Iterator[MoyoDataset | None]":
    """Yield all that moyopy knows of each crystal, None where the search failed."""
    for crystal in _crystals(batch):
        yield _moyo(*crystal, symprec)


def primitive(batch: CrystalBatch, symprec: float = 0.01) -> CrystalBatch:
    """Return the standardised primitive cells, sites and lattice idealised."""
    return _standardise(batch, "prim_std_cell", symprec)


def conventional(batch: CrystalBatch, symprec: float = 0.01) -> CrystalBatch:
    """Return the standardised conventional cells, sites and lattice idealised."""
    return _standardise(batch, "std_cell", symprec)


def symmetrise(batch: CrystalBatch, symprec: float = 0.1) -> CrystalBatch:
    """Return the crystals in their own cells, lattice and sites averaged over the symmetry found.

    Number, order and choice of atoms and cell stay; only the numbers move, by about ``symprec``.
    """

    def average(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray) -> Any:  # noqa: ANN401
        data = _moyo(lattice, frac, numbers, symprec)
        if data is None:
            return None
        return *_averaged(lattice, frac, numbers, data.operations), numbers

    return _rebuilt(batch, average)


def _averaged(
    lattice: np.ndarray,
    frac: np.ndarray,
    numbers: np.ndarray,
    operations: Any,  # noqa: ANN401
) -> tuple[np.ndarray, np.ndarray]:
    rotations = np.array(operations.rotations, dtype=float)
    shifts = np.array(operations.translations, dtype=float)
    gram = lattice @ lattice.T
    mean_gram = np.mean([r.T @ gram @ r for r in rotations], axis=0)
    # The new cell is L' = L U with U symmetric: a pure stretch, so that the orientation stays.
    values, vectors = np.linalg.eigh(np.linalg.inv(lattice) @ mean_gram @ np.linalg.inv(lattice).T)
    new_lattice = lattice @ (vectors * np.sqrt(values)) @ vectors.T
    start, total = torch.from_numpy(frac), torch.zeros(len(frac), 3, dtype=torch.float64)
    same_kind = torch.from_numpy(numbers[:, None] == numbers[None, :])
    cell = torch.from_numpy(new_lattice)
    for rotation, shift in zip(rotations, shifts, strict=True):
        moved = torch.from_numpy(frac @ rotation.T + shift)
        steps = shortest_step(start[:, None], moved[None, :])
        distance = (steps @ cell).norm(dim=-1).masked_fill(~same_kind, torch.inf)
        partner = distance.argmin(dim=1)
        total += steps[torch.arange(len(frac)), partner]
    return new_lattice, (start + total / len(rotations)).numpy()


def _standardise(batch: CrystalBatch, which: str, symprec: float) -> CrystalBatch:
    def cell(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray) -> Any:  # noqa: ANN401
        data = _moyo(lattice, frac, numbers, symprec)
        if data is None:
            return None
        found = getattr(data, which)
        return np.array(found.basis), np.array(found.positions), np.array(found.numbers)

    return _rebuilt(batch, cell)


def _rebuilt(batch: CrystalBatch, change: Callable[..., Any]) -> CrystalBatch:
    """Return the batch with each crystal replaced by what ``change`` makes of it, if anything."""
    if not len(batch):
        return batch
    rows = [change(*crystal) or crystal for crystal in _crystals(batch)]
    dtype, device = batch.lattice.dtype, batch.lattice.device
    lattices, coords, numbers = zip(*rows, strict=True)
    return CrystalBatch(
        lattice=torch.from_numpy(np.stack(lattices)).to(device, dtype),
        frac_coords=wrap(torch.from_numpy(np.concatenate(coords)).to(device, dtype)),
        atomic_numbers=torch.from_numpy(np.concatenate(numbers)).to(device, torch.int64),
        n_atoms=torch.tensor([len(z) for z in numbers], device=device),
        properties=batch.properties,
        ids=batch.ids,
    )


def _crystals(batch: CrystalBatch) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    lattice = batch.lattice.double().cpu().numpy()
    frac = batch.frac_coords.double().cpu().numpy()
    numbers = batch.atomic_numbers.cpu().numpy()
    start = 0
    for i, n in enumerate(batch.n_atoms.tolist()):
        yield lattice[i], frac[start : start + n], numbers[start : start + n]
        start += n


def _moyo(
    lattice: np.ndarray,
    frac: np.ndarray,
    numbers: np.ndarray,
    symprec: float,
) -> Any | None:  # noqa: ANN401 - a moyopy dataset
    import moyopy

    # Pseudo-symmetric cells make it warn on standard error; the answer is used as it is.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return None
    cell = moyopy.Cell(lattice.tolist(), frac.tolist(), numbers.tolist())
    try:
        # moyopy judges angles by symprec when none is given. With an angle of its own it never
        # returns for some layered cells (mp-1077262 at 0.1 Å and 5°), so none is given.
        return moyopy.MoyoDataset(cell, symprec=symprec)
    except ValueError:
        return None


def _ask_moyopy(
    lattice: np.ndarray,
    frac: np.ndarray,
    numbers: np.ndarray,
    *,
    symprec: float,
    angle_tolerance: float,  # noqa: ARG001 - spglib's only; see _moyo
) -> tuple[int, str, tuple[str, ...]] | None:
    data = _moyo(lattice, frac, numbers, symprec)
    return None if data is None else (data.number, data.pearson_symbol, tuple(data.wyckoffs))


def _ask_spglib(
    lattice: np.ndarray,
    frac: np.ndarray,
    numbers: np.ndarray,
    *,
    symprec: float,
    angle_tolerance: float,
) -> tuple[int, str, tuple[str, ...]] | None:
    import spglib

    spglib.error.OLD_ERROR_HANDLING = False  # raise, instead of warning about the old handling
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return None
    try:
        data = spglib.get_symmetry_dataset(
            (lattice.tolist(), frac.tolist(), numbers.tolist()),
            symprec=symprec,
            angle_tolerance=angle_tolerance,
        )
    except spglib.SpglibError:
        return None
    return None if data is None else (data.number, "", tuple(data.wyckoffs))


def _symbol(number: int) -> str:
    import moyopy

    return moyopy.SpaceGroupType(number).hm_short.replace(" ", "")
