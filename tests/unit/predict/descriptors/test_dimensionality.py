"""Dimensionality and layers against known crystals, pymatgen and closed forms."""

import pytest
import torch
from descriptor_crystals import (
    crystal,
    cubic,
    diamond,
    graphite,
    known_crystals,
    mos2_layer,
    reversed_atoms,
    rotated,
    supercell,
    translated,
)
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.predict.descriptors.bonds import find_bonds
from matmill.predict.descriptors.dimensionality import (
    components,
    dimensionality,
    layer_geometry,
)
from matmill.testing.strategies import batches, rotations


def test_known_crystals():
    found = dict(zip(known_crystals().ids, dimensionality(known_crystals()).tolist(), strict=True))
    assert found == {
        "rock salt": 3, "diamond": 3, "fcc": 3, "simple cubic": 3,
        "graphite": 2, "MoS2": 2, "chain": 1, "water": 0,
    }  # fmt: skip


def test_supercells_have_the_same_dimensionality():
    batch = known_crystals()
    assert torch.equal(dimensionality(supercell(batch, (2, 3, 1))), dimensionality(batch))


def test_mixed_components_are_told_apart():
    """A molecule between the layers of graphite keeps its own rank."""
    layer = graphite(c=20.0)
    sites = [(6, *x) for x in layer.frac_coords.tolist()[:2]] + [(7, 0, 0, 0.7), (7, 0, 0, 0.755)]
    mixed = crystal(layer.lattice[0].tolist(), sites)
    found = components(find_bonds(mixed))
    assert found.rank.tolist() == [2, 2, 0, 0]
    assert found.first.tolist() == [0, 0, 2, 2]
    assert dimensionality(mixed).tolist() == [2]


@given(batches(max_atoms=6, min_distance=0.9))
def test_agrees_with_pymatgen(batch: CrystalBatch):
    """The rank of Larsen's algorithm on the same bonds."""
    from pymatgen.analysis.dimensionality import get_structure_components
    from pymatgen.analysis.graphs import StructureGraph
    from pymatgen.core import Structure

    ours = dimensionality(batch)
    bonds = find_bonds(batch)
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        structure = Structure(
            batch.lattice[i].numpy(),
            batch.atomic_numbers[rows].tolist(),
            batch.frac_coords[rows].numpy(),
        )
        graph = StructureGraph.from_empty_graph(structure)
        for edge in torch.nonzero(bonds.crystal == i).flatten().tolist():
            graph.add_edge(
                int(bonds.source[edge]) - rows.start,
                int(bonds.target[edge]) - rows.start,
                to_jimage=tuple(bonds.image[edge].tolist()),
                warn_duplicates=False,
            )
        theirs = max(c["dimensionality"] for c in get_structure_components(graph))
        assert int(ours[i]) == theirs


def test_layer_geometry_of_graphite():
    found = layer_geometry(graphite(a=2.46, c=6.71))
    area = 2.46**2 * 3**0.5 / 2
    assert found.n_layers.tolist() == [2]
    assert found.normal.tolist() == [[0, 0, 1]]
    torch.testing.assert_close(found.area, torch.tensor([area]).double())
    torch.testing.assert_close(found.area_per_atom, torch.tensor([area / 2]).double())
    torch.testing.assert_close(found.vacuum, torch.tensor([3.355]).double())
    torch.testing.assert_close(found.thickness, torch.zeros(1).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("z", [0.4, 0.03, 0.97])
@pytest.mark.parametrize("c", [20.0, 35.0])
def test_vacuum_and_place_in_the_cell_do_not_matter(z, c):
    found = layer_geometry(mos2_layer(c=c, z=z))
    torch.testing.assert_close(found.thickness, torch.tensor([3.12]).double())
    torch.testing.assert_close(found.vacuum, torch.tensor([c - 3.12]).double())
    torch.testing.assert_close(found.area_per_atom, torch.tensor([3.19**2 * 3**0.5 / 6]).double())
    torch.testing.assert_close(found.height, torch.tensor([1.56, 3.12, 0]).double())
    torch.testing.assert_close(found.depth, torch.tensor([1.56, 0, 3.12]).double())


def test_layers_along_a_diagonal_of_the_cell_are_found():
    """Graphite with the stacking axis c' = a + b + c, and its axes in another order."""
    plain = graphite()
    change = torch.tensor([[0, 1, 0], [1, 1, 1], [1, 0, 0]]).double()
    skewed = CrystalBatch(
        lattice=(change @ plain.lattice[0])[None],
        frac_coords=plain.frac_coords @ torch.linalg.inv(change),
        atomic_numbers=plain.atomic_numbers,
        n_atoms=plain.n_atoms,
    )
    a, b = layer_geometry(plain), layer_geometry(skewed)
    for name in ("n_layers", "area", "area_per_atom", "thickness", "vacuum"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-9, rtol=1e-9)


@given(batches(max_atoms=6), rotations(), st.integers(0, 1000))
def test_layers_are_invariant(batch: CrystalBatch, rotation: torch.Tensor, step: int):
    plain = layer_geometry(batch)
    moved = layer_geometry(
        reversed_atoms(translated(rotated(batch, rotation), torch.full((3,), step / 1001)))
    )
    volume = plain.area * (plain.thickness + plain.vacuum) * plain.n_layers
    torch.testing.assert_close(volume, batch.volume, atol=1e-6, rtol=1e-6)
    for name in ("area", "vacuum", "thickness", "area_per_atom"):
        assert torch.isfinite(getattr(plain, name)).all()
    torch.testing.assert_close(plain.vacuum, moved.vacuum, atol=1e-6, rtol=1e-6)


def test_supercells_share_their_layers():
    plain = layer_geometry(mos2_layer())
    large = layer_geometry(supercell(mos2_layer(), (2, 3, 2)))
    assert large.n_layers.tolist() == [2]
    for name in ("area_per_atom", "thickness", "vacuum"):
        torch.testing.assert_close(getattr(plain, name), getattr(large, name))


def test_bad_cells_are_refused():
    flat = crystal([[1, 0, 0], [0, 1, 0], [1, 1, 0]], [(6, 0, 0, 0)], "flat")
    masked = crystal(cubic(3.0), [(0, 0, 0, 0)], "masked")
    for bad, name in ((flat, "flat"), (masked, "masked")):
        with pytest.raises(InputError, match=name):
            layer_geometry(bad)
        with pytest.raises(InputError, match=name):
            dimensionality(bad)


def test_an_empty_batch_has_empty_answers():
    assert dimensionality(CrystalBatch.empty()).shape == (0,)
    assert layer_geometry(CrystalBatch.empty()).area.shape == (0,)
    assert dimensionality(diamond()).dtype == torch.int64
