"""Relaxation of many crystals at once: cell and positions, finished ones leave the batch.

Each crystal follows its own trajectory, with its own steps; the crystals only share the passes
through the potential. The largest force is that of ASE's cell filters, where the force on a cell is
its virial divided by the number of atoms, so ``fmax`` means the same here and there.

Source:
    ASE's FrechetCellFilter for the definition of the cell's force; `fire` and `lbfgs` for steps.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from matmill.config import Settings
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.periodic import wrap
from matmill.progress import Event, OnEvent, ignore
from matmill.verify.fire import Fire
from matmill.verify.hopeless import MIN_STEPS, is_hopeless
from matmill.verify.lbfgs import Lbfgs
from matmill.verify.moving import (
    Geometry,
    Gradient,
    cell_scale,
    joined,
    moved,
    selected,
)
from matmill.verify.potentials import Potential, PotentialOutput
from matmill.verify.validity import smallest_distance
from matmill.verify.verdict import Fate


class RelaxSettings(Settings):
    """When relaxation stops, and how far it may stray. Defaults are those of `matmill design`.

    Attributes:
        fmax: Largest force in eV/Å, of any atom and of the cell, at which a crystal is relaxed.
        max_steps: Steps after which a crystal counts as not converged.
        relax_cell: Whether the cell moves too.
        optimizer: ``"lbfgs"`` takes fewer steps; ``"fire"`` is that of most published numbers.
        max_step_a: Longest step of an atom in Å, or of a coordinate of the cell.
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
    optimizer: Literal["lbfgs", "fire"] = "lbfgs"
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
    """What relaxation made of a batch, in its order; NaN where nothing was computed.

    Attributes:
        batch: The crystals where they stopped; atoms in the order of the input, float64.
        energy_ev: Total energy there, ``(n_crystals,)``.
        start_energy_ev: Total energy before the first step, ``(n_crystals,)``.
        converged: Whether the largest force is below ``fmax``, ``(n_crystals,)``.
        steps: Steps taken, ``(n_crystals,)``.
        status: None for a converged crystal, else what went wrong.
        max_force: Largest force at the end, atoms and cell, eV/Å, ``(n_crystals,)``.
        max_cell_force: That of the cell alone: a row of its virial by the number of atoms, eV.
        forces_ev_per_a: Force on every atom at the end, ``(n_atoms_total, 3)``.
        stress_ev_per_a3: Stress at the end, ``(n_crystals, 3, 3)``.
    """

    batch: CrystalBatch
    energy_ev: Float[Tensor, " n_crystals"]
    start_energy_ev: Float[Tensor, " n_crystals"]
    converged: Bool[Tensor, " n_crystals"]
    steps: Int[Tensor, " n_crystals"]
    status: list[Fate | None]
    max_force: Float[Tensor, " n_crystals"]
    max_cell_force: Float[Tensor, " n_crystals"]
    forces_ev_per_a: Float[Tensor, "n_atoms_total 3"]
    stress_ev_per_a3: Float[Tensor, "n_crystals 3 3"]

    @classmethod
    def untouched(cls, batch: CrystalBatch) -> "Relaxed":
        """Return crystals before anything was computed of them."""
        n = len(batch)
        unknown = torch.full((n,), torch.nan, dtype=torch.float64)
        return cls(
            batch=CrystalBatch(
                lattice=batch.lattice.double().clone(),
                frac_coords=wrap(batch.frac_coords.double()),
                atomic_numbers=batch.atomic_numbers,
                n_atoms=batch.n_atoms,
                properties=batch.properties,
                ids=batch.ids,
            ),
            energy_ev=unknown.clone(),
            start_energy_ev=unknown.clone(),
            converged=torch.zeros(n, dtype=torch.bool),
            steps=torch.zeros(n, dtype=torch.int64),
            status=[None] * n,
            max_force=unknown.clone(),
            max_cell_force=unknown.clone(),
            forces_ev_per_a=torch.full_like(batch.frac_coords.double(), torch.nan),
            stress_ev_per_a3=unknown[:, None, None].repeat(1, 3, 3),
        )

    def put(self, rows: Int[Tensor, " n"], other: "Relaxed") -> None:
        """Write what became of some crystals, ``other``, to their rows."""
        atoms = _atoms(self.batch, rows)
        self.batch.lattice[rows] = other.batch.lattice
        self.batch.frac_coords[atoms] = other.batch.frac_coords
        self.forces_ev_per_a[atoms] = other.forces_ev_per_a
        for name in (
            "energy_ev",
            "start_energy_ev",
            "converged",
            "steps",
            "max_force",
            "max_cell_force",
            "stress_ev_per_a3",
        ):
            getattr(self, name)[rows] = getattr(other, name)
        for row, status in zip(rows.tolist(), other.status, strict=True):
            self.status[row] = status


