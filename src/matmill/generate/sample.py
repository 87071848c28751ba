"""From noise to crystals: one Euler loop for every mode."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.periodic import shortest_step, wrap
from matmill.generate.guidance import VelocityField
from matmill.generate.state import MASK, DenseCrystals, LatticeScale, NoisyState
from matmill.generate.streams import Streams

# Velocities grow towards the end ("anti-annealing"); larger values give more symmetric crystals.
COORD_SLOPE = 5.0
LATTICE_SLOPE = 0.0
REMASK = 0.1  # chance per unit time of hiding an element again, so that early guesses can change
_REMASK_UNTIL = 0.9
_MAX_LOGIT = 30.0


class Symmetric(Protocol):
    """What keeps crystals of one size in their space groups; `generate.orbits` has one."""

    def start(self, rng: torch.Generator) -> Float[Tensor, "b n 3"]:
        """Draw sites on the orbits."""
        ...

    def project_velocity(self, velocity: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Return what keeps the sites on their orbits."""
        ...

    def project_lattice(self, y: Float[Tensor, "b 6"], scale: LatticeScale) -> Float[Tensor, "b 6"]:
        """Return the closest lattice numbers that the group allows."""
        ...


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

    def to(self, device: str | torch.device) -> "Start":
        """Return a copy on another device."""
        return Start(
            clean=self.clean.to(device),
            free_types=self.free_types.to(device),
            free_sites=self.free_sites.to(device),
            free_lattice=self.free_lattice.to(device),
            time=self.time,
        )

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
    rng: torch.Generator | Streams,
    coord_slope: float = COORD_SLOPE,
    lattice_slope: float = LATTICE_SLOPE,
    required: Bool[Tensor, " e"] | None = None,
    orbits: Symmetric | None = None,
    scale: LatticeScale | None = None,
) -> DenseCrystals:
    """Carry crystals of one size from ``start.time`` to 1.

    Args:
        field: Velocities and element logits at a state and time.
        start: What is given and what is free.
        n_steps: Steps for the whole way from 0 to 1; a later start takes its share of them.
        allowed: Elements that may be chosen, Z = 1..100.
        rng: Source of randomness (on the CPU), or a stream for each crystal.
        coord_slope: Growth of the coordinate velocity, ``1 + slope * t``.
        lattice_slope: The same for the lattice.
        required: Elements that must all occur, as far as there are atoms to choose them for.
        orbits: Space groups that the crystals start in and keep; the way then begins at 0.
        scale: Standardisation of the lattice numbers, with ``orbits``.

    Returns:
        Crystals at time 1; what was fixed is returned bit for bit.
    """
    t0 = start.time
    device = start.clean.f.device
    b, n = start.clean.z.shape
    steps = max(1, round(n_steps * (1 - t0)))
    dt = (1 - t0) / steps
    streams = rng if isinstance(rng, Streams) else Streams.of(rng, b)
    noise = _Noise.draw(streams, n, steps, device)

    f = wrap(noise.sites + t0 * shortest_step(noise.sites, start.clean.f))
    if orbits is not None:
        f = _on_orbits(orbits, streams).to(f)
    f = torch.where(start.free_sites[..., None], f, start.clean.f)
    y = (1 - t0) * noise.lattice + t0 * start.clean.y
    if orbits is not None and scale is not None:
        y = orbits.project_lattice(y, scale)
    y = torch.where(start.free_lattice[:, None], y, start.clean.y)
    forbidden = ~allowed.to(device)
    # What is kept of a given crystal must be allowed too.
    banned = (start.clean.z > 0) & forbidden[(start.clean.z - 1).clamp_min(0)]
    hidden = start.free_types & ((noise.hidden >= t0) | banned)
    z = torch.where(hidden, MASK, start.clean.z)

    state = NoisyState(
        crystals=DenseCrystals(z=z, f=f, y=y),
        type_clock=torch.ones(b, n, device=device),
        site_clock=torch.ones(b, n, device=device),
        lattice_clock=torch.ones(b, device=device),
        keeps_symmetry=orbits is not None,
    )
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
        v = velocity.sites if orbits is None else orbits.project_velocity(velocity.sites)
        f = torch.where(start.free_sites[..., None], wrap(f + h_f * v), f)
        y_next = y + h_y * velocity.lattice
        if orbits is not None and scale is not None:
            y_next = orbits.project_lattice(y_next, scale)
        y = torch.where(start.free_lattice[:, None], y_next, y)

        is_last = i == steps - 1
        logits = velocity.logits.clamp(-_MAX_LOGIT, _MAX_LOGIT)
        logits = logits.masked_fill(forbidden, -torch.inf)
        shows, hides, chooses = noise.types[:, i].unbind(1)
        masked = z == MASK
        p_show = 1.0 if is_last else min(1.0, dt * (1 + REMASK * t) / (1 - t))
        p_hide = dt * REMASK if t < _REMASK_UNTIL and not is_last else 0.0
        shown = torch.where(masked & (shows < p_show), _choose(logits, chooses), z)
        z = torch.where(start.free_types & ~masked & (hides < p_hide), MASK, shown)
        if required is not None:
            z = _with_all(z, logits, start.free_types, required.to(device))
    return DenseCrystals(z=z, f=f, y=y)


