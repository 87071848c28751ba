"""Pairing atoms with noise: exact against scipy, and without changing the noise itself."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from matmill.crystals.periodic import shortest_step
from matmill.generate.coupling import assign, interchangeable, paired_noise
from matmill.generate.process import add_noise
from matmill.generate.state import DenseCrystals


@pytest.mark.parametrize("n", [1, 2, 5, 13, 20])
def test_assignment_costs_what_scipys_costs(n):
    cost = np.random.default_rng(n).random((30, n, n))
    cost[:10] = np.round(cost[:10], 1)  # with ties
    found = assign(cost)
    for problem, columns in zip(cost, found, strict=True):
        assert sorted(columns) == list(range(n))
        rows, best = linear_sum_assignment(problem)
        assert problem[np.arange(n), columns].sum() == pytest.approx(problem[rows, best].sum())


def test_pairing_permutes_within_a_kind_and_never_lengthens_the_way():
    rng = torch.Generator().manual_seed(0)
    noise, sites = torch.rand(50, 7, 3, generator=rng), torch.rand(50, 7, 3, generator=rng)
    kind = torch.randint(0, 3, (50, 7), generator=rng)
    paired = paired_noise(noise, sites, kind)
    for k in range(3):
        for i in range(50):
            before, after = noise[i, kind[i] == k], paired[i, kind[i] == k]
            assert sorted(before.tolist()) == sorted(after.tolist())
    was = shortest_step(noise, sites).square().sum((1, 2))
    now = shortest_step(paired, sites).square().sum((1, 2))
    assert (now <= was + 1e-6).all()
    assert now.mean() < 0.9 * was.mean()


def test_atoms_may_trade_places_only_where_the_start_does_not_tell_them_apart():
    z = torch.tensor([[8, 8, 22]])
    t = torch.tensor([[0.3, 0.3, 0.3]])
    assert interchangeable(z, t, t).tolist() == [[0, 0, 0]]  # all masked at the start
    assert interchangeable(z, torch.ones(1, 3), t).tolist() == [[8, 8, 22]]  # elements given
    assert interchangeable(z, torch.full((1, 3), 0.6), t).tolist() == [[8, 8, 22]]


def test_the_noise_of_one_element_stays_uniform_where_elements_are_known():
    """Were atoms of two elements to trade places, each would start near its own site."""
    n = 4000
    clean = DenseCrystals(
        z=torch.tensor([[11, 17]]).repeat(n, 1),
        f=torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]]).repeat(n, 1, 1),
        y=torch.zeros(n, 6),
    )
    rng = torch.Generator().manual_seed(1)
    known = (0.0, 0.0, 1.0, 0.0)
    state, _ = add_noise(clean, rng, shares=known, coupling="permutation", mean_free=False)
    early = state.site_clock[:, 0] < 0.05
    sodium = state.crystals.f[early, 0]
    assert early.sum() > 100
    assert abs(float((2 * torch.pi * sodium).cos().mean())) < 0.12  # 0 if uniform; 0.3 if paired
    free = (1.0, 0.0, 0.0, 0.0)
    state, targets = add_noise(clean, rng, shares=free, coupling="permutation", mean_free=False)
    _, apart = add_noise(clean, rng, shares=free, mean_free=False)
    paired, single = targets.site_velocity.square().mean(), apart.site_velocity.square().mean()
    assert single == pytest.approx(1 / 12, rel=0.05)
    assert paired < 0.9 * single