def _atoms(batch: CrystalBatch, rows: Int[Tensor, " n"]) -> Int[Tensor, " n_atoms"]:
    """Return the rows of the atoms of some crystals, in the order of the crystals."""
    n_atoms = batch.n_atoms[rows]
    begin = torch.repeat_interleave(batch.offsets[rows], n_atoms)
    first = torch.repeat_interleave(n_atoms.cumsum(0) - n_atoms, n_atoms)
    return begin + torch.arange(int(n_atoms.sum())) - first


_CHECK_DISTANCES_EVERY = 10


def relax(
    batch: CrystalBatch,
    potential: Potential,
    settings: RelaxSettings | None = None,
    *,
    limit_ev_per_atom: Float[Tensor, " n_crystals"] | None = None,
    on_event: OnEvent = ignore,
) -> Relaxed:
    """Relax all crystals, small cells first, and say of each how it ended.

    A crystal that explodes, collapses, is given up or runs out of steps keeps its last geometry and
    energy, and is never marked as converged.

    Args:
        batch: The crystals; not changed.
        potential: Energies, forces and stresses for a batch.
        settings: When to stop.
        limit_ev_per_atom: Energies above which a relaxed crystal is of no use. One that is not
            expected to get there any more is given up early (see `hopeless`); NaN never is.
        on_event: Told after every step how many crystals are finished.
    """
    settings = settings or RelaxSettings()
    n = len(batch)
    result = Relaxed.untouched(batch)
    waiting = torch.argsort(batch.n_atoms, stable=True)
    moving = _start(result.batch, waiting[:0], settings)
    n_finished = 0
    while len(waiting) or len(moving.index):
        moving, waiting = _refill(moving, waiting, result.batch, settings)
        crystals = moving.crystals(result.batch)
        output = potential.compute(crystals, forces=True)
        gradient = _gradient(crystals, output, settings)
        moving.start_energy = torch.where(moving.steps == 0, output.energy_ev, moving.start_energy)
        limit = None if limit_ev_per_atom is None else limit_ev_per_atom[moving.index]
        now = _look(crystals, moving, output, gradient, limit, settings)
        done = now.is_done
        if bool(done.any()):
            result.put(moving.index[done], _ended(crystals, moving, output, now))
            n_finished += int(done.sum())
        on_event(Event(stage="relax", done=n_finished, total=n))
        atoms_left = ~done[crystals.crystal_index]
        moving = selected(moving, ~done, atoms_left)
        if len(moving.index):
            _step(moving, crystals.select(~done), selected(gradient, ~done, atoms_left), settings)
    return result


@dataclass
class _Moving:
    """The crystals that are being relaxed; atoms flat, in the order of ``index``."""

    index: Tensor  # position in the batch, (n,)
    lattice: Tensor  # (n, 3, 3)
    frac_coords: Tensor  # (n_atoms, 3)
    steps: Tensor  # (n,)
    start_volume: Tensor  # Å³, (n,)
    start_energy: Tensor  # eV, (n,)
    n_hot: Tensor  # steps on end with absurd forces, (n,)
    stepper: Fire | Lbfgs

    per_atom = ("frac_coords",)

    def crystals(self, batch: CrystalBatch) -> CrystalBatch:
        """Return the present geometry as a batch."""
        chosen = batch.select(self.index)
        return CrystalBatch(
            lattice=self.lattice,
            frac_coords=self.frac_coords,
            atomic_numbers=chosen.atomic_numbers,
            n_atoms=chosen.n_atoms,
            ids=chosen.ids,
        )


def _start(batch: CrystalBatch, index: Tensor, settings: RelaxSettings) -> _Moving:
    """Return these crystals of the batch at rest."""
    chosen, n = batch.select(index), len(index)
    geometry = _geometry(chosen)
    return _Moving(
        index=index,
        lattice=chosen.lattice,
        frac_coords=chosen.frac_coords,
        steps=torch.zeros(n, dtype=torch.int64),
        start_volume=chosen.volume,
        start_energy=torch.full((n,), torch.nan, dtype=torch.float64),
        n_hot=torch.zeros(n, dtype=torch.int64),
        stepper=Lbfgs.start(geometry, settings.max_step_a)
        if settings.optimizer == "lbfgs"
        else Fire.start(geometry, settings.time_step, settings.max_time_step),
    )


def _geometry(crystals: CrystalBatch) -> Geometry:
    return Geometry(
        crystals.lattice, crystals.frac_coords, crystals.crystal_index, crystals.n_atoms
    )


