import numpy as np
import pytest
import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.graphs.asymmetric import merged
from matmill.graphs.graph import build, build_cached
from matmill.predict.cgcnn import Cgcnn

ROCK_SALT = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def _salt(first=11, second=17, edge=5.64):
    """Rock salt in its cubic cell of 8 atoms."""
    sites = [*ROCK_SALT, *(0.5 + np.array(ROCK_SALT)).tolist()]
    return CrystalBatch.from_lists(
        [np.eye(3) * edge], [sites], [[first] * 4 + [second] * 4], ids=["salt"]
    )


def _rattled(n=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return CrystalBatch(
        lattice=4 * torch.eye(3).double()[None] + torch.rand(1, 3, 3, generator=rng).double(),
        frac_coords=torch.rand(n, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 90, (n,), generator=rng),
        n_atoms=torch.tensor([n]),
        ids=("rattled",),
    )


def _trained_like(seed=0):
    """A network whose batch statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    network = Cgcnn(2, width=16, hidden=16)
    with torch.no_grad():
        for _ in range(3):
            network(build(concatenate([_salt(), _rattled(6), _rattled(4, seed=1)])))
    return network.eval()


def test_rock_salt_is_two_nodes():
    small = merged(build(_salt()))
    assert small.n_atoms.tolist() == [2]
    assert small.atomic_numbers.tolist() == [11, 17]
    assert small.weight.tolist() == [4.0, 4.0]
    # Six of the other kind at half an edge, then the first six of twelve of the same kind.
    assert small.neighbor[:, :2].tolist() == [[1, 0], [0, 1]]
    assert small.count.tolist() == [[6.0, 6.0] + [0.0] * 10] * 2
    assert torch.equal(small.mask, small.count > 0)
    expected = torch.tensor([2.82, 2.82 * 2**0.5])
    torch.testing.assert_close(small.distance[:, :2], expected.expand(2, 2))


def test_an_atom_without_symmetry_stays_as_it_is():
    full = build(_rattled())
    small = merged(full)
    for name in ("n_atoms", "atomic_numbers", "neighbor", "distance", "mask", "weight", "count"):
        assert torch.equal(getattr(small, name), getattr(full, name))


def test_equal_elements_in_different_places_stay_apart():
    # Perovskite with one of the three oxygen atoms moved along its bond.
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.03], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    batch = CrystalBatch.from_lists([np.eye(3) * 3.9], [sites], [[56, 22, 8, 8, 8]])
    small = merged(build(batch))
    assert small.atomic_numbers.tolist() == [56, 22, 8, 8]
    assert small.weight.tolist() == [1.0, 1.0, 1.0, 2.0]


def test_the_output_is_that_of_all_atoms():
    network = _trained_like()
    batch = concatenate([_salt(), _rattled(), _salt(12, 8, 4.21)])
    full = build(batch)
    small = build(batch, is_merged=True)
    assert small.n_atoms.tolist() == [2, 5, 2]
    assert float(small.weight.sum()) == len(full.atomic_numbers)
    edges_of_atoms = (small.count.sum(1) * small.weight).sum()
    assert float(edges_of_atoms) == float(full.mask.sum())
    with torch.no_grad():
        torch.testing.assert_close(network(small)[0], network(full)[0], atol=1e-4, rtol=1e-4)


def test_a_supercell_merges_to_the_same_nodes():
    cell = _rattled(3)
    lattice = cell.lattice[0] * torch.tensor([[2.0], [1], [1]])
    coords = torch.cat([cell.frac_coords, cell.frac_coords + torch.tensor([1.0, 0, 0])])
    double = CrystalBatch(
        lattice=lattice[None],
        frac_coords=coords / torch.tensor([2.0, 1, 1]),
        atomic_numbers=cell.atomic_numbers.repeat(2),
        n_atoms=torch.tensor([6]),
    )
    small = merged(build(double))
    assert small.weight.tolist() == [2.0] * 3
    single = merged(build(cell))
    assert torch.equal(small.count, single.count)
    torch.testing.assert_close(small.distance, single.distance, atol=1e-5, rtol=0.0)


def test_merging_twice_is_merging_once():
    batch = concatenate([_salt(), _rattled(6), _salt(12, 8, 4.21)])
    once = merged(build(batch))
    twice = merged(once)
    for name in ("n_atoms", "neighbor", "distance", "mask", "weight", "count"):
        assert torch.equal(getattr(once, name), getattr(twice, name))


def test_merging_is_part_of_the_key_of_the_cache(tmp_path):
    full = build_cached(_salt(), folder=tmp_path)
    small = build_cached(_salt(), folder=tmp_path, is_merged=True)
    again = build_cached(_salt(), folder=tmp_path, is_merged=True)
    assert len(full.atomic_numbers) == 8
    assert len(list(tmp_path.iterdir())) == 2
    for name in ("n_atoms", "atomic_numbers", "neighbor", "distance", "mask", "weight", "count"):
        assert torch.equal(getattr(small, name), getattr(again, name))


@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_noise_of_stored_coordinates_does_not_divide_atoms(noise):
    salt = _salt()
    shift = noise * torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    moved = CrystalBatch(
        lattice=salt.lattice,
        frac_coords=salt.frac_coords + shift / 5.64,
        atomic_numbers=salt.atomic_numbers,
        n_atoms=salt.n_atoms,
    )
    assert merged(build(moved)).n_atoms.tolist() == [2]


def test_no_crystals_stay_none():
    assert len(merged(build(CrystalBatch.empty()))) == 0
