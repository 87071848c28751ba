import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import DataError, InputError
from matmill.graphs.graph import build, build_cached


def _random_batch(seed, sizes):
    rng = torch.Generator().manual_seed(seed)
    lattice = 4.0 * torch.eye(3).double() + torch.rand(len(sizes), 3, 3, generator=rng).double()
    n = sum(sizes)
    return CrystalBatch(
        lattice=lattice,
        frac_coords=torch.rand(n, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 90, (n,), generator=rng),
        n_atoms=torch.tensor(sizes),
    )


def _brute_force(batch, crystal, reach=5):
    """All distances of every atom to all images, by definition."""
    rows = batch.atoms_of(crystal)
    frac, lattice = batch.frac_coords[rows], batch.lattice[crystal]
    steps = torch.cartesian_prod(*[torch.arange(-reach, reach + 1.0).double()] * 3)
    vectors = frac[None, :, None] + steps[None, None] - frac[:, None, None]
    distance = (vectors @ lattice).norm(dim=-1)
    distance[distance < 1e-8] = torch.inf
    return distance.flatten(1)


@given(st.integers(0, 1000), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_distances_are_those_of_the_definition(seed, sizes):
    batch = _random_batch(seed, sizes)
    graph = build(batch, k=12, cutoff=6.0)
    for i in range(len(batch)):
        expected = _brute_force(batch, i).sort(dim=1).values[:, :12]
        rows = batch.atoms_of(i)
        expected_mask = expected <= 6.0
        assert torch.equal(graph.mask[rows], expected_mask)
        found = graph.distance[rows].double()
        filled = torch.where(expected_mask, expected, torch.full_like(expected, 6.0))
        torch.testing.assert_close(found, filled, atol=1e-5, rtol=0.0)
        neighbors = graph.neighbor[rows]
        assert bool(((neighbors >= rows.start) & (neighbors < rows.stop)).all())


def test_a_lonely_atom_is_all_padding():
    batch = CrystalBatch.from_lists([torch.eye(3) * 20], [[[0, 0, 0]]], [[2]])
    graph = build(batch)
    assert graph.neighbor.tolist() == [[0] * 12]
    assert not bool(graph.mask.any())
    assert bool((graph.distance == 8.0).all())


def test_selecting_equals_building_the_selection():
    batch = _random_batch(3, [3, 1, 5, 2])
    order = [2, 0, 2, 3]
    a, b = build(batch).select(order), build(batch.select(order))
    for name in ("n_atoms", "atomic_numbers", "neighbor", "distance", "mask", "weight", "count"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_large_batches_are_cut_and_joined():
    small = _random_batch(5, [1, 2])
    batch = concatenate([small] * 1200)
    graph = build(batch, k=4)
    again = build(small, k=4)
    assert torch.equal(graph.distance[-3:], again.distance)
    assert torch.equal(graph.neighbor[-3:] - len(batch.frac_coords) + 3, again.neighbor)


def test_empty_batch():
    graph = build(CrystalBatch.empty())
    assert len(graph) == 0
    assert graph.neighbor.shape == (0, 12)


def test_flat_cells_are_named():
    batch = CrystalBatch.from_lists([torch.eye(3)], [[[0, 0, 0]]], [[2]], ids=["flat"])
    batch.lattice[0, 2] = 0.0
    with pytest.raises(InputError, match="Crystal flat has no volume"):
        build(batch)


def test_the_cache_gives_the_same_and_notices_damage(tmp_path):
    batch = _random_batch(1, [2, 4])
    fresh = build_cached(batch, folder=tmp_path)
    cached = build_cached(batch, folder=tmp_path)
    assert torch.equal(fresh.distance, cached.distance)
    assert torch.equal(fresh.neighbor, cached.neighbor)
    (file,) = tmp_path.iterdir()
    build_cached(batch, k=5, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    file.write_bytes(b"broken")
    with pytest.raises(DataError, match="damaged"):
        build_cached(batch, folder=tmp_path)
