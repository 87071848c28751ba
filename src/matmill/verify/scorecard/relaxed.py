"""Relaxation of the samples of a scorecard; a crystal that breaks it costs itself only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.progress import Event, OnEvent
from matmill.verify import schemes
from matmill.verify.displacement import rmsd_as_stored, rmsd_of_matcher, unwrapped
from matmill.verify.hull import Hull
from matmill.verify.metrics import relaxation_rmsd
from matmill.verify.patience import patiently
from matmill.verify.potentials import Potential
from matmill.verify.protocols import Protocol
from matmill.verify.relax import Relaxed, RelaxSettings, relax
from matmill.verify.statuses import Status, of_fate
from matmill.verify.validity import check
from matmill.verify.verdict import Fate

_NO_LIMIT = 7 * 86_400.0  # s; steps are limited instead
_AT_ONCE = 256
_LOST = (Fate.TIMED_OUT, Fate.FAILED)  # with their process: nothing is known of them

RelaxElsewhere = Callable[[CrystalBatch, RelaxSettings, OnEvent], Relaxed | None]
"""Relaxes crystals somewhere else, such as in worker processes; None where that is not worth it."""


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """What relaxation made of some crystals; all tensors are ``(n,)`` in the order of ``rows``.

    Attributes:
        potential_name: What relaxed them.
        hull_name: What they were compared with, and how their energies were made comparable.
        rows: Their places in the batch that they are from.
        batch: The crystals where they stopped.
        converged: Whether the forces are small.
        steps: Steps taken.
        energy_ev_per_atom: At the end.
        drop_ev_per_atom: How much lower than at the start.
        above_hull_ev_per_atom: NaN unless converged and the hull has all elements.
        single_point_above_hull_ev_per_atom: The same of the crystal before relaxation.
        rmsd_a: How far atoms moved, Å, by name of the definition; NaN unless converged.
        marks: Status, reason and crystal (place in the original batch) of each that fell.
    """

    potential_name: str
    hull_name: str
    rows: Int[Tensor, " n"]
    batch: CrystalBatch
    converged: Bool[Tensor, " n"]
    steps: Int[Tensor, " n"]
    energy_ev_per_atom: Float[Tensor, " n"]
    drop_ev_per_atom: Float[Tensor, " n"]
    above_hull_ev_per_atom: Float[Tensor, " n"]
    single_point_above_hull_ev_per_atom: Float[Tensor, " n"]
    rmsd_a: dict[str, Float[Tensor, " n"]]
    marks: list[tuple[Status, str, int]]

    def spread(self, values: Tensor, n_crystals: int) -> Tensor:
        """Return values of these crystals as values of the whole batch, NaN or False elsewhere."""
        empty = False if values.dtype == torch.bool else torch.nan
        dtype = values.dtype if values.dtype == torch.bool else torch.float64
        whole = torch.full((n_crystals,), empty, dtype=dtype)
        whole[self.rows] = values.to(dtype)
        return whole


def relax_patiently(
    batch: CrystalBatch,
    rows: Int[Tensor, " n"],
    potential: Potential,
    hull: Hull,
    protocol: Protocol,
    on_event: OnEvent,
    relax_elsewhere: RelaxElsewhere | None = None,
) -> Relaxation:
    """Relax some crystals of a batch by a protocol and place them above a hull.

    Args:
        batch: The crystals.
        rows: Which of them.
        potential: Relaxes them.
        hull: The candidates are not part of it.
        protocol: Forces, steps and definitions of displacement.
        on_event: Told how many are finished.
        relax_elsewhere: Relaxes in other processes, where nothing that breaks is a danger here.

    Raises:
        InputError: If the potential's energies do not compare with the hull.
    """
    schemes.step(potential, hull)  # refuses before anything is relaxed
    marks: list[tuple[Status, str, int]] = []
    can: list[int] = []
    objections = check(batch.select(rows))
    for row, objection in zip(rows.tolist(), objections, strict=True):
        n_atoms = int(batch.n_atoms[row])
        if objection is not None:
            marks.append((of_fate(objection), objection.explanation, row))
        elif n_atoms > protocol.relaxation.max_atoms:
            marks.append((Status.OUT_OF_DOMAIN, f"{n_atoms} atoms are too many to relax", row))
        else:
            can.append(row)
    rule = protocol.relaxation
    settings = RelaxSettings(
        fmax=rule.fmax_ev_per_a, max_steps=rule.max_steps, optimizer=rule.optimizer
    )
    done = _Count(on_event, len(can))
    result = relax_elsewhere(batch.select(can), settings, on_event) if relax_elsewhere else None
    if result is not None:
        made = dict(zip(can, _rows(result), strict=True))
        found = {row: values for row, values in made.items() if values[6] not in _LOST}
        failed = {row: values[6].explanation for row, values in made.items() if row not in found}
        return _judged(batch, found, failed, can, potential, hull, rule.rmsd, marks)

    def work(part: list[int]) -> list[tuple[Any, ...]]:
        return _rows(relax(batch.select(part), potential, settings, on_event=done.part))

    found, failed = patiently(
        work, can, seconds=_NO_LIMIT, chunk=_AT_ONCE, on_done=done.set_finished
    )
    return _judged(batch, found, failed, can, potential, hull, rule.rmsd, marks)


def _judged(
    batch: CrystalBatch,
    found: dict[int, tuple[Any, ...]],
    failed: dict[int, str],
    can: list[int],
    potential: Potential,
    hull: Hull,
    rmsd: Sequence[str],
    marks: list[tuple[Status, str, int]],
) -> Relaxation:
    """Return relaxed crystals with their distances to the hull, and marks for all that fell."""
    marks = [*marks, *((Status.RELAX_DIVERGED, reason, row) for row, reason in failed.items())]
    kept = [row for row in can if row in found]
    start = batch.select(torch.tensor(kept, dtype=torch.int64))
    made = [found[row] for row in kept]
    after = _put_together(start, made)
    energy = torch.tensor([m[2] for m in made], dtype=torch.float64)
    before = torch.tensor([m[3] for m in made], dtype=torch.float64)
    converged = torch.tensor([m[4] for m in made], dtype=torch.bool)
    nan = torch.full_like(energy, torch.nan)
    distance = schemes.energy_above(hull, potential, energy, after)
    above = torch.where(converged, distance, nan)
    fates: list[Fate | None] = [m[6] for m in made]
    for i, row in enumerate(kept):
        fate = fates[i]
        if fate is not None:
            marks.append((of_fate(fate), fate.explanation, row))
        elif bool(torch.isnan(above[i])):
            lacking = sorted(set(_symbols(start, i)) - hull.elements)
            reason = f"no reference for {', '.join(lacking) or 'all of its chemical system'}"
            marks.append((Status.HULL_MISSING_ELEMENT, reason, row))
    return Relaxation(
        potential_name=potential.name,
        hull_name=schemes.hull_name(hull, potential),
        rows=torch.tensor(kept, dtype=torch.int64),
        batch=after,
        converged=converged,
        steps=torch.tensor([m[5] for m in made], dtype=torch.int64),
        energy_ev_per_atom=energy / start.n_atoms,
        drop_ev_per_atom=(before - energy) / start.n_atoms,
        above_hull_ev_per_atom=above,
        single_point_above_hull_ev_per_atom=schemes.energy_above(hull, potential, before, start),
        rmsd_a={
            name: torch.where(converged, _rmsd(name, start, after, converged), nan) for name in rmsd
        },
        marks=marks,
    )


class _Count:
    """Adds the progress of one part to that of the parts before."""

    def __init__(self, on_event: OnEvent, total: int) -> None:
        self.on_event, self.total, self.finished = on_event, total, 0

    def part(self, event: Event) -> None:
        self.on_event(Event(stage="relax", done=self.finished + event.done, total=self.total))

    def set_finished(self, n: int) -> None:
        self.finished = n


def _rows(result: Relaxed) -> list[tuple[Any, ...]]:
    """Return lattice, coordinates, energies, convergence, steps and fate of each crystal."""
    return [
        (
            result.batch.lattice[i],
            result.batch.frac_coords[result.batch.atoms_of(i)],
            float(result.energy_ev[i]),
            float(result.start_energy_ev[i]),
            bool(result.converged[i]),
            int(result.steps[i]),
            result.status[i],
        )
        for i in range(len(result.batch))
    ]


def _put_together(start: CrystalBatch, made: list[tuple[Any, ...]]) -> CrystalBatch:
    if not made:
        return start
    return CrystalBatch(
        lattice=torch.stack([m[0] for m in made]),
        frac_coords=torch.cat([m[1] for m in made]),
        atomic_numbers=start.atomic_numbers,
        n_atoms=start.n_atoms,
        ids=start.ids,
    )


def _rmsd(name: str, before: CrystalBatch, after: CrystalBatch, converged: Tensor) -> Tensor:
    if name == "aligned":
        return relaxation_rmsd(before, after)
    if name == "lemat":
        return rmsd_as_stored(before, unwrapped(before, after))
    wanted = torch.nonzero(converged).flatten().tolist()
    found, _ = patiently(lambda part: [rmsd_of_matcher(before, after, i) for i in part], wanted)
    values = [found.get(i, float("nan")) for i in range(len(before))]
    return torch.tensor(values, dtype=torch.float64)


def _symbols(batch: CrystalBatch, i: int) -> list[str]:
    return [SYMBOLS[z] for z in batch.atomic_numbers[batch.atoms_of(i)].tolist()]
