"""Predictor guidance with predictors whose answer is known."""

import math

import pytest
import torch

from matmill.crystals.lattice import from_symmetric_log
from matmill.generate.process import Velocity
from matmill.generate.sample import Start, sample
from matmill.generate.state import LatticeScale, from_dense
from matmill.generate.steering import Guide, steered

ALL = torch.ones(100, dtype=torch.bool)
SCALE = LatticeScale(
    mean=torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.9]).double(), std=torch.full((6,), 0.3).double()
)


def still(state, time):  # noqa: ARG001
    """Head for crystals like the noise: everything stays where it is."""
    b, n = state.crystals.z.shape
    logits = torch.zeros(b, n, 100)
    logits[..., 25] = 50.0
    return Velocity(sites=torch.zeros(b, n, 3), lattice=torch.zeros(b, 6), logits=logits)


def volume_per_atom(crystals):
    return torch.linalg.det(crystals.lattice).abs() / crystals.z.shape[1]


def run(guide, *, b=6, n=3, steps=30):
    start = Start.nothing(b, n)
    field = still if guide is None else steered(still, guide, start, SCALE)
    rng = torch.Generator().manual_seed(0)
    return from_dense(sample(field, start, n_steps=steps, allowed=ALL, rng=rng), SCALE)


def test_a_volume_is_reached():
    free = run(None)
    before = free.volume / free.n_atoms
    guided = run(Guide(value=volume_per_atom, low=20.0, high=20.0))
    after = guided.volume / guided.n_atoms
    assert (before - 20.0).abs().max() > 5.0
    # One Newton step is exact for a plane; the volume is exponential in the lattice number.
    assert (after - 20.0).abs().max() < 1.5
    assert (after - 20.0).abs().mean() < 0.5
    # The shortest way to a volume leaves shape and sites alone.
    assert torch.equal(free.frac_coords, guided.frac_coords)


def test_inside_the_wanted_range_nothing_moves():
    free = run(None)
    wide = run(Guide(value=volume_per_atom, low=0.0, high=math.inf))
    assert free.hashes == wide.hashes


def test_sites_are_moved_and_what_is_fixed_is_not():
    start = Start.nothing(4, 2)
    fixed = torch.tensor([True, False]).repeat(4, 1)
    start = Start(
        clean=start.clean,
        free_types=start.free_types,
        free_sites=~fixed,
        free_lattice=torch.zeros(4, dtype=torch.bool),
    )

    def height(crystals):
        return (crystals.frac[:, 1, 2] - crystals.frac[:, 0, 2]) * 10.0

    field = steered(still, Guide(value=height, low=4.0, high=4.0, radius=5.0), start, SCALE)
    out = sample(field, start, n_steps=40, allowed=ALL, rng=torch.Generator().manual_seed(0))
    assert (out.f[:, 0] == 0.0).all()
    assert (out.y == 0.0).all()
    assert (out.f[:, 1, 2] - 0.4).abs().max() < 0.02


def test_what_cannot_be_predicted_is_left_alone():
    def unknown(crystals):
        return volume_per_atom(crystals) * torch.nan

    assert run(Guide(value=unknown, low=1.0, high=2.0)).hashes == run(None).hashes


def test_lattices_can_be_differentiated_where_eigenvalues_are_equal():
    k = torch.zeros(1, 6, dtype=torch.float64)
    k[0, 5] = 1.2
    plain = from_symmetric_log(k)
    k.requires_grad_(True)
    cubic = from_symmetric_log(k)
    torch.testing.assert_close(cubic.detach(), plain)
    (slope,) = torch.autograd.grad(torch.linalg.det(cubic).log().sum(), k)
    assert torch.isfinite(slope).all()
    # Only the last coefficient changes the volume.
    assert slope[0, :5].abs().max() < 1e-9
    step = torch.zeros(1, 6, dtype=torch.float64)
    step[0, 5] = 1e-5
    up, down = (torch.linalg.det(from_symmetric_log(k.detach() + s)).log() for s in (step, -step))
    assert float(slope[0, 5]) == pytest.approx(float((up - down) / 2e-5), rel=1e-6)
