"""Relaxation of many crystals at once: cell and positions, finished ones leave the batch.

Each crystal follows its own FIRE trajectory, with its own time step; the crystals only share the
passes through the potential. The cell moves by small symmetric strains, each applied to the
current cell through the matrix exponential, so a cell can grow or shrink by any factor but never
turn over. Forces on the cell are the virial divided by the number of atoms, as in ASE's cell
filters, so ``fmax`` means the same here and there.

Source:
    Bitzek et al., Structural Relaxation Made Simple (2006), FIRE; ASE's FIRE and
    FrechetCellFilter for parameters and the definition of the cell's force.
"""

from dataclasses import dataclass, fields
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from matmill.config import Settings
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.periodic import wrap
from matmill.progress import Event, OnEvent, ignore
from matmill.verify.potentials import Potential, PotentialOutput
from matmill.verify.validity import smallest_distance
from matmill.verify.verdict import Fate


class RelaxSettings(Settings):
    """When relaxation stops, and how far it may stray. Defaults are those of `matmill design`.

    Attributes:
        fmax: Largest force in eV/Å, of any atom and of the cell, at which a crystal is relaxed.
        max_steps: Steps after which a crystal counts as not converged.
        relax_cell: Whether the cell moves too.
        max_step_a: Longest step of an atom in Å.
        time_step: First step of FIRE, in its own units.
        max_time_step: Longest step of FIRE.
        max_volume_ratio: Volume per atom may change by this factor, up or down.
        min_distance_a: Atoms closer than this after the first steps have collapsed, in Å.
        max_force: Forces above this for ``max_force_steps`` steps on end are hopeless, eV/Å.
        max_force_steps: See ``max_force``.
        max_atoms: Atoms that are relaxed at the same time; bounds memory.
    """

    fmax: Annotated[float, Field(gt=0)] = 0.1
    max_steps: Annotated[int, Field(ge=0)] = 200
    relax_cell: bool = True
    max_step_a: Annotated[float, Field(gt=0)] = 0.2
    time_step: Annotated[float, Field(gt=0)] = 0.3
    max_time_step: Annotated[float, Field(gt=0)] = 1.5
    max_volume_ratio: Annotated[float, Field(gt=1)] = 3.0
    min_distance_a: Annotated[float, Field(ge=0)] = 0.4
    max_force: Annotated[float, Field(gt=0)] = 50.0
    max_force_steps: Annotated[int, Field(gt=0)] = 20
    max_atoms: Annotated[int, Field(gt=0)] = 4000


@dataclass(frozen=True)
class Relaxed:
    """What relaxation made of a batch, in its order.

    Attributes:
        batch: The crystals where they stopped; atoms in the order of the input, float64.
        energy_ev: Total energy there, ``(n_crystals,)``.
        start_energy_ev: Total energy before the first step, ``(n_crystals,)``.
        converged: Whether the largest force is below ``fmax``, ``(n_crystals,)``.
        steps: Steps taken, ``(n_crystals,)``.
        status: None for a converged crystal, else what went wrong.
        max_force: Largest force at the end, atoms and cell, eV/Å, ``(n_crystals,)``.
    """

    batch: CrystalBatch
    energy_ev: Float[Tensor, " n_crystals"]
    start_energy_ev: Float[Tensor, " n_crystals"]
    converged: Bool[Tensor, " n_crystals"]
    steps: Int[Tensor, " n_crystals"]
    status: list[Fate | None]
    max_force: Float[Tensor, " n_crystals"]


# FIRE, the parameters of the paper and of ASE, except for longer time steps (see RelaxSettings):
# with one step limit per atom instead of one per crystal they need fewer steps and are as safe.
_N_MIN, _GROW, _SHRINK, _ALPHA, _ALPHA_DECAY = 5, 1.1, 0.5, 0.1, 0.99
_CHECK_DISTANCES_EVERY = 10


