"""Guidance with known velocity fields."""

import pytest
import torch

from matmill.generate.conditions import Conditions
from matmill.generate.guidance import MOST_OF_SCALE, USUAL_EFFECT, effect, guided
from matmill.generate.process import Velocity
from matmill.generate.state import DenseCrystals, NoisyState

B, N = 3, 4


def state(*, masked=True):
    return NoisyState(
        crystals=DenseCrystals(
            z=torch.zeros(B, N, dtype=torch.int64) + (not masked),
            f=torch.zeros(B, N, 3),
            y=torch.zeros(B, 6),
        ),
        type_clock=torch.full((B, N), 0.5),
        site_clock=torch.full((B, N), 0.5),
        lattice_clock=torch.full((B,), 0.5),
    )


def told(**values):
    c = Conditions.none(B)
    for i, value in values.items():
        c.scalars[:, int(i[1:])] = value
    return c


def network(state, conditions):
    """Answer with the sum of the scalars that are told, so that superposition can be seen."""
    total = conditions.scalars.nan_to_num(0.0).sum(1)
    return Velocity(
        sites=total[:, None, None] * torch.ones(1, state.crystals.n, 3),
        lattice=-total[:, None] * torch.ones(1, 6),
        logits=total[:, None, None] * torch.linspace(0, 1, 100),
    )


def run(time=0.5, **settings):
    asked = told(s0=1.0, s1=10.0)
    parts = {"a": told(s0=1.0), "b": told(s1=10.0)}
    return guided(network, told(), asked, parts=parts, **settings)(state(), time)


def test_joint_weight_scales_all_conditions():
    for weight, expected in ((0.0, 0.0), (1.0, 11.0), (2.0, 22.0)):
        u = run(weight=weight)
        torch.testing.assert_close(u.sites, torch.full((B, N, 3), expected))
        torch.testing.assert_close(u.lattice, torch.full((B, 6), -expected))


def test_each_condition_has_its_own_scale():
    u = run(weight=1.0, scales={"a": 3.0})
    torch.testing.assert_close(u.sites, torch.full((B, N, 3), 3.0 + 10.0))
    u = run(weight=1.0, scales={"a": 3.0, "b": 0.0})
    torch.testing.assert_close(u.lattice, torch.full((B, 6), -3.0))


def test_log_probabilities_follow_the_same_rule():
    u = run(weight=0.5, scales={"a": 2.0, "b": 0.0})

    def logs(total):
        return (total * torch.linspace(0, 1, 100)).log_softmax(0)

    expected = logs(0.0) + 2.0 * (logs(1.0) - logs(0.0))
    torch.testing.assert_close(u.logits[0, 0], expected)


def test_outside_its_window_guidance_follows_the_conditions():
    for time in (0.05, 0.97):
        u = run(time, weight=2.0, scales={"a": 5.0})
        torch.testing.assert_close(u.sites, torch.full((B, N, 3), 11.0))


def test_one_call_of_the_network_serves_all_conditions():
    calls = []

    def counted(state, conditions):
        calls.append(len(conditions))
        return network(state, conditions)

    parts = {"a": told(s0=1.0), "b": told(s1=1.0)}
    guided(counted, told(), told(s0=1.0, s1=1.0), weight=1.5, parts=parts, scales={"a": 2.0})(
        state(), 0.5
    )
    assert calls == [3 * B]


def test_the_effect_is_the_change_in_units_of_training():
    zero = Velocity(
        sites=torch.zeros(B, N, 3), lattice=torch.zeros(B, 6), logits=torch.zeros(B, N, 100)
    )
    zero = Velocity(sites=zero.sites, lattice=zero.lattice, logits=zero.logits.log_softmax(-1))
    assert effect(zero, zero, state()).tolist() == [0.0] * B
    # A step of 1/sqrt(12), the spread of a uniform one, counts as 1; so does 1 in the lattice.
    moved = Velocity(sites=zero.sites + 12**-0.5, lattice=zero.lattice + 1.0, logits=zero.logits)
    torch.testing.assert_close(effect(moved, zero, state()), torch.full((B,), 2.0))
    # Certainty about one of 100 elements: a divergence of ln 100, where something is masked.
    sure = torch.full((B, N, 100), -1e4)
    sure[..., 0] = 0.0
    sure = Velocity(sites=zero.sites, lattice=zero.lattice, logits=sure)
    torch.testing.assert_close(effect(sure, zero, state()), torch.full((B,), 100.0).log())
    assert effect(sure, zero, state(masked=False)).tolist() == [0.0] * B


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_dynamic_weights_grow_with_the_effect_up_to_twice_the_scale(strength):
    asked = told(s0=strength)
    parts = {"a": asked}

    def quiet(state, conditions):
        u = network(state, conditions)
        return Velocity(sites=u.sites, lattice=u.lattice, logits=0 * u.logits)

    u = guided(quiet, told(), asked, weight=1.5, parts=parts, schedule="dynamic")(state(), 0.5)
    change = 12 * strength**2 + strength**2
    weight = 1.5 * min(change / USUAL_EFFECT, MOST_OF_SCALE)
    torch.testing.assert_close(u.sites, torch.full((B, N, 3), weight * strength))
