"""Classifier-free guidance: exaggerate what the conditions change, all at once or one by one."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.generate.conditions import Conditions
from matmill.generate.process import Velocity
from matmill.generate.state import MASK, NoisyState

# Outside this window of clocks guidance adds noise (early) or distorts finished geometry (late).
GUIDED_FROM, GUIDED_TO = 0.1, 0.95
# Effect at which the dynamic schedule gives a condition just its scale. The mean over steps and
# crystals of the shipped generator, asked for a gap of 2 eV, is 0.18 in cells of up to 8 atoms and
# 0.10 in those of up to 12 (`benchmarks/guidance.py`).
USUAL_EFFECT = 0.18
MOST_OF_SCALE = 2.0
_COORD_SCALE = 12.0  # a step in [-1/2, 1/2) has variance 1/12

VelocityField = Callable[[NoisyState, float], Velocity]
Network = Callable[[NoisyState, Conditions], Velocity]
Schedule = Literal["constant", "dynamic"]


def guided(
    network: Network,
    base: Conditions,
    asked: Conditions,
    *,
    weight: float,
    parts: Mapping[str, Conditions] | None = None,
    scales: Mapping[str, float] | None = None,
    schedule: Schedule = "constant",
) -> VelocityField:
    """Return a velocity field that follows ``asked`` with this weight.

    ``u = u_base + weight (u_asked - u_base)``, on velocities and on log-probabilities alike;
    weight 0 is ``base``, 1 is ``asked``. With scales of their own the conditions act one by one,
    ``u = u_base + sum_i w_i (u_i - u_base)``, as if they were independent; all of it is one call
    of the network on a larger batch.

    Args:
        network: Answers for a state under conditions.
        base: What every evaluation is told.
        asked: The same and all that is asked for.
        weight: Of all conditions, or of those without a scale of their own.
        parts: ``base`` and one condition each, by name; needed with ``scales``.
        scales: Weight of single conditions.
        schedule: ``dynamic`` scales each weight, crystal by crystal and step by step, with what
            the condition changes just then (see `effect`), from 0 to twice its value.

    Source:
        Ho and Salimans, Classifier-free diffusion guidance (2022); Liu et al., Compositional visual
        generation with composable diffusion models (2022), for the sum; Scalena et al., Multi-
        property steering with dynamic activation composition (2024), for the schedule.
    """
    told, weights = [asked], [weight]
    if scales and parts:
        told = list(parts.values())
        weights = [scales.get(name, weight) for name in parts]
    stacked = Conditions.stack([base, *told])
    is_plain = schedule == "constant"

    def field(state: NoisyState, time: float) -> Velocity:
        if not any(weights):
            return network(state, base)
        if is_plain and len(told) == 1 and weights[0] == 1.0:
            return network(state, told[0])
        if not GUIDED_FROM < time < GUIDED_TO:
            return network(state, asked)
        every = network(state.repeated(1 + len(told)), stacked)
        u = [
            Velocity(sites=f, lattice=y, logits=z)
            for f, y, z in zip(
                every.sites.chunk(1 + len(told)),
                every.lattice.chunk(1 + len(told)),
                every.logits.log_softmax(-1).chunk(1 + len(told)),
                strict=True,
            )
        ]
        sites, lattice, logits = u[0].sites, u[0].lattice, u[0].logits
        for own, scale in zip(u[1:], weights, strict=True):
            w = torch.full((len(sites),), scale, device=sites.device)
            if not is_plain:
                w = w * (effect(own, u[0], state) / USUAL_EFFECT).clamp(0.0, MOST_OF_SCALE)
            sites = sites + w[:, None, None] * (own.sites - u[0].sites)
            lattice = lattice + w[:, None] * (own.lattice - u[0].lattice)
            logits = logits + w[:, None, None] * (own.logits - u[0].logits)
        return Velocity(sites=sites, lattice=lattice, logits=logits)

    return field


def effect(own: Velocity, base: Velocity, state: NoisyState) -> Float[Tensor, " b"]:
    """Return how much a condition changes what happens to each crystal next, a number near 1.

    The squared change of the velocities in units of their spread in training, the mean over atoms
    and over the six lattice numbers, and the Kullback-Leibler divergence between the elements
    proposed with and without the condition, the mean over atoms that are still masked. It falls
    to 0 once the condition has been met, or cannot change anything any more.

    Args:
        own: Answers with the condition, logits normalised.
        base: Answers without it, logits normalised.
        state: Where they were given.
    """
    coords = _COORD_SCALE * (own.sites - base.sites).square().mean((1, 2))
    lattice = (own.lattice - base.lattice).square().mean(1)
    p = own.logits.exp()
    divergence = (p * (own.logits - base.logits)).sum(-1).clamp_min(0.0)
    masked = ((state.crystals.z == MASK) & state.free_types).float()
    types = (divergence * masked).sum(1) / masked.sum(1).clamp_min(1.0)
    return coords + lattice + types
