"""The processes where the exact velocity is known: noise must agree with it, and samples reach it.

Notation: x_t = x_0 + t w(x_1 - x_0) on the torus, w the shortest step; y_t = (1-t) y_0 + t y_1.
"""

import math

import pytest
import torch

from matmill.crystals.periodic import shortest_step
from matmill.generate.process import Velocity, add_noise
from matmill.generate.sample import Start, sample
from matmill.generate.state import DenseCrystals

ANY = torch.ones(100, dtype=torch.bool)
DE_NOVO = (1.0, 0.0, 0.0, 0.0)
A, B, SHARE = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.45, 0.9, 0.3]), 0.3
MEAN, SPREAD = torch.tensor([1.0, -0.5, 0.0, 2.0, 0.3, -1.0]), torch.linspace(0.1, 1.2, 6)


def to_one_crystal(clean: DenseCrystals):
    """Return the field whose every path ends at one crystal: the rest of the way, at once."""

    def field(state, t):
        c = state.crystals
        b = len(c)
        sure = torch.full((b, c.n, 100), -30.0)
        sure.scatter_(2, clean.z[:1].expand(b, -1)[..., None] - 1, 30.0)
        return Velocity(
            sites=shortest_step(c.f, clean.f[:1]) / (1 - t),
            lattice=(clean.y[:1] - c.y) / (1 - t),
            logits=sure,
        )

    return field


def to_two_points(x, t):
    """Return the velocity towards a mixture of the points A and B, ``(b, 3)``.

    Given an end e, x_t is uniform in the box around e of width (1 - t), so the ends are as likely
    as their shares wherever x lies in both boxes, and one is certain where it lies in one.
    """
    t = torch.as_tensor(t).expand(len(x))[:, None]
    steps = [shortest_step(x, end.expand_as(x)) for end in (A, B)]
    inside = [(s.abs() <= (1 - t) / 2 + 1e-5).all(1) for s in steps]
    weights = torch.stack([SHARE * inside[0], (1 - SHARE) * inside[1]], dim=1)
    # Steps of finite length may leave both boxes by a little: then the closer box counts.
    reach = torch.stack([s.abs().amax(1) for s in steps], dim=1)
    lost = weights.sum(1) == 0
    weights[lost] = torch.nn.functional.one_hot(reach.argmin(1), 2).float()[lost]
    weights = weights / weights.sum(1, keepdim=True)
    return (weights[:, :1] * steps[0] + weights[:, 1:] * steps[1]) / (1 - t)


def to_gaussian(y, t):
    """Return the velocity of the lattice towards a normal distribution, ``(b, 6)``."""
    t = torch.as_tensor(t).reshape(-1, 1)
    variance = (t * SPREAD).square() + (1 - t).square()
    return MEAN + (t * SPREAD.square() - (1 - t)) / variance * (y - t * MEAN)


def mixture(b: int, seed: int) -> DenseCrystals:
    """Return crystals of one atom at A or B with Gaussian lattices."""
    rng = torch.Generator().manual_seed(seed)
    f = torch.where(torch.rand(b, 1, 1, generator=rng) < SHARE, A, B)
    y = MEAN + SPREAD * torch.randn(b, 6, generator=rng)
    return DenseCrystals(z=torch.full((b, 1), 14), f=f, y=y)


def exact(state, t):
    c = state.crystals
    logits = torch.zeros(len(c), 1, 100)
    logits[..., 13] = 30.0
    sites = to_two_points(c.f[:, 0], t)[:, None]
    return Velocity(sites=sites, lattice=to_gaussian(c.y, t), logits=logits)


