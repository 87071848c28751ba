"""The structure block against known crystals, brute force, pymatgen and its own symmetry."""

import itertools
import math

import pytest
import torch
from descriptor_crystals import (
    chain,
    crystal,
    cubic,
    diamond,
    fcc,
    known_crystals,
    mos2_layer,
    reversed_atoms,
    rock_salt,
    rotated,
    simple_cubic,
    supercell,
    translated,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch
from matmill.predict.descriptors.bonds import edges_within, find_bonds
from matmill.predict.descriptors.environment import bond_pairs, radial_distribution
from matmill.predict.descriptors.sites import cosine_sums, gaussian_columns
from matmill.predict.descriptors.slab import slab_block
from matmill.predict.descriptors.structure import structure_block
from matmill.predict.descriptors.symmetry import crystal_class
from matmill.testing.strategies import batches, rotations


def column(batch: CrystalBatch, name: str) -> float:
    return float(structure_block(batch).column(name)[0])


def test_rock_salt():
    salt = rock_salt(a=5.64)
    expected = {
        "coordination_mean": 6,
        "coordination_std": 0,
        "bond_length_angstrom_mean": 2.82,
        "bond_length_angstrom_std": 0,
        "bond_length_over_radii_min": 2.82 / (1.55 + 0.99),
        "bond_gap_electronegativity_max": 3.16 - 0.93,
        "bond_gap_electronegativity_std": 0,
        "bond_share_same_element": 0,
        "bond_share_metal_metal": 0,
        "angle_degrees_min": 90,
        "angle_degrees_max": 180,
        "angle_degrees_mean": (12 * 90 + 3 * 180) / 15,
        "nearest_angstrom_mean": 2.82,
        "nearest_packing": math.pi / 6,
        "space_group_number": 225,
        "crystal_system_rank": 6,
        "is_centrosymmetric": 1,
        "is_polar": 0,
        "n_point_operations": 48,
        "n_primitive_atoms": 2,
        "n_inequivalent_sites": 2,
        "complexity_bits_per_atom": 1,
        "complexity_bits_per_cell": 2,
        "volume_per_atom_angstrom3": 5.64**3 / 8,
        "packing_covalent": 4 * 4 * math.pi / 3 * (1.55**3 + 0.99**3) / 5.64**3,
        "bonds_per_angstrom3": 24 / 5.64**3,
        "bond_direction_least": 1 / 3,
        "dimensionality": 3,
    }
    found = structure_block(salt)
    for name, value in expected.items():
        assert float(found.column(name)[0]) == pytest.approx(value, abs=1e-7), name


def test_crystal_classes_agree_with_moyopy():
    import moyopy
    import numpy as np

    for number in range(1, 231):
        operations = np.array(moyopy.operations_from_number(number).rotations)
        rotations = np.unique(operations.reshape(-1, 9), axis=0).reshape(-1, 3, 3)
        is_centric = bool((rotations == -np.eye(3)).all((1, 2)).any())
        is_polar = bool(abs(rotations.mean(0)).max() > 1e-9)
        assert crystal_class(number) == (is_centric, is_polar, len(rotations))


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_density_and_symmetry_agree_with_pymatgen():
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    batch = known_crystals()
    found = structure_block(batch)
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        structure = Structure(
            batch.lattice[i].numpy(), batch.atomic_numbers[rows].tolist(), batch.frac_coords[rows]
        )
        analyzer = SpacegroupAnalyzer(structure, symprec=0.1)
        theirs = {
            "density_g_per_cm3": float(structure.density),
            "space_group_number": analyzer.get_space_group_number(),
            "is_centrosymmetric": 1.0 * analyzer.is_laue(),
            "n_point_operations": len(analyzer.get_point_group_operations()),
            "n_primitive_atoms": len(analyzer.find_primitive()),
        }
        for name, value in theirs.items():
            assert float(found.column(name)[i]) == pytest.approx(value, rel=1e-3), (i, name)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (fcc, {4: 0.190941, 6: 0.574524, 2: 0.0}),
        (simple_cubic, {4: 0.763763, 6: 0.353553, 2: 0.0}),
        (diamond, {3: 0.745356, 4: 0.509175, 6: 0.628539, 1: 0.0}),
    ],
)
def test_bond_order_of_known_crystals(make, values):
    """The values of Steinhardt and others 1983 for 12, 6 and 4 neighbours."""
    for order, value in values.items():
        assert column(make(), f"bond_order_{order}_mean") == pytest.approx(value, abs=2e-6)


