"""Pointwise distances and the transport between them: closed forms, brute force and SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from matmill.crystals import transport
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures, to_structure
from matmill.crystals.fingerprint import PointwiseDistances, amd, pdd
from matmill.crystals.periodic import wrap
from matmill.crystals.transport import pdd_distances, transport_cost
from matmill.errors import InputError
from matmill.testing.strategies import crystals, rotations

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
ROCK_SALT = FCC + [[x + 0.5, y, z] for x, y, z in FCC]


def rock_salt(a=5.64):
    return CrystalBatch.from_lists([a * np.eye(3)], [ROCK_SALT], [[11] * 4 + [17] * 4])


def supercell(batch, repeats):
    """Return a larger cell of a batch of one, with rows of the repeats as new vectors."""
    return from_structures([to_structure(batch, 0) * repeats])


def wurtzite_and_others():
    """The four crystals of T-16, ZnO in two forms, GaN and Bi2Te3, in conventional cells."""
    from pymatgen.core import Lattice, Structure

    def hexagonal(a, c, species, z):
        sites = [(1 / 3, 2 / 3, height) for height in z]
        return Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), species, sites)

    return from_structures(
        [
            hexagonal(3.23735102, 5.22206130, ["Zn", "O"], (0.00059170, 0.37971830)),
            Structure.from_spacegroup(
                "Fm-3m", Lattice.cubic(4.338884), ["Zn", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)]
            ),
            hexagonal(3.18893040, 5.19235725, ["Ga", "N"], (0.99908371, 0.37591629)),
            Structure.from_spacegroup(
                "R-3m",
                Lattice.hexagonal(4.41813045, 32.25729904),
                ["Bi", "Te", "Te"],
                [(0, 0, 0.39682977), (0, 0, 0.21680774), (0, 0, 0)],
            ),
        ]
    )


def test_published_distances():
    batch = wurtzite_and_others()
    prints = pdd(batch)
    found = pdd_distances(prints, prints)[0]
    expected = torch.tensor([0.0, 1.04163, 0.0968412, 3.27607], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_rock_salt_has_one_row_in_any_cell():
    salt = rock_salt()
    cells = concatenate(
        [salt, supercell(salt, (2, 1, 2)), supercell(salt, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])]
    )
    prints = pdd(cells)
    assert prints.n_rows.tolist() == [1, 1, 1]
    assert prints.counts.tolist() == [8, 32, 16]
    averages = amd(cells, dtype=torch.float64)
    assert float((averages - averages[0]).abs().max()) < 1e-12
    assert float((prints.rows - prints.rows[0]).abs().max()) < 1e-12
    assert float(pdd_distances(prints, prints).max()) < 1e-12


def test_supercells_of_a_crystal_with_many_kinds_of_atom():
    telluride = wurtzite_and_others().select([3])
    cells = concatenate([telluride, supercell(telluride, (2, 1, 1))])
    prints = pdd(cells)
    assert prints.n_rows.tolist() == [3, 3]
    weights, rows = prints.of(1)
    assert sorted(weights.tolist()) == pytest.approx([0.2, 0.4, 0.4])
    assert rows.shape == (3, 100)
    assert float(pdd_distances(prints, prints).max()) < 1e-12
    averages = amd(cells, dtype=torch.float64)
    assert float((averages[0] - averages[1]).abs().max()) < 1e-12


def test_rows_are_sorted_and_weigh_what_they_stand_for():
    batch = wurtzite_and_others().select([3])
    prints = pdd(batch, 20)
    weights, rows = prints.of(0)
    assert rows.tolist() == sorted(rows.tolist())
    mean = (weights[:, None] * rows).sum(0)
    torch.testing.assert_close(mean, amd(batch, 20, dtype=torch.float64)[0], atol=1e-12, rtol=0.0)
    apart = pdd(batch, 20, tolerance=0.0)
    assert int(apart.counts.sum()) == 15
    everything = pdd(batch, 20, tolerance=10.0)
    assert everything.n_rows.tolist() == [1]


@settings(max_examples=25)
@given(crystals(min_distance=0.7))
def test_the_distances_are_those_of_pymatgens_neighbours(crystal):
    structure = to_structure(crystal, 0)
    k = 10
    near = structure.get_all_neighbors(12.0)
    assume(min(len(of) for of in near) >= k)
    brute = np.array([sorted(site.nn_distance for site in of)[:k] for of in near])
    found = amd(crystal, k, dtype=torch.float64)[0].numpy()
    np.testing.assert_allclose(found, brute.mean(0), atol=1e-8)
    prints = pdd(crystal, k, tolerance=0.0)
    weights, rows = prints.of(0)
    own = np.repeat(rows.numpy(), prints.counts.numpy(), axis=0)
    np.testing.assert_allclose(np.sort(own, axis=0), np.sort(brute, axis=0), atol=1e-8)
    assert float(weights.sum()) == pytest.approx(1.0)


@settings(max_examples=30)
@given(crystals(min_distance=0.5), rotations(), st.tuples(*[st.floats(0, 1)] * 3), st.randoms())
def test_the_description_does_not_matter(crystal, turn, shift, random):
    order = list(range(len(crystal.frac_coords)))
    random.shuffle(order)
    other = CrystalBatch(
        lattice=crystal.lattice @ turn,
        frac_coords=wrap(crystal.frac_coords + torch.tensor(shift).double())[order],
        atomic_numbers=crystal.atomic_numbers[order],
        n_atoms=crystal.n_atoms,
    )
    larger = supercell(crystal, [[1, 0, 0], [1, 2, 0], [0, 0, 1]])
    both = concatenate([crystal, other, larger])
    averages = amd(both, 30, dtype=torch.float64)
    assert float((averages - averages[0]).abs().max()) < 1e-9
    # Rows at the very edge of the merging tolerance may merge in one description alone; the rows
    # themselves do not change, and the distance is continuous in them.
    prints = pdd(both, 30)
    assert float(pdd_distances(prints, prints).max()) < 1e-4
    whole = pdd(both, 30, tolerance=1e-7)
    assert float(pdd_distances(whole, whole).max()) < 1e-6


@settings(max_examples=30)
@given(st.lists(crystals(min_distance=0.5), min_size=3, max_size=3))
def test_it_is_a_metric_and_never_below_the_average(three):
    batch = concatenate(three)
    prints = pdd(batch, 20)
    found = pdd_distances(prints, prints)
    averages = amd(batch, 20, dtype=torch.float64)
    below = torch.cdist(averages, averages, p=torch.inf)
    assert bool((below <= found + 1e-9).all())
    assert float(found.diagonal().max()) < 1e-12
    torch.testing.assert_close(found, found.T, atol=1e-9, rtol=0.0)
    assert float(found[0, 2]) <= float(found[0, 1] + found[1, 2]) + 1e-9


@settings(max_examples=30)
@given(crystals(min_distance=0.5), st.floats(0.0, 0.3), st.integers(0, 2**31))
def test_moving_atoms_moves_it_by_twice_as_much_at_most(crystal, step, seed):
    """The bound of Widdowson and Kurlin: continuous, however symmetry breaks."""
    rng = torch.Generator().manual_seed(seed)
    moves = torch.randn(crystal.frac_coords.shape, generator=rng, dtype=torch.float64)
    moves = step * moves / moves.norm(dim=1, keepdim=True).clamp_min(1.0)
    inverse = torch.linalg.inv(crystal.lattice)[crystal.crystal_index]
    other = CrystalBatch(
        lattice=crystal.lattice,
        frac_coords=wrap(crystal.frac_coords + torch.einsum("ai,aij->aj", moves, inverse)),
        atomic_numbers=crystal.atomic_numbers,
        n_atoms=crystal.n_atoms,
    )
    both = (pdd(one, 20, tolerance=0.0) for one in (crystal, other))
    farthest = float(moves.norm(dim=1).max())
    assert float(pdd_distances(*both)) <= 2 * farthest + 1e-9


COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(COUNTS, COUNTS, st.integers(0, 2**31))
def test_transport_is_the_linear_programme(a, b, seed):
    from scipy.optimize import linprog

    cost = np.random.default_rng(seed).random((len(a), len(b)))
    rules = [np.kron(np.eye(len(a))[i], np.ones(len(b))) for i in range(len(a))]
    rules += [np.tile(np.eye(len(b))[j], len(a)) for j in range(len(b))]
    shares = np.concatenate([np.array(a) / sum(a), np.array(b) / sum(b)])
    expected = linprog(cost.ravel(), A_eq=np.array(rules), b_eq=shares).fun
    assert transport_cost(np.array(a), np.array(b), cost) == pytest.approx(expected, abs=1e-9)


@given(COUNTS, COUNTS, st.integers(0, 2**31))
def test_transport_on_a_line_is_wasserstein(a, b, seed):
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=len(a)), rng.normal(size=len(b))
    cost = np.abs(x[:, None] - y)
    expected = wasserstein_distance(x, y, a, b)
    assert transport_cost(np.array(a), np.array(b), cost) == pytest.approx(expected, abs=1e-9)


def test_both_solvers_agree(monkeypatch):
    rng = np.random.default_rng(0)
    a, b, cost = np.array([3, 4, 6, 1]), np.array([2, 7, 8]), rng.random((4, 3))
    assigned = transport_cost(a, b, cost)
    monkeypatch.setattr(transport, "_MOST_UNITS", 0)
    assert transport_cost(a, b, cost) == pytest.approx(assigned, abs=1e-10)


def test_transport_of_two_by_two_by_hand():
    """A half and a half against three quarters and one: a quarter has to cross, at cost 1."""
    cost = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert transport_cost(np.array([1, 1]), np.array([3, 1]), cost) == pytest.approx(0.25)


def test_no_crystals_one_atom_and_bad_settings():
    empty = pdd(CrystalBatch.empty(), 6)
    assert len(empty) == 0
    atom = pdd(CrystalBatch.from_lists([np.eye(3)], [[[0, 0, 0]]], [[26]]), 6)
    assert atom.rows.tolist() == [[1.0] * 6]
    assert pdd_distances(empty, atom).shape == (0, 1)
    assert pdd_distances(atom, empty).shape == (1, 0)
    with pytest.raises(InputError, match="same k"):
        pdd_distances(atom, pdd(rock_salt(), 5))
    with pytest.raises(InputError, match="tolerance"):
        pdd(rock_salt(), 5, tolerance=-1.0)
    with pytest.raises(InputError, match="at least 1"):
        pdd(rock_salt(), 0)
    assert isinstance(empty, PointwiseDistances)
