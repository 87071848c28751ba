"""Round trips through pymatgen and ASE, in their own conventions."""

import numpy as np
import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import from_atoms, from_structures, to_atoms, to_structure
from matmill.errors import InputError


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(1)
    cells = torch.eye(3, dtype=torch.float64) * 4 + torch.rand(3, 3, 3, generator=rng).double()
    return CrystalBatch.from_lists(
        cells.tolist(),
        [torch.rand(n, 3, generator=rng).tolist() for n in (1, 4, 2)],
        [[26], [8, 8, 22, 3], [31, 7]],
        ids=("a", "b", "c"),
        properties={"band_gap_ev": [1.0, float("nan"), 2.0]},
    )


def test_structures(batch):
    structures = [to_structure(batch, i) for i in range(3)]
    cart = structures[1].cart_coords
    np.testing.assert_allclose(cart, batch.cart_coords[batch.atoms_of(1)].numpy(), atol=1e-12)
    assert structures[1].properties == {"id": "b"}
    assert same(from_structures(structures), batch)


def test_atoms(batch):
    atoms = [to_atoms(batch, i) for i in range(3)]
    np.testing.assert_allclose(
        atoms[1].positions, batch.cart_coords[batch.atoms_of(1)].numpy(), atol=1e-12
    )
    assert atoms[1].pbc.all()
    assert same(from_atoms(atoms), batch)


def same(a, b):
    torch.testing.assert_close(a.lattice, b.lattice)
    torch.testing.assert_close(a.frac_coords, b.frac_coords)
    torch.testing.assert_close(
        a.properties["band_gap_ev"], b.properties["band_gap_ev"], equal_nan=True
    )
    return a.ids == b.ids and a.atomic_numbers.tolist() == b.atomic_numbers.tolist()


def test_what_is_no_ordered_crystal_is_refused(batch):
    from ase import Atoms
    from pymatgen.core import Lattice, Structure

    mixed = Structure(Lattice.cubic(4), [{"Fe": 0.5, "Co": 0.5}], [[0, 0, 0]])
    with pytest.raises(InputError, match="partial occupancy"):
        from_structures([mixed])
    with pytest.raises(InputError, match="not periodic"):
        from_atoms([to_atoms(batch, 0), Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])])


def test_oxidation_states_are_dropped(batch):
    structure = to_structure(batch, 1)
    structure.add_oxidation_state_by_element({"O": -2, "Ti": 3, "Li": 1})
    assert from_structures([structure]).atomic_numbers.tolist() == [8, 8, 22, 3]


def test_nothing():
    assert len(from_structures([])) == 0
    assert len(from_atoms([])) == 0