def relax(
    batch: CrystalBatch,
    potential: Potential,
    settings: RelaxSettings | None = None,
    *,
    on_event: OnEvent = ignore,
) -> Relaxed:
    """Relax all crystals, small cells first, and say of each how it ended.

    A crystal that explodes, collapses or runs out of steps keeps its last geometry and energy, and
    is never marked as converged.

    Args:
        batch: The crystals; not changed.
        potential: Energies, forces and stresses for a batch.
        settings: When to stop.
        on_event: Told after every step how many crystals are finished.
    """
    settings = settings or RelaxSettings()
    n = len(batch)
    result = Relaxed(
        batch=CrystalBatch(
            lattice=batch.lattice.double().clone(),
            frac_coords=wrap(batch.frac_coords.double()),
            atomic_numbers=batch.atomic_numbers,
            n_atoms=batch.n_atoms,
            properties=batch.properties,
            ids=batch.ids,
        ),
        energy_ev=torch.full((n,), torch.nan, dtype=torch.float64),
        start_energy_ev=torch.full((n,), torch.nan, dtype=torch.float64),
        converged=torch.zeros(n, dtype=torch.bool),
        steps=torch.zeros(n, dtype=torch.int64),
        status=[None] * n,
        max_force=torch.full((n,), torch.nan, dtype=torch.float64),
    )
    waiting = torch.argsort(batch.n_atoms, stable=True)
    moving = _Moving.start(result.batch, waiting[:0], settings)
    n_finished = 0
    while len(waiting) or len(moving.index):
        moving, waiting = _refill(moving, waiting, result.batch, settings)
        crystals = moving.crystals(result.batch)
        output = potential.compute(crystals, forces=True)
        cell_force = _cell_force(crystals, output, settings)
        force = _largest_force(crystals, output, cell_force)
        first = moving.steps == 0
        result.start_energy_ev[moving.index[first]] = output.energy_ev[first]
        fate, done = _judge(crystals, moving, output, force, settings)
        if bool(done.any()):
            _record(result, moving, crystals, output, force, fate, done, settings)
            n_finished += int(done.sum())
        on_event(Event(stage="relax", done=n_finished, total=n))
        if bool(done.all()):
            moving = _Moving.start(result.batch, waiting[:0], settings)
            continue
        atoms_left = ~done[crystals.crystal_index]
        moving = moving.keep(~done, atoms_left)
        assert output.forces_ev_per_a is not None  # asked for above
        moving.step(
            crystals.select(~done),
            output.forces_ev_per_a[atoms_left],
            cell_force[~done],
            settings,
        )
    return result


