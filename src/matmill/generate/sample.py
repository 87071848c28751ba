"""From noise to crystals: one Euler loop for every mode."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.periodic import shortest_step, wrap
from matmill.generate.guidance import VelocityField
from matmill.generate.state import MASK, DenseCrystals, NoisyState

# Velocities grow towards the end ("anti-annealing"); larger values give more symmetric crystals.
COORD_SLOPE = 5.0
LATTICE_SLOPE = 0.0
REMASK = 0.1  # chance per unit time of hiding an element again, so that early guesses can change
_REMASK_UNTIL = 0.9
_MAX_LOGIT = 30.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a sampling run begins.

    Attributes:
        clean: What is given; only the parts that are fixed or partly kept matter.
        free_types: Atoms whose element is to be found, ``(b, n)``.
        free_sites: Atoms that may move, ``(b, n)``.
        free_lattice: Cells that may change, ``(b,)``.
        time: Clock to begin at; 0 forgets ``clean`` entirely.
    """

    clean: DenseCrystals
    free_types: Bool[Tensor, "b n"]
    free_sites: Bool[Tensor, "b n"]
    free_lattice: Bool[Tensor, " b"]
    time: float = 0.0

    @classmethod
    def nothing(cls, b: int, n: int) -> "Start":
        """Return the start of de novo generation."""
        return cls(
            clean=DenseCrystals(
                z=torch.zeros(b, n, dtype=torch.int64), f=torch.zeros(b, n, 3), y=torch.zeros(b, 6)
            ),
            free_types=torch.ones(b, n, dtype=torch.bool),
            free_sites=torch.ones(b, n, dtype=torch.bool),
            free_lattice=torch.ones(b, dtype=torch.bool),
        )


@torch.no_grad()
def sample(
    field: VelocityField,
    start: Start,
    *,
    n_steps: int,
    allowed: Bool[Tensor, " e"],
    rng: torch.Generator,
    coord_slope: float = COORD_SLOPE,
    lattice_slope: float = LATTICE_SLOPE,
) -> DenseCrystals:
    """Carry crystals of one size from ``start.time`` to 1.

    Args:
        field: Velocities and element logits at a state and time.
        start: What is given and what is free.
        n_steps: Steps for the whole way from 0 to 1; a later start takes its share of them.
        allowed: Elements that may be chosen, Z = 1..100.
        rng: Source of randomness (on the CPU).
        coord_slope: Growth of the coordinate velocity, ``1 + slope * t``.
        lattice_slope: The same for the lattice.

    Returns:
        Crystals at time 1; what was fixed is returned bit for bit.
    """
    t0 = start.time
    device = start.clean.f.device
    b, n = start.clean.z.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng).to(device)

    noise = uniform(b, n, 3)
    f = wrap(noise + t0 * shortest_step(noise, start.clean.f))
    f = torch.where(start.free_sites[..., None], f, start.clean.f)
    y = (1 - t0) * torch.randn(b, 6, generator=rng).to(device) + t0 * start.clean.y
    y = torch.where(start.free_lattice[:, None], y, start.clean.y)
    hidden = start.free_types & (uniform(b, n) >= t0)
    z = torch.where(hidden, MASK, start.clean.z)

    state = NoisyState(
        crystals=DenseCrystals(z=z, f=f, y=y),
        type_clock=torch.ones(b, n, device=device),
        site_clock=torch.ones(b, n, device=device),
        lattice_clock=torch.ones(b, device=device),
    )
    forbidden = ~allowed.to(device)
    steps = max(1, round(n_steps * (1 - t0)))
    dt = (1 - t0) / steps
    for i in range(steps):
        t = t0 + i * dt
        state = replace(
            state,
            crystals=DenseCrystals(z=z, f=f, y=y),
            type_clock=torch.where(start.free_types, t, 1.0),
            site_clock=torch.where(start.free_sites, t, 1.0),
            lattice_clock=torch.where(start.free_lattice, t, 1.0),
        )
        velocity = field(state, t)
        # Without the clamp the last steps multiply the network's error by the slope.
        h_f = min(dt * (1 + coord_slope * t), 1 - t)
        h_y = min(dt * (1 + lattice_slope * t), 1 - t)
        f = torch.where(start.free_sites[..., None], wrap(f + h_f * velocity.sites), f)
        y = torch.where(start.free_lattice[:, None], y + h_y * velocity.lattice, y)

        is_last = i == steps - 1
        logits = velocity.logits.clamp(-_MAX_LOGIT, _MAX_LOGIT)
        logits = logits.masked_fill(forbidden, -torch.inf)
        gumbel = -torch.log(-torch.log(uniform(b, n, logits.shape[-1]).clamp(1e-9, 1 - 1e-7)))
        guess = (logits + gumbel).argmax(-1) + 1
        draw = uniform(2, b, n)
        masked = z == MASK
        p_show = 1.0 if is_last else min(1.0, dt * (1 + REMASK * t) / (1 - t))
        p_hide = dt * REMASK if t < _REMASK_UNTIL and not is_last else 0.0
        shown = torch.where(masked & (draw[0] < p_show), guess, z)
        z = torch.where(start.free_types & ~masked & (draw[1] < p_hide), MASK, shown)
    return DenseCrystals(z=z, f=f, y=y)
