import numpy as np
import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.neighbors import nearest
from matmill.crystals.orbital_field import N_ORBITALS, orbital_field, solid_angles


def cell(lattice, coords, numbers) -> CrystalBatch:
    return CrystalBatch.from_lists([lattice], [coords], [numbers])


def cubic(a, coords, numbers) -> CrystalBatch:
    return cell((a * np.eye(3)).tolist(), coords, numbers)


SIMPLE = cubic(3.0, [[0, 0, 0]], [84])
PEROVSKITE = cubic(
    3.9,
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    [38, 22, 8, 8, 8],
)
LOW = cell(
    [[4.1, 0.3, 0.2], [0.5, 5.0, -0.4], [-0.2, 0.9, 6.1]],
    [[0.02, 0.1, 0.2], [0.48, 0.61, 0.33], [0.9, 0.35, 0.77], [0.3, 0.9, 0.8]],
    [3, 26, 8, 15],
)


def test_solid_angles_of_hard_faces_equal_the_voronoi_ones():
    from pymatgen.analysis.local_env import VoronoiNN

    edges = nearest(LOW.to(dtype=torch.float64), 40)
    ours = solid_angles(edges, 4, squarings=14, directions=6000)
    structure = to_structure(LOW, 0)
    for atom in range(4):
        faces = VoronoiNN(compute_adj_neighbors=False).get_voronoi_polyhedra(structure, atom)
        mine = edges.source == atom
        assert float(ours[mine].sum()) == pytest.approx(1.0, abs=1e-4)
        for face in faces.values():
            image = face["site"].frac_coords - structure[face["site"].index].frac_coords
            same = mine & (edges.target == face["site"].index)
            same &= (edges.image == torch.from_numpy(np.rint(image)).long()).all(1)
            share = float(ours[same].sum())
            assert share == pytest.approx(face["solid_angle"] / (4 * np.pi), abs=0.004)


def test_smooth_solid_angles_of_equal_neighbours_are_equal():
    edges = nearest(SIMPLE.to(dtype=torch.float64), 6)
    assert solid_angles(edges, 1).tolist() == pytest.approx([1 / 6] * 6, abs=1e-3)


def test_simple_cubic_by_hand():
    # Po: 6s2 4f14 5d10 6p4 -> one in s2, p4, d10, f14; six equal neighbours, each with weight 1.
    matrix = orbital_field(SIMPLE, k=6).reshape(N_ORBITALS, N_ORBITALS)
    ones = torch.nonzero(matrix.abs().sum(0) > 0).flatten().tolist()
    assert ones == [1, 2 + 3, 8 + 9, 18 + 13]
    block = matrix[ones][:, ones]
    torch.testing.assert_close(block, torch.full((4, 4), 6.0), atol=0.03, rtol=0)
    assert matrix.sum() == pytest.approx(float(block.sum()))


def test_rows_and_columns_follow_the_definition():
    # A perovskite's Ti sees oxygen first: the largest weight is 1 for its six Ti-O edges.
    matrix = orbital_field(PEROVSKITE).reshape(N_ORBITALS, N_ORBITALS)
    d2, p4 = 8 + 1, 2 + 3
    # Only Ti has d2, only O has p4: the entry is the sum of weights of Ti-O edges over 5 atoms.
    assert float(matrix[d2, p4]) == pytest.approx(6 / 5, rel=0.1)
    # Seen from O both Ti have the largest solid angle.
    assert float(matrix[p4, d2]) == pytest.approx(3 * 2 / 5, rel=0.1)


@pytest.mark.parametrize("batch", [PEROVSKITE, LOW])
def test_supercells_order_and_origin_do_not_matter(batch):
    doubled = CrystalBatch.from_lists(
        [(batch.lattice[0] * torch.tensor([[2.0], [1.0], [1.0]])).tolist()],
        [
            torch.cat([batch.frac_coords, batch.frac_coords + torch.tensor([1.0, 0, 0])])
            .mul(torch.tensor([0.5, 1.0, 1.0]))
            .add(torch.tensor([0.21, 0.4, 0.03]))
            .flip(0)
            .tolist()
        ],
        [batch.atomic_numbers.repeat(2).flip(0).tolist()],
    )
    torch.testing.assert_close(orbital_field(doubled), orbital_field(batch), atol=2e-3, rtol=1e-3)


def test_turning_the_crystal_changes_little():
    rng = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    turned = CrystalBatch.from_lists(
        [(LOW.lattice[0] @ turn).tolist()], [LOW.frac_coords.tolist()], [LOW.atomic_numbers]
    )
    difference = (orbital_field(turned) - orbital_field(LOW)).norm()
    assert float(difference) < 0.05
    assert float(orbital_field(LOW).norm()) > 2


def test_many_crystals_equal_one_by_one():
    from matmill.crystals.batch import concatenate

    both = orbital_field(concatenate([PEROVSKITE, LOW, SIMPLE]))
    alone = torch.cat([orbital_field(x) for x in (PEROVSKITE, LOW, SIMPLE)])
    torch.testing.assert_close(both, alone)
    assert orbital_field(CrystalBatch.empty()).shape == (0, 1024)
