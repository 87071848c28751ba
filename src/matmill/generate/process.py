"""The flow: how noise becomes a crystal, and the loss that teaches it.

Elements unmask one by one (absorbing discrete flow), sites move on the torus along minimum-image
lines, and the lattice numbers follow straight lines from a Gaussian.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from matmill.crystals.periodic import shortest_step, wrap
from matmill.generate.coupling import Coupling, interchangeable, paired_noise
from matmill.generate.orbits import Orbits
from matmill.generate.schedules import TASK_SHARES, draw_clocks
from matmill.generate.state import MASK, DenseCrystals, LatticeScale, NoisyState

# Unit-variance scaling: a uniform step in [-1/2, 1/2) has variance 1/12 per component.
_COORD_SCALE = 12.0
# Measured on a prototype (design specification, section 7.3): coordinates, lattice, types.
LOSS_WEIGHTS = {"coords": 1.0, "lattice": 0.5, "types": 0.5}
_KNOWN_TYPE_WEIGHT = 0.01


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the network should answer.

    Attributes:
        site_velocity: ``(b, n, 3)``, fractional units per unit clock.
        lattice_velocity: ``(b, 6)``.
        z: True elements, ``(b, n)``.
    """

    site_velocity: Float[Tensor, "b n 3"]
    lattice_velocity: Float[Tensor, "b 6"]
    z: Int[Tensor, "b n"]


@dataclass(frozen=True, kw_only=True)
class Velocity:
    """What the network answers; see `Targets`. ``logits`` are over Z = 1..100, ``(b, n, 100)``."""

    sites: Float[Tensor, "b n 3"]
    lattice: Float[Tensor, "b 6"]
    logits: Float[Tensor, "b n 100"]


def add_noise(
    clean: DenseCrystals,
    rng: torch.Generator,
    *,
    shares: tuple[float, ...] = TASK_SHARES,
    power: float = 1.0,
    coupling: Coupling = "none",
    mean_free: bool = True,
) -> tuple[NoisyState, Targets]:
    """Draw clocks and noise for training crystals, on the device of ``rng``.

    Args:
        clean: The crystals, on the same device.
        rng: Source of randomness.
        shares: See `draw_clocks`.
        power: See `draw_clocks`.
        coupling: ``permutation`` pairs interchangeable atoms with nearby noise.
        mean_free: Take the common drift out of the targets of the sites.

    Source:
        FlowMM (2024) for the torus; discrete flow matching with a mask (Campbell et al. 2024).
    """
    b, n = clean.z.shape
    type_clock, site_clock, lattice_clock = draw_clocks(b, n, rng, shares=shares, power=power)
    start = torch.rand(b, n, 3, generator=rng, device=rng.device)
    if coupling == "permutation":
        kind = interchangeable(clean.z, type_clock, site_clock)
        start = paired_noise(start, clean.f, kind)
    velocity = shortest_step(start, clean.f)
    f = wrap(start + site_clock[:, :, None] * velocity)
    f = torch.where(site_clock[:, :, None] < 1.0, f, clean.f)
    y0 = torch.randn(b, 6, generator=rng, device=rng.device)
    y = (1 - lattice_clock[:, None]) * y0 + lattice_clock[:, None] * clean.y
    shown = torch.rand(b, n, generator=rng, device=rng.device) < type_clock
    z = torch.where(shown, clean.z, MASK)
    state = NoisyState(
        crystals=DenseCrystals(z=z, f=f, y=y),
        type_clock=type_clock,
        site_clock=site_clock,
        lattice_clock=lattice_clock,
    )
    targets = Targets(
        site_velocity=centred(velocity, state) if mean_free else velocity,
        lattice_velocity=clean.y - y0,
        z=clean.z,
    )
    return state, targets


def add_symmetric_noise(
    clean: DenseCrystals, orbits: Orbits, scale: LatticeScale, rng: torch.Generator
) -> tuple[NoisyState, Targets]:
    """Draw symmetric noise for crystals in standard primitive cells; their elements are known.

    Sites start uniformly on their Wyckoff positions and move along straight lines in the free
    directions; the noisy cell is averaged over the group.

    Source:
        DiffCSP++ (2024), diffusion under space-group constraints; the flow form is ours.
    """
    b, n = clean.z.shape
    time = torch.rand(b, generator=rng, device=rng.device)
    velocity = orbits.displacement(rng).float()
    y0 = torch.randn(b, 6, generator=rng, device=rng.device)
    y = orbits.project_lattice((1 - time[:, None]) * y0 + time[:, None] * clean.y, scale)
    state = NoisyState(
        crystals=DenseCrystals(
            z=clean.z, f=wrap(clean.f - (1 - time[:, None, None]) * velocity), y=y
        ),
        type_clock=torch.ones(b, n),
        site_clock=time[:, None].repeat(1, n),
        lattice_clock=time,
        keeps_symmetry=True,
    )
    targets = Targets(
        site_velocity=centred(velocity, state), lattice_velocity=clean.y - y0, z=clean.z
    )
    return state, targets


def centred(velocity: Float[Tensor, "b n 3"], state: NoisyState) -> Float[Tensor, "b n 3"]:
    """Remove the common drift, except where a fixed atom anchors the origin."""
    mean = velocity.mean(dim=1, keepdim=True)
    return velocity - torch.where(state.is_anchored[:, None, None], 0.0, mean)


def losses(
    velocity: Velocity,
    targets: Targets,
    state: NoisyState,
    weights: dict[str, float] = LOSS_WEIGHTS,
) -> dict[str, Tensor]:
    """Return the mean loss and its parts; parts with clock 1 are left out of their mean."""
    free = state.free_sites.float()
    squared = (velocity.sites - targets.site_velocity).square().mean(-1)
    per_crystal = (squared * free).sum(1) / free.sum(1).clamp_min(1.0)
    moving = (free.sum(1) > 0).float()
    coords = _COORD_SCALE * (per_crystal * moving).sum() / moving.sum().clamp_min(1.0)

    growing = (state.lattice_clock < 1.0).float()
    lattice = (velocity.lattice - targets.lattice_velocity).square().mean(-1)
    lattice = (lattice * growing).sum() / growing.sum().clamp_min(1.0)

    cross = F.cross_entropy(
        velocity.logits.flatten(0, 1), targets.z.flatten() - 1, reduction="none"
    )
    cross = cross.view_as(targets.z)
    masked = ((state.crystals.z == MASK) & state.free_types).float()
    guessed = (masked.sum(1) > 0).float()
    per_crystal = (cross * masked).sum(1) / masked.sum(1).clamp_min(1.0)
    types = (per_crystal * guessed).sum() / guessed.sum().clamp_min(1.0)
    types = types + _KNOWN_TYPE_WEIGHT * cross.mean()

    parts = {"coords": coords, "lattice": lattice, "types": types}
    total = sum((weights[name] * part for name, part in parts.items()), coords.new_zeros(()))
    return {"loss": total, **parts}