def test_angles_of_diamond_and_chain():
    assert column(diamond(), "angle_degrees_mean") == pytest.approx(math.degrees(math.acos(-1 / 3)))
    assert column(diamond(), "angle_degrees_std") == pytest.approx(0, abs=1e-6)
    step = torch.tensor([0.16 * 9.0, 0.0, 1.8])
    angle = 2 * math.degrees(math.atan2(float(step[2]), float(step[0])))
    assert column(chain(), "angle_degrees_max") == pytest.approx(angle)


def test_no_bonds_means_unknown_not_zero():
    lone = crystal(cubic(15.0), [(18, 0, 0, 0)], "argon")
    found = structure_block(lone)
    assert float(found.column("coordination_mean")[0]) == 0
    for name in ("bond_length_angstrom_mean", "angle_degrees_mean", "bond_order_4_mean"):
        assert math.isnan(float(found.column(name)[0]))
    assert not torch.isinf(found.values).any()
    assert float(found.column("dimensionality")[0]) == 0


@given(batches(max_crystals=2, max_atoms=5, min_distance=0.8))
@settings(max_examples=10)
def test_sums_over_pairs_agree_with_loops(batch: CrystalBatch):
    """The moment form of the angular sums, G2, G5 and the shells, pair by pair."""
    edges = edges_within(batch, 7.0)
    near = edges.keep(edges.distance < 6.5)
    weight = torch.exp(-0.2 * near.distance**2)
    fade = 0.5 * (torch.cos(math.pi * near.distance / 6.5) + 1)
    sums = cosine_sums(near, weight, 4)
    atom = int(batch.offsets[-1])
    mine = torch.nonzero(near.source == atom).flatten().tolist()
    expected = [0.0] * 5
    g5 = 0.0
    for j, k in itertools.product(mine, mine):
        cosine = float(near.unit[j] @ near.unit[k])
        for power in range(5):
            expected[power] += float(weight[j] * weight[k]) * cosine**power
        if j < k:
            g5 += 2.0**-3 * (1 + cosine) ** 4 * float(weight[j] * fade[j] * weight[k] * fade[k])
    for power in range(5):
        assert float(sums[power][atom]) == pytest.approx(expected[power], rel=1e-9, abs=1e-12)
    alone = batch.select([len(batch) - 1])
    if int(alone.n_atoms[0]) == 1:
        found = gaussian_columns(edges_within(alone, 7.0))
        assert float(found["g5_0.2_4_plus_max"][0]) == pytest.approx(g5, rel=1e-8, abs=1e-12)
        g2 = float((torch.exp(-4 * (near.distance[mine] / 6.5) ** 2) * fade[mine]).sum())
        assert float(found["g2_4_mean"][0]) == pytest.approx(g2, rel=1e-9)


@given(batches(max_crystals=1, max_atoms=4, min_distance=0.8))
@settings(max_examples=10)
def test_the_radial_distribution_counts_every_neighbour(batch: CrystalBatch):
    """Shells weighted by their volume add up to the neighbours, less at either end."""
    edges = edges_within(batch, 8.4)
    found = radial_distribution(edges)
    total = 0.0
    for i in range(1, 21):
        distance = torch.linspace(0.4 * (i - 1), 0.4 * (i + 1), 4001).double()
        triangle = 1 - (distance / 0.4 - i).abs()
        volume = float(torch.trapezoid(4 * math.pi * distance**2 * triangle, distance))
        total += volume * float(found[f"radial_{0.4 * i:.1f}_mean"][0])
    share = torch.minimum(edges.distance, 8.4 - edges.distance).div(0.4).clamp(0, 1)
    assert total == pytest.approx(float(share.sum() / batch.n_atoms.sum()), rel=1e-6, abs=1e-9)


def test_pairs_of_bonds():
    left, right = bond_pairs(torch.tensor([0, 0, 0, 2, 2]), 3)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (3, 4)]