@pytest.mark.parametrize("n_steps", [1, 7, 50])
@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_one_crystal_is_reached_exactly(n_steps, slope):
    rng = torch.Generator().manual_seed(0)
    clean = DenseCrystals(
        z=torch.tensor([[11, 17, 8, 8]]),
        f=torch.rand(1, 4, 3, generator=rng),
        y=torch.randn(1, 6, generator=rng),
    )
    made = sample(
        to_one_crystal(clean),
        Start.nothing(5, 4),
        n_steps=n_steps,
        allowed=ANY,
        rng=rng,
        coord_slope=slope,
        lattice_slope=slope,
    )
    assert torch.equal(made.z, clean.z.expand(5, -1))
    assert shortest_step(made.f, clean.f.expand(5, -1, -1)).abs().max() < 1e-5
    torch.testing.assert_close(made.y, clean.y.expand(5, -1), atol=1e-5, rtol=0)


def test_noise_towards_one_crystal_points_at_it():
    clean = DenseCrystals(z=torch.full((300, 1), 3), f=A.expand(300, 1, 3), y=MEAN.expand(300, 6))
    rng = torch.Generator().manual_seed(1)
    state, targets = add_noise(clean, rng, shares=DE_NOVO, mean_free=False)
    left = 1 - state.site_clock[:, :1]
    late = left[:, 0] > 0.02  # rounding grows as 1 / left
    expected = shortest_step(state.crystals.f[:, 0], clean.f[:, 0]) / left
    torch.testing.assert_close(targets.site_velocity[late, 0], expected[late], atol=2e-4, rtol=0)


def test_the_mean_target_is_the_exact_velocity():
    """The target minus its exact mean is orthogonal to whatever the state and clock say."""
    b = 60_000
    clean = mixture(b, seed=2)
    rng = torch.Generator().manual_seed(3)
    state, targets = add_noise(clean, rng, shares=DE_NOVO, mean_free=False)
    t = state.site_clock[:, 0]
    x, y = state.crystals.f[:, 0], state.crystals.y
    off_sites = targets.site_velocity[:, 0] - to_two_points(x, t)
    off_lattice = targets.lattice_velocity - to_gaussian(y, t)
    angles = 2 * math.pi * x
    tests = torch.cat(
        [torch.ones(b, 1), t[:, None], angles.sin(), angles.cos(), y.tanh(), (t < 0.3)[:, None]], 1
    )
    for off in (off_sites, off_lattice):
        products = off[:, :, None] * tests[:, None, :]
        error = products.std(0) / b**0.5
        assert (products.mean(0).abs() <= 4.5 * error + 1e-6).all()
    # The same test notices a field that is a little wrong.
    wrong = targets.lattice_velocity - to_gaussian(y, t) * 1.1
    products = wrong[:, :, None] * tests[:, None, :]
    assert (products.mean(0).abs() > 4.5 * products.std(0) / b**0.5).any()


def test_samples_of_the_exact_field_have_the_distribution_of_the_data():
    b = 800
    made = sample(
        exact,
        Start.nothing(b, 1),
        n_steps=100,
        allowed=ANY,
        rng=torch.Generator().manual_seed(4),
        coord_slope=0.0,
    )
    distance = torch.stack(
        [shortest_step(made.f[:, 0], end.expand(b, 3)).abs().amax(1) for end in (A, B)], dim=1
    )
    assert distance.amin(1).max() < 1e-4  # every sample is one of the two points
    share = float((distance.argmin(1) == 0).float().mean())
    assert abs(share - SHARE) < 4 * math.sqrt(SHARE * (1 - SHARE) / b)
    assert ((made.y.mean(0) - MEAN).abs() < 4 * SPREAD / b**0.5 + 0.01).all()
    assert ((made.y.std(0) / SPREAD - 1).abs() < 4 / (2 * b) ** 0.5 + 0.03).all()
    assert (made.z == 14).all()


def test_steeper_velocities_still_end_at_the_data():
    made = sample(
        exact,
        Start.nothing(200, 1),
        n_steps=40,
        allowed=ANY,
        rng=torch.Generator().manual_seed(5),
    )
    distance = torch.stack(
        [shortest_step(made.f[:, 0], end.expand(200, 3)).abs().amax(1) for end in (A, B)]
    )
    assert distance.amin(0).max() < 1e-4
