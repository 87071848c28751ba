"""POSCAR of VASP 5 and later: one crystal a file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import reduced_formulas
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.records import BrokenEntryError, Complaint, Record


def read(path: Path) -> Iterator[Record | Complaint]:
    """Yield the one crystal of a POSCAR, or a complaint."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        yield _parse(lines)
    except BrokenEntryError as error:
        yield Complaint(str(path), 1, error.reason, error.remedy)
    except (ValueError, IndexError) as error:
        reason = f"the POSCAR is cut short or has text where numbers belong ({error})"
        yield Complaint(str(path), 1, reason, "Compare it with the POSCAR page of the VASP manual.")


def write(batch: CrystalBatch, i: int) -> str:
    """Return the text of crystal ``i``, atoms grouped by element in the order of appearance."""
    rows = batch.atoms_of(i)
    numbers = batch.atomic_numbers[rows].tolist()
    kinds = list(dict.fromkeys(numbers))
    order = sorted(range(len(numbers)), key=lambda k: kinds.index(numbers[k]))
    frac = batch.frac_coords[rows].double().tolist()
    title = batch.ids[i] if batch.ids else reduced_formulas(batch.select([i]))[0]
    lines = [title.replace("\n", " "), "1.0"]
    lines += ["  ".join(f"{x:.12f}" for x in row) for row in batch.lattice[i].double().tolist()]
    lines += [" ".join(SYMBOLS[z] for z in kinds)]
    lines += [" ".join(str(numbers.count(z)) for z in kinds), "Direct"]
    lines += ["  ".join(f"{x:.12f}" for x in frac[k]) for k in order]
    return "\n".join(lines) + "\n"


def _parse(lines: list[str]) -> Record:
    scale = [float(x) for x in lines[1].split()]
    lattice = np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
    if lattice.shape != (3, 3):
        raise BrokenEntryError(
            "the cell is not three vectors of three numbers",
            "Lines 3 to 5 are the lattice vectors.",
        )
    if len(scale) == 1 and scale[0] < 0:
        volume = abs(np.linalg.det(lattice))
        scale = [(-scale[0] / volume) ** (1 / 3)] if volume > 0 else [1.0]
    factors = np.array(scale if len(scale) == 3 else scale * 3)
    symbols = [word.split("_")[0].split("/")[0] for word in lines[5].split()]
    if not symbols or not symbols[0][0].isalpha():
        raise BrokenEntryError(
            "line 6 has no element symbols (the old VASP 4 form)",
            "Add a line with the elements above the counts.",
        )
    for symbol in symbols:
        if symbol not in SYMBOLS[1:]:
            raise BrokenEntryError(f"'{symbol}' is no element", "Use chemical symbols in line 6.")
    counts = [int(word) for word in lines[6].split()]
    if len(counts) != len(symbols):
        raise BrokenEntryError(
            f"{len(symbols)} elements but {len(counts)} counts", "Give one count per element."
        )
    at = 8 if lines[7].strip()[:1] in ("S", "s") else 7
    is_cartesian = lines[at].strip()[:1] in ("C", "c", "K", "k")
    n = sum(counts)
    coords = np.array([[float(x) for x in line.split()[:3]] for line in lines[at + 1 : at + 1 + n]])
    if coords.shape != (n, 3):
        raise BrokenEntryError(
            f"the counts promise {n} atoms, the file has {len(coords)}", "Correct line 7."
        )
    lattice = lattice * factors
    if is_cartesian:
        if abs(np.linalg.det(lattice)) < 1e-12:
            raise BrokenEntryError("the cell is flat", "Check lines 3 to 5.")
        coords = (coords * factors) @ np.linalg.inv(lattice)
    numbers = np.repeat([SYMBOLS.index(symbol) for symbol in symbols], counts)
    name = lines[0].strip() or None
    return Record(row=1, lattice=lattice, frac_coords=coords, numbers=numbers, name=name)
