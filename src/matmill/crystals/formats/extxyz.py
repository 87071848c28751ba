"""Extended XYZ: many frames a file, each with its cell in the comment line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.records import BrokenEntryError, Complaint, Record

_PAIR = re.compile(r"""([^\s=]+)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\S+)""")
_NAME_KEYS = ("id", "material_id", "name")


def read(path: Path) -> Iterator[Record | Complaint]:
    """Yield a record or a complaint for every frame; a broken frame does not stop the next."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    at, row = 0, 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        row += 1
        try:
            count = int(lines[at])
        except ValueError:
            reason = f"line {at + 1} should be the number of atoms, but is '{lines[at][:40]}'"
            yield Complaint(str(path), row, reason, "The lines up to the next frame are skipped.")
            at = _next_frame(lines, at + 1)
            continue
        end = at + 2 + count
        following = _next_frame(lines, at + 1)
        if following < min(end, len(lines)) or end > len(lines) or count < 1:
            found = max(min(following, len(lines)) - at - 2, 0)
            reason = f"the frame at line {at + 1} promises {count} atoms and has {found}"
            yield Complaint(str(path), row, reason, "Correct the count or the atoms.")
            at = following
            continue
        try:
            yield _frame(lines[at + 1], lines[at + 2 : end], row)
        except BrokenEntryError as error:
            yield Complaint(str(path), row, error.reason, error.remedy)
        at = end


def write(batch: CrystalBatch) -> str:
    """Return all crystals as frames; properties and ids go to the comment lines."""
    cart = batch.cart_coords.double().tolist()
    numbers = batch.atomic_numbers.tolist()
    lattices = batch.lattice.double().reshape(-1, 9).tolist()
    properties = {name: values.tolist() for name, values in batch.properties.items()}
    lines, start = [], 0
    for i, n in enumerate(batch.n_atoms.tolist()):
        cell = " ".join(f"{x:.12g}" for x in lattices[i])
        words = [f'Lattice="{cell}"', "Properties=species:S:1:pos:R:3", 'pbc="T T T"']
        words += [
            f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}={values[i]!r}"
            for name, values in properties.items()
            if values[i] == values[i]
        ]
        if batch.ids:
            words.append(f"id={json.dumps(batch.ids[i])}")
        lines += [str(n), " ".join(words)]
        for z, (x, y, w) in zip(numbers[start : start + n], cart[start : start + n], strict=True):
            lines.append(f"{SYMBOLS[z]:<3}{x:18.12f}{y:18.12f}{w:18.12f}")
        start += n
    return "\n".join(lines) + "\n" if lines else ""


def _next_frame(lines: list[str], start: int) -> int:
    """Return the first line from ``start`` on that opens a frame with a cell."""
    for at in range(start, len(lines) - 1):
        if lines[at].strip().isdigit() and "lattice" in lines[at + 1].lower():
            return at
    return len(lines)


def _frame(comment: str, atoms: list[str], row: int) -> Record:
    pairs = {key: value.strip("\"'{}[]") for key, value in _PAIR.findall(comment)}
    cell = next((value for key, value in pairs.items() if key.lower() == "lattice"), None)
    if cell is None:
        raise BrokenEntryError(
            'the comment line has no Lattice="..."', "A crystal needs a cell; add nine numbers."
        )
    if "F" in pairs.get("pbc", "T T T").replace(",", " ").split():
        raise BrokenEntryError(
            f'the frame is not periodic in three dimensions (pbc="{pairs["pbc"]}")',
            'Set pbc="T T T" and a cell.',
        )
    species_at, position_at = _columns(pairs.get("Properties", "species:S:1:pos:R:3"))
    words = [line.split() for line in atoms]
    try:
        lattice = np.array([float(x) for x in cell.replace(",", " ").split()]).reshape(3, 3)
        cart = np.array([[float(x) for x in w[position_at : position_at + 3]] for w in words])
        kinds = [w[species_at] for w in words]
    except (ValueError, IndexError) as error:
        raise BrokenEntryError(
            f"a number is missing or unreadable ({error})", "Write plain numbers in all columns."
        ) from error
    if cart.shape != (len(words), 3):
        raise BrokenEntryError("an atom has no three coordinates", "Give x, y and z in Å.")
    if not abs(np.linalg.det(lattice)) > 1e-12:
        raise BrokenEntryError("the cell is flat or not finite", "Give three independent vectors.")
    with np.errstate(all="ignore"):  # what is not finite here is told with its reason later
        frac_coords = cart @ np.linalg.inv(lattice)
    values = {key: number for key, value in pairs.items() if (number := _number(value)) is not None}
    name = next((pairs[key] for key in _NAME_KEYS if key in pairs), None)
    return Record(
        row=row,
        lattice=lattice,
        frac_coords=frac_coords,
        numbers=np.array([_atomic_number(kind) for kind in kinds]),
        name=name,
        values={key: value for key, value in values.items() if key not in _NAME_KEYS},
    )


def _columns(text: str) -> tuple[int, int]:
    """Return the first column of the species and of the positions."""
    words, at, found = text.split(":"), 0, {}
    for name, _, width in zip(words[::3], words[1::3], words[2::3], strict=False):
        found[name] = at
        at += int(width) if width.isdigit() else 1
    species = found.get("species", found.get("Z"))
    if species is None or "pos" not in found:
        raise BrokenEntryError(
            f"Properties={text} has no species or no pos", "Use Properties=species:S:1:pos:R:3."
        )
    return species, found["pos"]


def _atomic_number(kind: str) -> int:
    if kind.isdigit():
        return int(kind)
    if kind in SYMBOLS[1:]:
        return SYMBOLS.index(kind)
    raise BrokenEntryError(f"'{kind}' is no element", "Use chemical symbols.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
