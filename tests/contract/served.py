"""Whether a row of a table is the crystal that was served."""

import numpy as np


def same(table, row, structure):
    """Whether a row is this pymatgen structure."""
    batch = table.crystals
    atoms = batch.atoms_of(row)
    gap = batch.frac_coords[atoms].numpy() - structure.frac_coords
    assert np.abs(gap - np.round(gap)).max() < 1e-6
    assert np.abs(batch.lattice[row].numpy() - structure.lattice.matrix).max() < 1e-6
    assert batch.atomic_numbers[atoms].tolist() == [site.specie.Z for site in structure]
