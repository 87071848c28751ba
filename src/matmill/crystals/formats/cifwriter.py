"""Write CIF with the symmetry that is detected: all operations, one site per orbit."""

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import reduced_formulas
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.formats.cif import (
    CELL_KEYS,
    MERGE_ANGSTROM,
    images_of,
    parse_operations,
)
from matmill.crystals.lattice import to_parameters
from matmill.crystals.symmetry import Symmetry, conventional, find


def write(batch: CrystalBatch, *, symprec: float | None = 0.01) -> str:
    """Return one CIF block per crystal.

    Args:
        batch: Any number of crystals.
        symprec: Tolerance in Å of the symmetry search. Crystals are written as their idealised
            conventional cell with all operations and one site per orbit; a crystal without
            symmetry, or None, is written as it is, in P1.
    """
    names = batch.ids or reduced_formulas(batch)
    if symprec is None:
        return "\n".join(_block(batch, i, names[i]) for i in range(len(batch)))
    given = find(batch, symprec=symprec)
    standard = conventional(batch, symprec)
    symmetry = find(standard, symprec=1e-4)
    blocks = []
    for i, name in enumerate(names):
        # When averaging lost or changed the group, the crystal as it is can never be wrong.
        agrees = int(given.number[i]) == int(symmetry.number[i]) > 1
        text = _symmetric_block(standard, i, name, symmetry) if agrees else None
        blocks.append(text or _block(batch, i, name))
    return "\n".join(blocks)


def _symmetric_block(batch: CrystalBatch, i: int, name: str, symmetry: Symmetry) -> str | None:
    """Return one block with one site per orbit; None when the operations miss the cell."""
    rows = batch.atoms_of(i)
    lattice = batch.lattice[i].double().cpu().numpy()
    frac = batch.frac_coords[rows].double().cpu().numpy()
    numbers = batch.atomic_numbers[rows].cpu().numpy()
    operations = _operations_of(lattice, frac, numbers)
    sites = _orbits(lattice, frac, numbers, operations)
    if sites is None:
        return None
    group = (int(symmetry.number[i]), symmetry.symbol[i])
    return _block(batch, i, name, group=group, operations=operations, sites=sites)


def _block(
    batch: CrystalBatch,
    i: int,
    name: str,
    *,
    group: tuple[int, str] = (1, "P1"),
    operations: Sequence[str] = ("x, y, z",),
    sites: Sequence[tuple[int, int]] = (),
) -> str:
    """Return one block; ``sites`` are (atom, multiplicity), all atoms where empty."""
    rows = batch.atoms_of(i)
    frac = batch.frac_coords[rows].tolist()
    numbers = batch.atomic_numbers[rows].tolist()
    lattice = batch.lattice[i].double()
    sites = sites or [(k, 1) for k in range(len(frac))]
    parameters = to_parameters(lattice[None])[0].tolist()
    formula = reduced_formulas(batch.select([i]))[0]
    lines = [f"data_{re.sub(r'[^A-Za-z0-9_.+-]', '_', name) or formula}"]
    lines += [f"_symmetry_space_group_name_H-M   '{group[1]}'"]
    lines += [f"{key}   {value:.10g}" for key, value in zip(CELL_KEYS, parameters, strict=True)]
    lines += [
        f"_symmetry_Int_Tables_number   {group[0]}",
        f"_chemical_formula_structural   {formula}",
    ]
    lines += [f"_cell_volume   {float(lattice.det().abs()):.8f}"]
    lines += [
        f"_matmill_{key}   {int(batch.properties[key][i])}"
        for key in _GROUP_KEYS
        if key in batch.properties and bool(batch.properties[key][i] > 0)
    ]
    lines += ["loop_", " _symmetry_equiv_pos_site_id", " _symmetry_equiv_pos_as_xyz"]
    lines += [f"  {k}  '{text}'" for k, text in enumerate(operations, start=1)]
    lines += ["loop_", *(f" _atom_site_{key}" for key in _SITE_KEYS)]
    for k, (site, multiplicity) in enumerate(sites):
        element = SYMBOLS[numbers[site]]
        place = "  ".join(f"{x:.10f}" for x in frac[site])
        lines.append(f"  {element}  {element}{k}  {multiplicity}  {place}  1")
    return "\n".join(lines) + "\n"


# Which space group a generator was asked for, and which one was found at the tolerance of its
# record; the one above is that of the sites as they are written here.
_GROUP_KEYS = ("space_group_requested", "space_group_found")
_SITE_KEYS = (
    "type_symbol",
    "label",
    "symmetry_multiplicity",
    "fract_x",
    "fract_y",
    "fract_z",
    "occupancy",
)


def _operations_of(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray) -> list[str]:
    import moyopy

    cell = moyopy.Cell(lattice.tolist(), frac.tolist(), numbers.tolist())
    found = moyopy.MoyoDataset(cell, symprec=1e-4).operations
    texts = [
        _operation_text(rotation, shift)
        for rotation, shift in zip(found.rotations, found.translations, strict=True)
    ]
    return sorted(set(texts), key=lambda text: (text != "x, y, z", text))


def _operation_text(rotation: list[list[int]], shift: list[float]) -> str:
    parts = []
    for row, t in zip(rotation, shift, strict=True):
        letters = "".join(
            ("+" if c > 0 else "-") + axis for c, axis in zip(row, "xyz", strict=True) if c
        )
        fraction = Fraction(t % 1.0).limit_denominator(24) % 1
        parts.append(letters.lstrip("+") + (f"+{fraction}" if fraction else ""))
    return ", ".join(parts)


def _orbits(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, operations: list[str]
) -> list[tuple[int, int]] | None:
    """Return (site, multiplicity) of one site per orbit, if the operations rebuild all atoms."""
    rotations, shifts = parse_operations(tuple(operations))
    left = set(range(len(frac)))
    orbits = []
    while left:
        site = min(left)
        images = images_of(frac[site], rotations, shifts, lattice)
        steps = images[:, None] - frac[None]
        gaps = np.linalg.norm((steps - np.round(steps)) @ lattice, axis=-1)
        gaps[:, numbers != numbers[site]] = np.inf
        members = set(gaps.argmin(axis=1).tolist())
        if gaps.min(axis=1).max() > MERGE_ANGSTROM or len(members) != len(images):
            return None
        orbits.append((site, len(images)))
        left -= members
    return orbits if sum(n for _, n in orbits) == len(frac) else None
