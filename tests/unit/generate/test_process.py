"""The noise, its targets and the loss, against closed forms."""

import torch

from matmill.crystals.periodic import shortest_step, wrap
from matmill.generate.process import Velocity, add_noise, losses
from matmill.generate.schedules import TASK_SHARES, draw_clocks
from matmill.generate.state import MASK, DenseCrystals


def some_crystals(b=400, n=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return DenseCrystals(
        z=torch.randint(1, 90, (b, n), generator=rng),
        f=torch.rand(b, n, 3, generator=rng),
        y=torch.randn(b, 6, generator=rng),
    )


def test_following_the_target_from_the_noisy_state_ends_at_the_crystal():
    clean = some_crystals()
    state, targets = add_noise(clean, torch.Generator().manual_seed(1))
    left = (1 - state.lattice_clock)[:, None]
    torch.testing.assert_close(
        state.crystals.y + left * targets.lattice_velocity, clean.y, atol=1e-5, rtol=0
    )
    # Sites: the target lacks the common drift, so the end is the crystal up to one shift.
    moved = wrap(state.crystals.f + (1 - state.site_clock)[..., None] * targets.site_velocity)
    gap = shortest_step(clean.f, moved)
    same_clock = (state.site_clock == state.site_clock[:, :1]).all(1) & state.free_sites.all(1)
    spread = shortest_step(gap[:, :1].expand_as(gap), gap)[same_clock]
    assert spread.abs().max() < 1e-5


def test_known_parts_are_shown_as_they_are():
    clean = some_crystals()
    state, _ = add_noise(clean, torch.Generator().manual_seed(2))
    fixed = ~state.free_sites
    assert torch.equal(state.crystals.f[fixed], clean.f[fixed])
    known = ~state.free_types
    assert torch.equal(state.crystals.z[known], clean.z[known])
    assert known.any()
    assert fixed.any()


def test_share_of_masked_elements_is_one_minus_the_clock():
    clean = some_crystals(b=4000)
    state, _ = add_noise(clean, torch.Generator().manual_seed(3))
    masked = (state.crystals.z == MASK).float()
    for low in (0.1, 0.5, 0.8):
        near = (state.type_clock > low - 0.05) & (state.type_clock < low + 0.05)
        assert abs(masked[near].mean() - (1 - low)) < 0.04


def test_loss_of_the_true_velocity_is_the_entropy_term_alone():
    clean = some_crystals()
    state, targets = add_noise(clean, torch.Generator().manual_seed(4))
    sure = torch.full((*clean.z.shape, 100), -30.0)
    sure.scatter_(2, clean.z[..., None] - 1, 30.0)
    exact = Velocity(sites=targets.site_velocity, lattice=targets.lattice_velocity, logits=sure)
    parts = losses(exact, targets, state)
    assert parts["loss"] < 1e-6
    wrong = Velocity(sites=exact.sites + 0.1, lattice=exact.lattice, logits=sure)
    assert losses(wrong, targets, state)["coords"] > 0.1


def test_zero_velocity_costs_one_per_unit_variance():
    clean = some_crystals(b=4000, n=8)
    state, targets = add_noise(clean, torch.Generator().manual_seed(5))
    zero = Velocity(
        sites=torch.zeros_like(targets.site_velocity),
        lattice=torch.zeros_like(targets.lattice_velocity),
        logits=torch.zeros(4000, 8, 100),
    )
    parts = losses(zero, targets, state)
    assert 0.8 < parts["coords"] < 1.05  # 7/8 of the variance where the mean is taken out
    assert 1.9 < parts["lattice"] < 2.2  # data and noise have variance 1 each


def test_clocks_follow_their_shares():
    type_clock, site_clock, lattice_clock = draw_clocks(20_000, 4, torch.Generator().manual_seed(6))
    known_composition = (type_clock == 1).all(1) & (site_clock < 1).all(1)
    known_geometry = (site_clock == 1).all(1) & (type_clock < 1).all(1) & (lattice_clock == 1)
    partly = (site_clock == 1).any(1) & (site_clock < 1).any(1)
    assert abs(known_composition.float().mean() - TASK_SHARES[2]) < 0.015
    assert abs(known_geometry.float().mean() - TASK_SHARES[3]) < 0.01
    assert abs(partly.float().mean() - (1 - sum(TASK_SHARES))) < 0.03
    assert ((site_clock < 1).any(1) | (type_clock < 1).any(1)).all()
