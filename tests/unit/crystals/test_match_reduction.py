"""Reduced crystals are pymatgen's, and survive being cut up and put together."""

import numpy as np
import pytest

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.lattice import shortest_vector
from matmill.crystals.match_pairs import to_reduced_structure
from matmill.crystals.match_reduction import (
    ReducedCrystals,
    ReductionStatus,
    reduce_crystals,
)

FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def supercell(rng, step):
    """Return a rattled supercell of rock salt or hexagonal BN in some basis."""
    if rng.random() < 0.5:
        lattice, frac, z = 5.64 * FCC, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17]
    else:
        lattice = np.array([[2.5, 0, 0], [-1.25, 2.5 * 0.75**0.5, 0], [0, 0, 6.7]])
        frac, z = [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75], [1 / 3, 2 / 3, 0.75]], [5, 5, 7]
        frac, z = [*frac, [2 / 3, 1 / 3, 0.25]], [*z, 7]
    repeat = rng.integers(1, 4, 3)
    shifts = np.stack(np.meshgrid(*map(np.arange, repeat), indexing="ij"), -1).reshape(-1, 3)
    frac = (np.asarray(frac)[None] + shifts[:, None]).reshape(-1, 3) / repeat
    lattice = lattice * repeat[:, None]
    frac = frac + rng.normal(size=frac.shape) * step @ np.linalg.inv(lattice)
    change = np.eye(3)
    change[0] += rng.integers(-1, 2) * change[int(rng.integers(1, 3))]
    return change @ lattice, frac @ np.linalg.inv(change), np.tile(z, len(shifts))


@pytest.mark.parametrize("step", [0.0, 0.03, 0.08, 0.2])
def test_cells_are_those_that_pymatgen_makes(step):
    rng = np.random.default_rng(int(100 * step))
    batch = CrystalBatch.from_lists(*zip(*(supercell(rng, step) for _ in range(15)), strict=True))
    reduced = reduce_crystals(batch)
    sizes = np.diff(reduced.start)
    for i in range(len(batch)):
        theirs = to_structure(batch, i).get_reduced_structure().get_primitive_structure()
        ours = to_reduced_structure(reduced, i)
        assert len(ours) == len(theirs) == sizes[i]
        np.testing.assert_allclose(ours.lattice.matrix, theirs.lattice.matrix, atol=1e-9)
        for z in {site.specie.Z for site in theirs}:
            mine = np.array([site.frac_coords for site in ours if z == site.specie.Z])
            yours = np.array([site.frac_coords for site in theirs if z == site.specie.Z])
            gap = mine - yours
            np.testing.assert_allclose(gap - np.round(gap), 0.0, atol=1e-9)
    # Without noise all become primitive; with much noise none does.
    assert (sizes < batch.n_atoms.numpy()).any() == (step < 0.2)


def test_numbers_about_a_cell():
    batch = CrystalBatch.from_lists(
        [5.64 * np.eye(3), np.diag([3.0, 4.0, 7.0])],
        [[[0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0, 0]], [[0.1, 0, 0]]],
        [[17, 17, 17, 17, 11], [84]],
    )
    reduced = reduce_crystals(batch)
    assert reduced.numbers.tolist() == [11, 17, 17, 17, 17, 84]
    assert reduced.anchor.tolist() == [0, 0]
    volume = np.abs(np.linalg.det(reduced.lattice))
    np.testing.assert_allclose(volume, np.diff(reduced.start))
    np.testing.assert_allclose(reduced.length**3 * volume, batch.volume.numpy())
    np.testing.assert_allclose(reduced.minima[1] * reduced.length[1], [3.0, 4.0, 7.0])
    np.testing.assert_allclose(reduced.edges, reduced.minima)
    assert len(set(reduced.keys.tolist())) == 2


def test_the_first_minimum_is_the_shortest_vector():
    import torch

    from matmill.crystals.match_cells import successive_minima

    rng = np.random.default_rng(0)
    cells = rng.normal(size=(200, 3, 3))
    found = np.array([successive_minima(cell) for cell in cells])
    shortest = shortest_vector(torch.from_numpy(cells)).numpy()
    np.testing.assert_allclose(found[:, 0], shortest, rtol=1e-9)
    assert (np.diff(found, axis=1) >= 0).all()
    # The product of the minima lies between the volume and √2 times it.
    product = found.prod(1) / np.abs(np.linalg.det(cells))
    assert (product > 1.0 - 1e-9).all()
    assert (product < 2.0**0.5 + 1e-9).all()


def test_parts_put_together_are_the_whole():
    rng = np.random.default_rng(0)
    crystals = [supercell(rng, 0.02) for _ in range(6)]
    crystals.insert(2, (np.full((3, 3), np.nan), [[0, 0, 0]], [6]))
    batch = CrystalBatch.from_lists(*zip(*crystals, strict=True))
    whole = reduce_crystals(batch)
    assert whole.status.tolist() == [0, 0, ReductionStatus.BROKEN, 0, 0, 0, 0]
    parts = [whole.select([0, 1, 2]), whole.select([]), whole.select([3, 4, 5, 6])]
    again = ReducedCrystals.concatenate(parts)
    for name in ("lattice", "frac", "numbers", "start", "length", "minima", "anchor", "keys"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    backwards = whole.select(range(6, -1, -1))
    assert backwards.keys.tolist() == whole.keys.tolist()[::-1]
    assert len(ReducedCrystals.concatenate([])) == len(reduce_crystals(CrystalBatch.empty())) == 0


def test_worker_processes_give_the_same():
    rng = np.random.default_rng(1)
    crystals = [supercell(rng, 0.02) for _ in range(8)]
    batch = CrystalBatch.from_lists(*zip(*crystals, strict=True))
    alone, shared = reduce_crystals(batch), reduce_crystals(batch, n_processes=2)
    np.testing.assert_array_equal(alone.frac, shared.frac)
    np.testing.assert_array_equal(alone.lattice, shared.lattice)
    assert reduce_crystals(batch, max_sites=0).status.tolist() == [ReductionStatus.TOO_LARGE] * 8