@dataclass(frozen=True, kw_only=True)
class _Noise:
    """All that is random on the way, drawn before it; a crystal's own, whatever is beside it."""

    sites: Float[Tensor, "b n 3"]
    lattice: Float[Tensor, "b 6"]
    hidden: Float[Tensor, "b n"]
    types: Float[Tensor, "b steps 3 n"]  # whether an element is shown, is hidden, and which

    @classmethod
    def draw(cls, streams: Streams, n: int, steps: int, device: torch.device) -> "_Noise":
        sizes = (3 * n, 6, n, 3 * n * steps)
        parts = streams.uniform("sample", sum(sizes)).to(device).split(sizes, dim=1)
        return cls(
            sites=parts[0].reshape(-1, n, 3),
            lattice=torch.special.ndtri(parts[1].double()).float(),
            hidden=parts[2],
            types=parts[3].reshape(-1, steps, 3, n),
        )


def _on_orbits(orbits: Symmetric, streams: Streams) -> Tensor:
    """Draw the first sites of each crystal from its own stream, where orbits can be taken apart."""
    select = getattr(orbits, "select", None)
    if select is None:
        return orbits.start(streams.generator(0))
    rows = range(len(streams))
    return torch.cat([select(torch.tensor([i])).start(streams.generator(i)) for i in rows])


def _choose(logits: Float[Tensor, "b n 100"], u: Float[Tensor, "b n"]) -> Tensor:
    """Return the atomic numbers at which the cumulative probabilities pass ``u`` in (0, 1)."""
    total = logits.double().softmax(-1).cumsum(-1)
    # An element of probability 0 adds nothing to the sum, so it is never the one that passes u.
    return (total <= u.double()[..., None] * total[..., -1:]).sum(-1) + 1


def _with_all(z: Tensor, logits: Tensor, free: Tensor, required: Tensor) -> Tensor:
    """Give missing elements an atom in crystals that have too few masked atoms left for them.

    The atom is, of the free ones whose element occurs once more or is not required, the one on
    which the change costs least.
    """
    wanted = torch.nonzero(required).flatten() + 1
    has = (z[..., None] == wanted).any(1)
    late = (~has).sum(1) > (z == MASK).sum(1)
    if not bool(late.any()):
        return z
    chance = logits.log_softmax(-1)
    for k, element in enumerate(wanted.tolist()):
        same = (z[:, :, None] == z[:, None]).sum(-1)
        spare = (same > 1) | ~(z[..., None] == wanted).any(-1)
        own = chance.gather(-1, (z - 1).clamp_min(0)[..., None])[..., 0]
        movable = free & spare & (z != MASK)
        cost = (own - chance[..., element - 1]).masked_fill(~movable, torch.inf)
        best, atom = cost.min(1)
        change = late & ~has[:, k] & torch.isfinite(best)
        rows = torch.nonzero(change).flatten()
        z = z.clone()
        z[rows, atom[rows]] = element
    return z
