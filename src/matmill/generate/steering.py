"""Predictor guidance: bend the flow so that a differentiable predictor gives what is wanted.

At each step the network says where the crystal is heading. The predictor is asked about that end
point, and the end point is moved the shortest way on which the prediction reaches the wanted
range, no farther than a trust radius. Elements are left to the conditions: only sites and cells
are moved. What drives one predictor may fool it, so judge the result with another.

Source:
    Bansal et al., Universal guidance for diffusion models (2023), for the gradient at the
    predicted end point; the Newton step and its trust radius are ours.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.periodic import wrap
from matmill.generate.guidance import VelocityField
from matmill.generate.process import Velocity
from matmill.generate.sample import Start
from matmill.generate.state import MASK, LatticeScale, NoisyState

# Before this clock the end point is no crystal yet, and its prediction means nothing.
GUIDED_FROM, GUIDED_TO = 0.3, 0.97
_COORD_SCALE = 12.0


@dataclass(frozen=True, kw_only=True)
class EndPoint:
    """Where crystals of one size are heading.

    Attributes:
        lattice: Row vectors in Å, float64, ``(b, 3, 3)``.
        frac: Fractional coordinates, float64, ``(b, n, 3)``; not wrapped while gradients flow.
        z: Atomic numbers, ``(b, n)``.
    """

    lattice: Float[Tensor, "b 3 3"]
    frac: Float[Tensor, "b n 3"]
    z: Int[Tensor, "b n"]


class PropertyOf(Protocol):
    """A differentiable prediction. NaN says that a crystal cannot be predicted, and leaves it."""

    def __call__(self, crystals: EndPoint) -> Float[Tensor, " b"]:
        """Return the property of each crystal; gradients flow to lattice and sites."""
        ...


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What to draw crystals towards.

    Attributes:
        value: The predictor.
        low: Smallest value that is as wanted, in its unit; -inf for none.
        high: Largest value that is as wanted; inf for none.
        strength: Share of the way to the wanted range that each step aims at.
        radius: Farthest that an end point is moved in one step: the root of the squared changes
            of lattice numbers (spread 1) and of sites (spread 1, mean over atoms).
    """

    value: PropertyOf
    low: float
    high: float
    strength: float = 1.0
    radius: float = 0.5


def steered(field: VelocityField, guide: Guide, start: Start, scale: LatticeScale) -> VelocityField:
    """Return a velocity field that also heads for what the guide wants.

    Args:
        field: Velocities without the guide.
        guide: What is wanted.
        start: What is free to move.
        scale: Standardisation of the lattice numbers.
    """

    def bent(state: NoisyState, time: float) -> Velocity:
        velocity = field(state, time)
        if not GUIDED_FROM < time < GUIDED_TO:
            return velocity
        left = 1.0 - time
        c = state.crystals
        f = (c.f + left * velocity.sites).double()
        y = (c.y + left * velocity.lattice).double()
        z = torch.where(c.z == MASK, velocity.logits.argmax(-1) + 1, c.z)
        step_f, step_y = _newton_step(guide, f, y, z, start, scale)
        return Velocity(
            sites=velocity.sites + (step_f / left).to(velocity.sites),
            lattice=velocity.lattice + (step_y / left).to(velocity.lattice),
            logits=velocity.logits,
        )

    return bent


def _newton_step(
    guide: Guide, f: Tensor, y: Tensor, z: Tensor, start: Start, scale: LatticeScale
) -> tuple[Tensor, Tensor]:
    """Return the smallest moves of sites and lattice numbers that reach the wanted range."""
    b, n = z.shape
    n_atoms = torch.full((b,), n, device=y.device)
    with torch.enable_grad():
        f, y = wrap(f.detach()).requires_grad_(True), y.detach().requires_grad_(True)
        value = guide.value(EndPoint(lattice=scale.decode(y, n_atoms), frac=f, z=z))
        known = torch.isfinite(value)
        total = torch.where(known, value, torch.zeros_like(value)).sum()
        if not total.requires_grad:
            return torch.zeros_like(f), torch.zeros_like(y)
        slopes = torch.autograd.grad(total, (f, y), allow_unused=True)
    slope_f, slope_y = (
        torch.zeros_like(x) if slope is None else slope.nan_to_num(0.0)
        for x, slope in zip((f, y), slopes, strict=True)
    )
    slope_f = torch.where(start.free_sites[..., None], slope_f, 0.0)
    slope_y = torch.where(start.free_lattice[:, None], slope_y, 0.0)
    # Steepest in a metric where a site and a lattice number have the same spread.
    along_f, along_y = slope_f * n / _COORD_SCALE, slope_y
    square = (slope_f * along_f).sum((1, 2)) + (slope_y * along_y).sum(1)
    wanted = value.detach().clamp(guide.low, guide.high)
    missing = torch.where(known & (square > 1e-20), wanted - value.detach(), 0.0)
    share = guide.strength * missing / square.clamp_min(1e-20)
    length = share.abs() * square.sqrt()
    share = share * (guide.radius / length.clamp_min(1e-20)).clamp_max(1.0)
    return share[:, None, None] * along_f, share[:, None] * along_y