@dataclass
class _Moving:
    """The crystals that are being relaxed; atoms flat, in the order of ``index``."""

    index: Tensor  # position in the batch, (n,)
    lattice: Tensor  # (n, 3, 3)
    frac_coords: Tensor  # (n_atoms, 3)
    velocity: Tensor  # of the atoms, (n_atoms, 3)
    cell_velocity: Tensor  # of the strain times the number of atoms, (n, 3, 3)
    time_step: Tensor  # (n,)
    alpha: Tensor  # (n,)
    n_downhill: Tensor  # steps on end that went downhill, (n,)
    steps: Tensor  # (n,)
    start_volume: Tensor  # Å³, (n,)
    n_hot: Tensor  # steps on end with absurd forces, (n,)

    @classmethod
    def start(cls, batch: CrystalBatch, index: Tensor, settings: RelaxSettings) -> "_Moving":
        """Return these crystals of the batch at rest."""
        chosen, n = batch.select(index), len(index)
        return cls(
            index=index,
            lattice=chosen.lattice,
            frac_coords=chosen.frac_coords,
            velocity=torch.zeros_like(chosen.frac_coords),
            cell_velocity=torch.zeros_like(chosen.lattice),
            time_step=torch.full((n,), settings.time_step, dtype=torch.float64),
            alpha=torch.full((n,), _ALPHA, dtype=torch.float64),
            n_downhill=torch.zeros(n, dtype=torch.int64),
            steps=torch.zeros(n, dtype=torch.int64),
            start_volume=chosen.volume,
            n_hot=torch.zeros(n, dtype=torch.int64),
        )

    def crystals(self, batch: CrystalBatch) -> CrystalBatch:
        """Return the present geometry as a batch."""
        chosen = batch.select(self.index)
        return CrystalBatch(
            lattice=self.lattice,
            frac_coords=self.frac_coords,
            atomic_numbers=chosen.atomic_numbers,
            n_atoms=chosen.n_atoms,
        )

    def keep(self, crystals: Tensor, atoms: Tensor) -> "_Moving":
        """Return only the chosen crystals, with their atoms."""
        per_atom = ("frac_coords", "velocity")
        return _Moving(
            **{
                field.name: getattr(self, field.name)[atoms if field.name in per_atom else crystals]
                for field in fields(self)
            }
        )

    def joined(self, other: "_Moving") -> "_Moving":
        """Return both, one after the other."""
        return _Moving(
            **{
                field.name: torch.cat([getattr(self, field.name), getattr(other, field.name)])
                for field in fields(self)
            }
        )

    def step(
        self, crystals: CrystalBatch, force: Tensor, cell_force: Tensor, settings: RelaxSettings
    ) -> None:
        """Move every crystal by one FIRE step."""
        owner, n = crystals.crystal_index, len(self.index)

        def dot(a: Tensor, b: Tensor, cell_a: Tensor, cell_b: Tensor) -> Tensor:
            atoms = torch.zeros(n, dtype=torch.float64).index_add(0, owner, (a * b).sum(1))
            return atoms + (cell_a * cell_b).sum((1, 2))

        power = dot(force, self.velocity, cell_force, self.cell_velocity)
        downhill = power > 0
        speed = dot(self.velocity, self.velocity, self.cell_velocity, self.cell_velocity).sqrt()
        strength = dot(force, force, cell_force, cell_force).sqrt().clamp_min(1e-12)
        turn = self.alpha * speed / strength
        keep = torch.where(downhill, 1.0 - self.alpha, torch.zeros_like(turn))
        turn = torch.where(downhill, turn, torch.zeros_like(turn))
        self.velocity = keep[owner, None] * self.velocity + turn[owner, None] * force
        self.cell_velocity = (
            keep[:, None, None] * self.cell_velocity + turn[:, None, None] * cell_force
        )
        faster = downhill & (self.n_downhill > _N_MIN)
        uphill = ~downhill & (self.steps > 0)
        grown = (self.time_step * _GROW).clamp_max(settings.max_time_step)
        self.time_step = torch.where(faster, grown, self.time_step)
        self.time_step = torch.where(uphill, self.time_step * _SHRINK, self.time_step)
        self.alpha = torch.where(faster, self.alpha * _ALPHA_DECAY, self.alpha)
        self.alpha = torch.where(downhill, self.alpha, torch.full_like(self.alpha, _ALPHA))
        self.n_downhill = torch.where(downhill, self.n_downhill + 1, torch.zeros_like(self.steps))

        self.velocity = self.velocity + self.time_step[owner, None] * force
        self.cell_velocity = self.cell_velocity + self.time_step[:, None, None] * cell_force
        move = self.time_step[owner, None] * self.velocity
        strain = self.time_step[:, None, None] * self.cell_velocity
        longest = torch.zeros(n, dtype=torch.float64)
        longest = longest.scatter_reduce(0, owner, move.norm(dim=1), "amax")
        longest = torch.maximum(longest, strain.norm(dim=2).amax(1))
        shrink = (settings.max_step_a / longest.clamp_min(1e-12)).clamp_max(1.0)
        move = move * shrink[owner, None]
        strain = strain * (shrink / crystals.n_atoms)[:, None, None]
        inverse = torch.linalg.inv(self.lattice)
        self.frac_coords = wrap(self.frac_coords + torch.einsum("ai,aij->aj", move, inverse[owner]))
        if settings.relax_cell:
            self.lattice = self.lattice @ torch.linalg.matrix_exp(strain)
        self.steps = self.steps + 1


