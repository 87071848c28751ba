"""What readers produce: one record or one complaint per crystal, checked all at once.

A broken crystal is data: it becomes a complaint that says where, why and what to do, and the rest
of the file is read.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import MAX_NUMBER
from matmill.crystals.periodic import wrap

OVERLAP_ANGSTROM = 0.01
MIN_VOLUME_PER_ATOM = 0.1  # Å³; hydrogen under gigantic pressure has 1
TOO_DENSE = f"the cell has less than {MIN_VOLUME_PER_ATOM} Å³ per atom"
OVERLAP = f"two atoms are closer than {OVERLAP_ANGSTROM} Å"
GEOMETRY_FLAWS = frozenset({TOO_DENSE, OVERLAP})
"""Reasons of complaints about crystals that could be read, with an impossible geometry."""
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Complaint:
    """One crystal that could not be read.

    Attributes:
        file: Path of the file.
        row: Its place in the file, counted from 1: block, frame, line or row.
        reason: What is wrong, one line.
        remedy: What to do about it, one line.
    """

    file: str
    row: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}, entry {self.row}: {self.reason}. {self.remedy}"


class BrokenEntryError(Exception):
    """Raised by a reader for one entry; becomes a `Complaint`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One crystal as it was read, not checked yet.

    Attributes:
        row: Its place in the file, counted from 1.
        lattice: Row vectors in Å, ``(3, 3)``.
        frac_coords: Fractional coordinates, ``(n_atoms, 3)``.
        numbers: Atomic numbers, ``(n_atoms,)``.
        name: Id given in the file, or None.
        values: Numbers that came with it.
    """

    row: int
    lattice: np.ndarray
    frac_coords: np.ndarray
    numbers: np.ndarray
    name: str | None = None
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReadResult:
    """What was read, and what could not be.

    Attributes:
        crystals: The good crystals, in the order of the files, float64.
        complaints: One for each crystal that was left out.
        files: The file of each good crystal.
        rows: Its place in that file, counted from 1, ``(n_crystals,)``.
    """

    crystals: CrystalBatch
    complaints: list[Complaint]
    files: tuple[str, ...]
    rows: Int[Tensor, " n_crystals"]


def collect(file: str, entries: Iterable[Record | Complaint]) -> ReadResult:
    """Return the good crystals of one file and a complaint for each of the others."""
    complaints: list[Complaint] = []
    records: list[Record] = []
    for entry in entries:
        if isinstance(entry, Complaint):
            complaints.append(entry)
        elif entry.frac_coords.shape != (len(entry.numbers), 3) or not len(entry.numbers):
            n = f"{len(entry.numbers)} atoms with coordinates of shape {entry.frac_coords.shape}"
            complaints.append(Complaint(file, entry.row, n, "Give three coordinates per atom."))
        else:
            records.append(entry)
    if not records:
        return ReadResult(
            crystals=CrystalBatch.empty(),
            complaints=complaints,
            files=(),
            rows=torch.zeros(0, dtype=torch.int64),
        )
    stem = Path(file).name.split(".")[0] or file
    names = [r.name or (stem if len(records) == 1 else f"{stem}-{r.row}") for r in records]
    columns = {name: None for record in records for name in record.values}
    batch = CrystalBatch(
        lattice=torch.from_numpy(np.stack([r.lattice for r in records]).astype(np.float64)),
        frac_coords=wrap(
            torch.from_numpy(np.concatenate([r.frac_coords for r in records]).astype(np.float64))
        ),
        atomic_numbers=torch.from_numpy(np.concatenate([r.numbers for r in records])).long(),
        n_atoms=torch.tensor([len(r.numbers) for r in records]),
        ids=tuple(names),
        properties={
            name: torch.tensor(
                [r.values.get(name, torch.nan) for r in records], dtype=torch.float64
            )
            for name in columns
        },
    )
    return screen(file, batch, [r.row for r in records], complaints)


def screen(
    file: str, batch: CrystalBatch, rows: Sequence[int] | range, complaints: list[Complaint]
) -> ReadResult:
    """Return the crystals without flaws; the others are added to the complaints."""
    flaws = find_flaws(batch)
    found = [Complaint(file, rows[i], *flaw) for i, flaw in flaws.items()]
    kept = torch.ones(len(batch), dtype=torch.bool)
    kept[list(flaws)] = False
    return ReadResult(
        crystals=batch.select(kept) if flaws else batch,
        complaints=sorted([*complaints, *found], key=lambda complaint: complaint.row),
        files=(file,) * int(kept.sum()),
        rows=torch.as_tensor(list(rows), dtype=torch.int64)[kept],
    )


def find_flaws(batch: CrystalBatch) -> dict[int, tuple[str, str]]:
    """Return ``{crystal: (reason, remedy)}`` for those that are no crystals at all.

    Looked for, in this order: numbers that are not finite, unknown elements, flat cells, and atoms
    that sit on top of each other.
    """
    flaws: dict[int, tuple[str, str]] = {}

    def blame(bad: Tensor, reason: str, remedy: str) -> None:
        for i in torch.nonzero(bad).flatten().tolist():
            flaws.setdefault(i, (reason, remedy))

    def by_crystal(bad_atoms: Tensor) -> Tensor:
        bad = torch.zeros(len(batch), dtype=torch.bool)
        bad[batch.crystal_index[bad_atoms]] = True
        return bad

    blame(
        ~torch.isfinite(batch.lattice).all(-1).all(-1),
        "the cell is not finite (NaN or infinite)",
        "Write the lattice vectors as plain numbers in Å.",
    )
    blame(
        by_crystal(~torch.isfinite(batch.frac_coords).all(-1)),
        "a coordinate is not finite (NaN or infinite)",
        "Write every coordinate as a plain number.",
    )
    numbers = batch.atomic_numbers
    blame(
        by_crystal((numbers < 1) | (numbers > MAX_NUMBER)),
        f"an atomic number is not between 1 and {MAX_NUMBER}",
        "Use the atomic numbers of real elements.",
    )
    blame(
        batch.volume < MIN_VOLUME_PER_ATOM * batch.n_atoms,
        TOO_DENSE,
        "Check the lattice vectors and their unit (Å).",
    )
    sound = torch.ones(len(batch), dtype=torch.bool)
    sound[list(flaws)] = False
    index = torch.nonzero(sound).flatten()
    blame(
        torch.zeros(len(batch), dtype=torch.bool).index_fill_(0, index[_overlaps(batch, index)], 1),
        OVERLAP,
        "Remove the double atom, or order the sites that share a position.",
    )
    return flaws


def _overlaps(batch: CrystalBatch, index: Tensor) -> Tensor:
    """Whether each of these crystals has two atoms on one spot.

    Atoms this close have a fractional difference next to whole numbers on every axis, so rounding
    finds their image in any cell that is not flat.
    """
    bad = torch.zeros(len(index), dtype=torch.bool)
    sizes = batch.n_atoms[index]
    for n in torch.unique(sizes).tolist():
        if n < 2:
            continue
        same = torch.nonzero(sizes == n).flatten()
        first, second = torch.triu_indices(n, n, offset=1)
        for part in same.split(max(1, _PAIRS_AT_ONCE // len(first))):
            crystals = index[part]
            rows = batch.offsets[crystals, None] + torch.arange(n)
            # Screen in single precision on the first axis before anything in three.
            frac, lattice = batch.frac_coords[rows], batch.lattice[crystals]
            reach = OVERLAP_ANGSTROM * torch.linalg.inv(lattice).norm(dim=1)
            step = frac[:, first, 0].float() - frac[:, second, 0].float()
            near = (step - step.round()).abs() <= reach[:, :1].float() + 1e-5
            which, pair = torch.nonzero(near, as_tuple=True)
            steps = frac[which, first[pair]] - frac[which, second[pair]]
            cart = torch.einsum("pi,pij->pj", steps - steps.round(), lattice[which])
            bad[part[which[cart.norm(dim=-1) < OVERLAP_ANGSTROM]]] = True
    return bad


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which replaces it when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