@given(batches(max_atoms=5, min_distance=0.8), rotations(), st.integers(0, 1000))
@settings(max_examples=12)
def test_nothing_but_the_crystal_matters(batch: CrystalBatch, rotation, step: int):
    """Rotation, translation and the order of the atoms."""
    moved = reversed_atoms(translated(rotated(batch, rotation), torch.full((3,), step / 1001)))
    for block in (structure_block, slab_block):
        first, second = block(batch), block(moved)
        # The arccosine turns rounding of 1e-15 at straight angles into 1e-6 of a degree.
        torch.testing.assert_close(
            first.values, second.values, rtol=1e-6, atol=1e-5, equal_nan=True
        )


@pytest.mark.parametrize("times", [(2, 1, 1), (1, 3, 2)])
def test_supercells_are_the_same_crystal(times):
    batch = known_crystals()
    first, second = structure_block(batch), structure_block(supercell(batch, times))
    torch.testing.assert_close(first.values, second.values, rtol=1e-6, atol=1e-6, equal_nan=True)


@given(batches(max_crystals=2, max_atoms=4, min_distance=0.8))
@settings(max_examples=8)
def test_supercells_of_any_crystal(batch: CrystalBatch):
    first = structure_block(batch)
    second = structure_block(supercell(batch, (1, 2, 1)))
    torch.testing.assert_close(first.values, second.values, rtol=1e-6, atol=1e-6, equal_nan=True)


class TestSlab:
    def test_layer_of_mos2(self):
        found = slab_block(mos2_layer(c=25.0))
        area = 3.19**2 * 3**0.5 / 2
        expected = {
            "area_angstrom2": area,
            "area_per_atom_angstrom2": area / 3,
            "thickness_angstrom": 3.12,
            "thickness_per_atom_angstrom": 1.04,
            "vacuum_angstrom": 25 - 3.12,
            "in_plane_short_angstrom": 3.19,
            "in_plane_aspect": 1.0,
            "in_plane_angle_degrees": 60.0,
            "mass_amu_per_angstrom2": (95.95 + 2 * 32.06) / area,
            "surface_atomic_number_mean": 16,
            "surface_atomic_number_difference": 0,
            "surface_coordination_mean": 3,
            "surface_electronegativity_mean": 2.58,
            "height_spread_angstrom": 1.56 * (2 / 3) ** 0.5,
            "layered_share": 1,
            "dimensionality": 2,
            "n_layers": 1,
        }
        for name, value in expected.items():
            # A trace of Mo counts as surface: exp(-(1.56/0.5)²) = 6e-5.
            assert float(found.column(name)[0]) == pytest.approx(value, rel=2e-4, abs=1e-6), name

    def test_two_faces_are_told_apart(self):
        janus = mos2_layer()
        janus.atomic_numbers[2] = 34
        found = slab_block(janus)
        assert float(found.column("surface_atomic_number_mean")[0]) == pytest.approx(25, rel=1e-3)
        difference = float(found.column("surface_atomic_number_difference")[0])
        assert difference == pytest.approx(18, rel=1e-3)

    def test_vacuum_changes_only_what_names_it(self):
        thin, wide = slab_block(mos2_layer(c=20.0)), slab_block(mos2_layer(c=35.0))
        same = torch.isclose(thin.values, wide.values, rtol=1e-9, atol=1e-9)[0].tolist()
        changed = {name for name, is_same in zip(thin.names, same, strict=True) if not is_same}
        assert changed == {"vacuum_angstrom", "vacuum_share", "vacuum_over_contact"}

    def test_bulk_crystals_have_finite_numbers(self):
        assert torch.isfinite(slab_block(known_crystals()).values).all()

    def test_supercells_within_the_plane(self):
        plain, large = slab_block(mos2_layer()), slab_block(supercell(mos2_layer(), (2, 2, 3)))
        extensive = {"area_angstrom2", "n_layers", "atoms_per_layer", "thickness_per_atom_angstrom"}
        keep = [
            name
            for name in plain.names
            if name not in extensive and not name.startswith("in_plane")
        ]
        torch.testing.assert_close(
            plain.select_columns(keep).values, large.select_columns(keep).values
        )


def test_bonds_are_symmetric():
    bonds = find_bonds(known_crystals())
    forward = {
        (int(a), int(b), *v)
        for a, b, v in zip(bonds.source, bonds.target, bonds.image.tolist(), strict=True)
    }
    assert forward == {(b, a, -x, -y, -z) for a, b, x, y, z in forward}
