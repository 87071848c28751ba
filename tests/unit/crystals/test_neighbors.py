"""Neighbour lists on real crystals, and at the edges of what can be asked."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import read
from matmill.crystals.neighbors import nearest, within
from matmill.errors import InputError


def test_real_crystals_agree_edge_for_edge_with_matscipy(shared_data):
    from matscipy.neighbours import neighbour_list

    batch = read(shared_data / "mp_union.parquet").crystals
    batch = batch.select(torch.arange(0, len(batch), 250)[:510])
    found = within(batch, 5.0)
    of = batch.crystal_index[found.source]
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        source, target, image = neighbour_list(
            "ijS",
            cutoff=5.0,
            positions=batch.cart_coords[rows].numpy(),
            cell=batch.lattice[i].numpy(),
            pbc=[True, True, True],
            numbers=batch.atomic_numbers[rows].int().numpy(),
        )
        theirs = sorted(zip(source.tolist(), target.tolist(), image.tolist(), strict=True))
        start, mine = rows.start, of == i
        ours = zip(
            (found.source[mine] - start).tolist(),
            (found.target[mine] - start).tolist(),
            found.image[mine].tolist(),
            strict=True,
        )
        assert sorted(ours) == theirs, f"crystal {i}"


def fcc(a=4.0):
    return CrystalBatch.from_lists(
        [[[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]], [[[0, 0, 0]]], [[29]]
    )


def test_one_atom_sees_its_own_images():
    found = nearest(fcc(), 12)
    torch.testing.assert_close(found.distance, torch.full((12,), 8.0**0.5).double())
    assert found.image.tolist() == sorted(found.image.tolist())
    assert set(found.target.tolist()) == {0}


def test_the_cutoff_limits_nearest():
    found = nearest(fcc(), 12, cutoff=2.0)
    assert len(found) == 0
    assert found.is_full.tolist() == [False]
    found = nearest(fcc(), 18, cutoff=3.5)
    assert len(found) == 12
    assert found.is_full.tolist() == [False]
    assert bool(nearest(fcc(), 18, cutoff=4.1).is_full.all())


@pytest.mark.parametrize("n", [200, 500])
def test_large_cells(n):
    rng = torch.Generator().manual_seed(n)
    batch = CrystalBatch.from_lists(
        [(torch.eye(3) * 20.0).tolist()], [torch.rand(n, 3, generator=rng).tolist()], [[6] * n]
    )
    found = nearest(batch, 12)
    steps = batch.frac_coords[None] - batch.frac_coords[:, None]
    distance = ((steps - steps.round()) * 20.0).norm(dim=-1).sort(dim=1).values[:, 1:13]
    torch.testing.assert_close(found.distance.reshape(n, 12).sort(dim=1).values, distance)


def test_atoms_on_one_spot_are_neighbours_at_distance_zero():
    batch = CrystalBatch.from_lists(
        [(torch.eye(3) * 5).tolist()], [[[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]], [[6, 6]]
    )
    found = within(batch, 1.0)
    assert found.source.tolist() == [0, 1]
    assert found.distance.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_empty_batch_keeps_shapes():
    for found in (within(CrystalBatch.empty(), 3.0), nearest(CrystalBatch.empty(), 3)):
        assert len(found) == 0
        assert found.image.shape == (0, 3)
        assert found.vector.shape == (0, 3)
        assert found.is_full.shape == (0,)


def test_single_precision_in_single_precision_out():
    found = nearest(fcc().to(dtype=torch.float32), 6)
    assert found.distance.dtype == torch.float32
    assert found.source.dtype == torch.int64


def test_impossible_questions():
    with pytest.raises(InputError, match="positive"):
        within(fcc(), 0.0)
    with pytest.raises(InputError, match="positive"):
        within(fcc(), float("inf"))
    with pytest.raises(InputError, match="positive"):
        nearest(fcc(), 0)