def _step(
    moving: _Moving, crystals: CrystalBatch, gradient: Gradient, settings: RelaxSettings
) -> None:
    """Move every crystal by one step."""
    move = moving.stepper.move(_geometry(crystals), gradient)
    geometry, _ = moved(move, settings.max_step_a)
    moving.lattice, moving.frac_coords = geometry.lattice, geometry.frac_coords
    moving.steps = moving.steps + 1


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
    return joined(moving, _start(batch, waiting[:n_new], settings)), waiting[n_new:]


def _gradient(crystals: CrystalBatch, output: PotentialOutput, settings: RelaxSettings) -> Gradient:
    """Return what pulls at the crystals, on the coordinates that steps are taken in."""
    force, stress = output.forces_ev_per_a, output.stress_ev_per_a3
    assert force is not None  # the potential was asked for them
    assert stress is not None
    pull = -crystals.volume / cell_scale(crystals.n_atoms) * float(settings.relax_cell)
    return Gradient(
        energy_ev=output.energy_ev,
        force=force,
        cell_force=stress * pull[:, None, None],
    )


@dataclass(frozen=True)
class _Look:
    """What is seen of the moving crystals after a step."""

    force: Tensor  # largest, atoms and cell, (n,)
    cell_force: Tensor  # of the cell, (n,)
    relaxed: Tensor  # (n,)
    is_done: Tensor  # (n,)
    fate: dict[int, Fate]  # what went wrong, by place among the moving


def _look(
    crystals: CrystalBatch,
    moving: _Moving,
    output: PotentialOutput,
    gradient: Gradient,
    limit: Tensor | None,
    settings: RelaxSettings,
) -> _Look:
    """Return which crystals stop here, and what went wrong with which."""
    # The force on a cell as ASE counts it: a row of the virial by the number of atoms.
    per_atom = cell_scale(crystals.n_atoms) / crystals.n_atoms
    cell_force = (gradient.cell_force.norm(dim=2) * per_atom[:, None]).amax(1)
    on_atoms = gradient.force.norm(dim=1)
    force = cell_force.scatter_reduce(0, crystals.crystal_index, on_atoms, "amax")
    ratio = crystals.volume / moving.start_volume
    not_finite = ~torch.isfinite(output.energy_ev) | ~torch.isfinite(force)
    relaxed = force < settings.fmax
    exploded = not_finite | (ratio > settings.max_volume_ratio)
    collapsed = ratio < 1.0 / settings.max_volume_ratio
    look = (moving.steps > 0) & (moving.steps % _CHECK_DISTANCES_EVERY == 0) & ~not_finite
    look |= relaxed & ~not_finite
    if bool(look.any()):
        close = torch.full((len(crystals),), torch.inf, dtype=torch.float64)
        close[look] = smallest_distance(crystals.select(look))
        collapsed |= close < settings.min_distance_a
    hotter = torch.where(force > settings.max_force, moving.n_hot + 1, 0)
    moving.n_hot = hotter
    hot = hotter >= settings.max_force_steps
    late = (moving.steps >= settings.max_steps) & ~relaxed
    lost = torch.zeros_like(relaxed)
    if limit is not None:
        lost = ~relaxed & is_hopeless(
            output.energy_ev, gradient, crystals.crystal_index, crystals.n_atoms, limit
        )
        lost &= moving.steps >= MIN_STEPS
    fate: dict[int, Fate] = {}
    for bad, name in (
        (late, Fate.NOT_CONVERGED),
        (lost, Fate.HOPELESS),
        (hot, Fate.FORCES_TOO_LARGE),
        (collapsed, Fate.COLLAPSED),
        (exploded, Fate.EXPLODED),
    ):
        fate.update(dict.fromkeys(torch.nonzero(bad).flatten().tolist(), name))
    is_done = exploded | collapsed | hot | lost | late | relaxed
    return _Look(force, cell_force, relaxed, is_done, fate)


def _ended(crystals: CrystalBatch, moving: _Moving, output: PotentialOutput, now: _Look) -> Relaxed:
    """Return the crystals that stop here."""
    done = now.is_done
    force, stress = output.forces_ev_per_a, output.stress_ev_per_a3
    assert force is not None  # the potential was asked for them
    assert stress is not None
    status = [now.fate.get(row) for row in torch.nonzero(done).flatten().tolist()]
    good = torch.tensor([fate is None for fate in status])
    return Relaxed(
        batch=crystals.select(done),
        energy_ev=output.energy_ev[done],
        start_energy_ev=moving.start_energy[done],
        converged=good & now.relaxed[done],
        steps=moving.steps[done],
        status=status,
        max_force=now.force[done],
        max_cell_force=now.cell_force[done],
        forces_ev_per_a=force[done[crystals.crystal_index]],
        stress_ev_per_a3=stress[done],
    )