def _refill(
    moving: _Moving, waiting: Tensor, batch: CrystalBatch, settings: RelaxSettings
) -> tuple[_Moving, Tensor]:
    """Start waiting crystals while there is room; one at least when nothing moves."""
    if not len(waiting):
        return moving, waiting
    used = int(batch.n_atoms[moving.index].sum())
    total = used + batch.n_atoms[waiting].cumsum(0)
    n_new = int((total <= settings.max_atoms).sum())
    n_new = max(n_new, 0 if len(moving.index) else 1)
    if not n_new:
        return moving, waiting
    return moving.joined(_Moving.start(batch, waiting[:n_new], settings)), waiting[n_new:]


def _cell_force(crystals: CrystalBatch, output: PotentialOutput, settings: RelaxSettings) -> Tensor:
    """Return minus the virial over the number of atoms, eV per unit of strain, (n, 3, 3)."""
    assert output.stress_ev_per_a3 is not None  # the potential was asked for forces
    if not settings.relax_cell:
        return torch.zeros_like(crystals.lattice)
    scale = crystals.volume / crystals.n_atoms
    return -output.stress_ev_per_a3 * scale[:, None, None]


def _largest_force(
    crystals: CrystalBatch, output: PotentialOutput, cell_force: Tensor
) -> Float[Tensor, " n_crystals"]:
    assert output.forces_ev_per_a is not None  # the potential was asked for forces
    largest = torch.zeros(len(crystals), dtype=torch.float64)
    norms = output.forces_ev_per_a.norm(dim=1)
    largest = largest.scatter_reduce(0, crystals.crystal_index, norms, "amax")
    return torch.maximum(largest, cell_force.norm(dim=2).amax(1))


def _judge(
    crystals: CrystalBatch,
    moving: _Moving,
    output: PotentialOutput,
    force: Tensor,
    settings: RelaxSettings,
) -> tuple[dict[int, Fate], Tensor]:
    """Return what went wrong with which crystal, and which crystals stop here."""
    ratio = crystals.volume / moving.start_volume
    not_finite = ~torch.isfinite(output.energy_ev) | ~torch.isfinite(force)
    exploded = not_finite | (ratio > settings.max_volume_ratio)
    collapsed = ratio < 1.0 / settings.max_volume_ratio
    look = (moving.steps > 0) & (moving.steps % _CHECK_DISTANCES_EVERY == 0) & ~not_finite
    look |= (force < settings.fmax) & ~not_finite
    if bool(look.any()):
        close = torch.full((len(crystals),), torch.inf, dtype=torch.float64)
        close[look] = smallest_distance(crystals.select(look))
        collapsed |= close < settings.min_distance_a
    moving.n_hot = torch.where(
        force > settings.max_force, moving.n_hot + 1, torch.zeros_like(moving.n_hot)
    )
    hot = moving.n_hot >= settings.max_force_steps
    relaxed = force < settings.fmax
    late = moving.steps >= settings.max_steps
    fate: dict[int, Fate] = {}
    for bad, name in (
        (late & ~relaxed, Fate.NOT_CONVERGED),
        (hot, Fate.FORCES_TOO_LARGE),
        (collapsed, Fate.COLLAPSED),
        (exploded, Fate.EXPLODED),
    ):
        fate.update(dict.fromkeys(torch.nonzero(bad).flatten().tolist(), name))
    return fate, exploded | collapsed | hot | relaxed | late


def _record(
    result: Relaxed,
    moving: _Moving,
    crystals: CrystalBatch,
    output: PotentialOutput,
    force: Tensor,
    fate: dict[int, Fate],
    done: Tensor,
    settings: RelaxSettings,
) -> None:
    """Write the finished crystals into the result."""
    for row in torch.nonzero(done).flatten().tolist():
        target = int(moving.index[row])
        result.batch.lattice[target] = crystals.lattice[row]
        result.batch.frac_coords[result.batch.atoms_of(target)] = crystals.frac_coords[
            crystals.atoms_of(row)
        ]
        result.status[target] = fate.get(row)
    index = moving.index[done]
    result.energy_ev[index] = output.energy_ev[done]
    result.max_force[index] = force[done]
    result.steps[index] = moving.steps[done]
    good = torch.tensor([fate.get(row) is None for row in range(len(moving.index))])
    result.converged[index] = good[done] & (force[done] < settings.fmax)
