"""Space groups of ideal prototypes (T-24), in every cell and under both libraries."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures, to_structure
from matmill.crystals.symmetry import conventional, crystal_system, find, primitive, symmetrise
from matmill.errors import UnknownNameError

# ruff: noqa: E501
PROTOTYPES = {
    "NaCl": ("Fm-3m", (5.64, 5.64, 5.64, 90, 90, 90), ["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], 225),
    "CsCl": ("Pm-3m", (4.1, 4.1, 4.1, 90, 90, 90), ["Cs", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], 221),
    "ZnS": ("F-43m", (5.41, 5.41, 5.41, 90, 90, 90), ["Zn", "S"], [(0, 0, 0), (0.25,) * 3], 216),
    "ZnO": ("P6_3mc", (3.25, 3.25, 5.2, 90, 90, 120), ["Zn", "O"], [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.382)], 186),
    "C": ("Fd-3m", (3.57, 3.57, 3.57, 90, 90, 90), ["C"], [(0, 0, 0)], 227),
    "Mg": ("P6_3/mmc", (3.209, 3.209, 5.211, 90, 90, 120), ["Mg"], [(1 / 3, 2 / 3, 0.25)], 194),
    "TiO2": ("P4_2/mnm", (4.594, 4.594, 2.959, 90, 90, 90), ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], 136),
    "Fe": ("Im-3m", (2.866, 2.866, 2.866, 90, 90, 90), ["Fe"], [(0, 0, 0)], 229),
}  # fmt: skip
NUMBERS = [row[-1] for row in PROTOTYPES.values()]


@pytest.fixture(scope="module")
def prototypes():
    from pymatgen.core import Lattice, Structure

    return from_structures(
        [
            Structure.from_spacegroup(group, Lattice.from_parameters(*cell), species, coords)
            for group, cell, species, coords, _ in PROTOTYPES.values()
        ],
        ids=list(PROTOTYPES),
    )


@pytest.mark.parametrize("library", ["moyopy", "spglib"])
@pytest.mark.parametrize("symprec", [1e-5, 1e-2, 0.1])
def test_prototypes(prototypes, library, symprec):
    found = find(prototypes, symprec=symprec, library=library)
    assert found.number.tolist() == NUMBERS
    assert bool(found.found.all())
    assert found.crystal_system[0] == "cubic"
    assert found.symbol[0] == "Fm-3m"


def test_standard_cells(prototypes):
    small, large = primitive(prototypes), conventional(prototypes)
    assert small.n_atoms.tolist() == [2, 2, 2, 4, 2, 2, 6, 1]
    assert large.n_atoms.tolist() == [8, 2, 8, 4, 8, 2, 6, 2]
    assert find(small, symprec=1e-5).number.tolist() == NUMBERS
    assert small.ids == prototypes.ids
    torch.testing.assert_close(
        small.volume / small.n_atoms, prototypes.volume / prototypes.n_atoms, rtol=1e-9, atol=0.0
    )


def test_symmetrise_repairs_a_rattled_crystal(prototypes):
    rng = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(prototypes.frac_coords.shape, generator=rng, dtype=torch.float64)
    strain = 0.002 * torch.randn(len(prototypes), 3, 3, generator=rng, dtype=torch.float64)
    rattled = CrystalBatch(
        lattice=prototypes.lattice @ (torch.eye(3, dtype=torch.float64) + strain),
        frac_coords=(prototypes.frac_coords + 0.1 * noise) % 1.0,
        atomic_numbers=prototypes.atomic_numbers,
        n_atoms=prototypes.n_atoms,
    )
    assert find(rattled, symprec=1e-4).number.tolist() != NUMBERS
    repaired = symmetrise(rattled, symprec=0.1)
    assert find(repaired, symprec=1e-4).number.tolist() == NUMBERS
    assert repaired.n_atoms.tolist() == rattled.n_atoms.tolist()
    assert repaired.atomic_numbers.tolist() == rattled.atomic_numbers.tolist()
    assert float((repaired.lattice - rattled.lattice).abs().max()) < 0.05


def test_agrees_with_spacegroup_analyzer(shared_data):
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    from matmill.crystals.files import read

    batch = read(shared_data / "mp_20.parquet").crystals
    some = batch.select(torch.arange(0, len(batch), len(batch) // 60)[:60])
    ours = find(some, symprec=0.1, library="spglib").number.tolist()
    theirs = [
        SpacegroupAnalyzer(to_structure(some, i), symprec=0.1).get_space_group_number()
        for i in range(len(some))
    ]
    assert ours == theirs


def test_crystals_that_cannot_be_analysed_are_p1(prototypes):
    broken = CrystalBatch(
        lattice=prototypes.lattice[:1] * torch.nan,
        frac_coords=prototypes.frac_coords[:8],
        atomic_numbers=prototypes.atomic_numbers[:8],
        n_atoms=prototypes.n_atoms[:1],
    )
    both = concatenate([broken, prototypes.select([1])])
    for library in ("moyopy", "spglib"):
        found = find(both, library=library)
        assert found.number.tolist() == [1, 221]
        assert found.found.tolist() == [False, True]
        assert found.crystal_system == ("triclinic", "cubic")
    assert bool(symmetrise(both).lattice[0].isnan().all())


def test_no_crystals():
    empty = CrystalBatch.empty()
    assert len(find(empty).number) == 0
    assert len(symmetrise(empty)) == 0


def test_crystal_systems_follow_the_tables():
    from pymatgen.symmetry.groups import SpaceGroup

    for number in range(1, 231):
        assert crystal_system(number) == SpaceGroup.from_int_number(number).crystal_system


def test_unknown_library(prototypes):
    with pytest.raises(UnknownNameError, match="spglib"):
        find(prototypes, library="spg")


def test_a_layered_cell_that_once_never_returned():
    """An angle tolerance of its own sent moyopy into an endless loop on cells like this one."""
    from matmill.crystals.lattice import from_parameters

    lattice = from_parameters(
        torch.tensor([[3.4245066, 3.4245066, 17.547045, 83.703294, 83.703294, 59.9974759]]).double()
    )
    layers = [0.0, 0.0816, -0.0816, 0.5, 0.5816, 0.4184]
    batch = CrystalBatch.from_lists(
        lattice.tolist(),
        [[[x, x, z] for x, z in zip([0, 0.3, 0.7, 0.5, 0.8, 0.2], layers, strict=True)]],
        [[22, 16, 16, 22, 16, 16]],
    )
    assert 1 <= int(find(batch, symprec=0.1).number[0]) <= 230
