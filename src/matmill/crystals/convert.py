"""To and from pymatgen and ASE; the only file that knows their conventions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.periodic import wrap
from matmill.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


def to_structure(batch: CrystalBatch, i: int) -> "Structure":
    """Return crystal ``i`` as a pymatgen structure, with its properties and id attached."""
    from pymatgen.core import Structure

    rows = batch.atoms_of(i)
    properties: dict[str, object] = {
        name: float(values[i])
        for name, values in batch.properties.items()
        if not bool(torch.isnan(values[i]))
    }
    if batch.ids:
        properties["id"] = batch.ids[i]
    return Structure(
        batch.lattice[i].double().cpu().numpy(),
        [SYMBOLS[z] for z in batch.atomic_numbers[rows].tolist()],
        batch.frac_coords[rows].double().cpu().numpy(),
        properties=properties,
    )


def from_structures(structures: "Sequence[Structure]", ids: Sequence[str] = ()) -> CrystalBatch:
    """Return a float64 batch from ordered pymatgen structures.

    Numbers in ``structure.properties`` become properties; ``properties["id"]`` the id where
    ``ids`` is empty and every structure has one. Oxidation states are dropped.

    Raises:
        InputError: If a site is shared between elements.
    """
    for i, structure in enumerate(structures):
        if not structure.is_ordered:
            raise InputError(
                f"Structure {i} ({structure.composition.reduced_formula}) has sites with partial "
                "occupancy. Order it first, e.g. with pymatgen's OrderDisorderedStructure."
            )
    notes = [structure.properties or {} for structure in structures]
    return _from_arrays(
        [structure.lattice.matrix for structure in structures],
        [structure.frac_coords for structure in structures],
        [[site.specie.Z for site in structure] for structure in structures],
        notes,
        ids,
    )


def to_atoms(batch: CrystalBatch, i: int) -> "Atoms":
    """Return crystal ``i`` as periodic ASE atoms; properties and id go to ``atoms.info``."""
    from ase import Atoms

    rows = batch.atoms_of(i)
    atoms = Atoms(
        numbers=batch.atomic_numbers[rows].cpu().numpy(),
        scaled_positions=batch.frac_coords[rows].double().cpu().numpy(),
        cell=batch.lattice[i].double().cpu().numpy(),
        pbc=True,
    )
    for name, values in batch.properties.items():
        if not bool(torch.isnan(values[i])):
            atoms.info[name] = float(values[i])
    if batch.ids:
        atoms.info["id"] = batch.ids[i]
    return atoms


def from_atoms(atoms: "Sequence[Atoms]", ids: Sequence[str] = ()) -> CrystalBatch:
    """Return a float64 batch from ASE atoms; numbers in ``atoms.info`` become properties.

    Raises:
        InputError: If atoms are not periodic in three dimensions or have no cell.
    """
    for i, one in enumerate(atoms):
        if not all(one.pbc) or abs(one.cell.volume) < 1e-6:
            raise InputError(
                f"Atoms {i} ({one.get_chemical_formula()}) are not periodic in three dimensions. "
                "Set a cell and pbc=True."
            )
    return _from_arrays(
        [one.cell.array for one in atoms],
        [one.cell.scaled_positions(one.positions) for one in atoms],
        [one.numbers for one in atoms],
        [one.info for one in atoms],
        ids,
    )


def _from_arrays(
    lattices: Sequence[np.ndarray],
    frac_coords: Sequence[np.ndarray],
    numbers: Sequence[Sequence[int] | np.ndarray],
    notes: Sequence[dict],
    ids: Sequence[str],
) -> CrystalBatch:
    if not len(lattices):
        return CrystalBatch.empty()
    names = {name: None for note in notes for name, value in note.items() if _is_number(value)}
    properties = {
        name: torch.tensor(
            [float(note[name]) if _is_number(note.get(name)) else torch.nan for note in notes],
            dtype=torch.float64,
        )
        for name in names
    }
    if not ids and all("id" in note for note in notes):
        ids = [str(note["id"]) for note in notes]
    properties.pop("id", None)
    return CrystalBatch(
        lattice=torch.from_numpy(np.stack(lattices).astype(np.float64)),
        frac_coords=wrap(torch.from_numpy(np.concatenate(frac_coords).astype(np.float64))),
        atomic_numbers=torch.from_numpy(np.concatenate([np.asarray(z) for z in numbers])).long(),
        n_atoms=torch.tensor([len(z) for z in numbers]),
        properties=properties,
        ids=tuple(ids),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
