"""Relaxation in worker processes, in tasks that are cut the same way whatever happens.

A crystal's result may depend in its last bits on the crystals that it shares a batch with. Tasks
are therefore cut from all candidates of a round, sorted by size, never from those that happen to
be left: a resumed run repeats whole tasks and ends with the same numbers.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matmill.campaign.budget import RELAXATIONS
from matmill.campaign.job import Job
from matmill.campaign.records import PASSED, Candidate, Evaluation, Row
from matmill.campaign.workers import Outcome
from matmill.crystals.batch import CrystalBatch
from matmill.verify.potentials import Potential
from matmill.verify.relax import RelaxSettings, relax
from matmill.verify.verdict import Fate


class PotentialTask(ABC):
    """A task that needs a potential: loaded once in each worker, never sent.

    Args:
        make_potential: Picklable function that loads the potential.
    """

    def __init__(self, make_potential: Callable[[], Potential]) -> None:
        self.make_potential = make_potential
        self._potential: Potential | None = None

    @property
    def potential(self) -> Potential:
        """The potential, loaded on first use."""
        if self._potential is None:
            self._potential = self.make_potential()
        return self._potential

    def warm_up(self) -> None:
        """Load the potential before the first task's clock starts."""
        assert self.potential is not None

    @abstractmethod
    def __call__(self, batch: CrystalBatch) -> Any:  # noqa: ANN401 - each task has its own answer
        """Do the work on a batch."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_potential": None}


class SinglePoint(PotentialTask):
    """Energies of crystals as they are."""

    def __call__(self, batch: CrystalBatch) -> list[dict[str, Any]]:
        """Return ``energy_ev`` of each crystal."""
        energy = self.potential.compute(batch, forces=False).energy_ev
        return [{"energy_ev": value} for value in energy.tolist()]


class Relaxation(PotentialTask):
    """Crystals relaxed to the nearest minimum.

    Args:
        make_potential: Picklable function that loads the potential.
        settings: When relaxation stops.
    """

    def __init__(self, make_potential: Callable[[], Potential], settings: RelaxSettings) -> None:
        super().__init__(make_potential)
        self.settings = settings

    def __call__(self, batch: CrystalBatch) -> tuple[CrystalBatch, list[dict[str, Any]]]:
        """Return the relaxed crystals and what was measured on each."""
        relaxed = relax(batch, self.potential, self.settings)
        n_atoms = batch.n_atoms.tolist()
        records = [
            {
                "fate": str(fate or Fate.PASSED),
                "energy_ev": energy,
                "energy_ev_per_atom": energy / n,
                "n_relax_steps": steps,
                "max_force_ev_per_a": force,
            }
            for fate, energy, steps, force, n in zip(
                relaxed.status,
                relaxed.energy_ev.tolist(),
                relaxed.steps.tolist(),
                relaxed.max_force.tolist(),
                n_atoms,
                strict=True,
            )
        ]
        return relaxed.batch, records


@dataclass(frozen=True)
class Task:
    """Candidates that are treated together."""

    candidates: tuple[int, ...]
    structures: tuple[str, ...]


def evaluator_hash(kind: str, potential_hash: str, settings: RelaxSettings | None = None) -> str:
    """Return the key under which results of this computation are kept."""
    text = settings.model_dump_json() if settings is not None else ""
    return f"{kind}-{hashlib.sha256(f'{potential_hash}/{text}'.encode()).hexdigest()[:16]}"


def cut(numbers: Sequence[int], batch: CrystalBatch, max_atoms: int) -> list[Task]:
    """Cut candidates into tasks of at most ``max_atoms`` atoms, small cells first.

    Args:
        numbers: Candidates, in order.
        batch: Their crystals, with ids.
        max_atoms: Most atoms in a task of more than one crystal.
    """
    order = sorted(range(len(numbers)), key=lambda i: (int(batch.n_atoms[i]), numbers[i]))
    tasks, members, used = [], [], 0
    for i in order:
        size = int(batch.n_atoms[i])
        if members and used + size > max_atoms:
            tasks.append(members)
            members, used = [], 0
        members.append(i)
        used += size
    if members:
        tasks.append(members)
    return [
        Task(tuple(numbers[i] for i in members), tuple(batch.ids[i] for i in members))
        for members in tasks
    ]


def relax_round(job: Job, round_number: int) -> None:
    """Relax what the shortlist of this round chose and has not been relaxed yet."""
    store, stage = job.store, "relax"
    picked = {c.number: c for c in store.candidates(store.entrants(stage))}
    mine = [n for n, c in picked.items() if c.values.get("shortlist_round") == round_number]
    waiting = set(store.unfinished(stage))
    if not waiting.intersection(mine):
        return
    tasks = cut(mine, store.batch([picked[n].structure for n in mine]), job.settings.chunk_atoms)
    open_tasks = [task for task in tasks if waiting.intersection(task.candidates)]
    # Large cells first: the last task to finish should be a short one.
    open_tasks.reverse()
    work = Relaxation(job.parts.make_potential, job.settings.relax)
    key = evaluator_hash("relax", job.parts.potential_hash, job.settings.relax)
    done = len(mine) - len(waiting.intersection(mine))
    job.tell(stage, done, len(mine))
    converged = 0

    def keep(task: Task, outcome: Outcome) -> None:
        nonlocal done, converged
        converged += _write(job, task, outcome, key, picked)
        done += len(task.candidates)
        job.tell(stage, done, len(mine), converged=converged)

    granted = job.may(RELAXATIONS, [_cost(task) for task in open_tasks])
    run_tasks(job, work, [t for t, may in zip(open_tasks, granted, strict=True) if may], keep)
    if not all(granted):
        raise job.spent(RELAXATIONS)


def _cost(task: Task) -> tuple[str, int]:
    """Return under which key a task is paid, and what it costs; tasks are paid as a whole."""
    return ",".join(map(str, task.candidates)), len(task.candidates)


def run_tasks(
    job: Job,
    work: PotentialTask,
    tasks: Sequence[Task],
    keep: Callable[[Task, Outcome], None],
) -> None:
    """Run tasks in the workers; of a task that breaks, run each crystal alone.

    One of the crystals of a broken task is to blame, and alone it costs nobody else.

    Args:
        job: The campaign.
        work: What to do with a batch.
        tasks: Crystals that are treated together.
        keep: Called with each task and its outcome, as they finish; an outcome with an error
            belongs to a single crystal.
    """
    broken: list[Task] = []

    def look(position: int, outcome: Outcome) -> None:
        task = tasks[position]
        if outcome.error is not None and len(task.candidates) > 1:
            broken.append(task)
        else:
            keep(task, outcome)
        job.spend_time(outcome.seconds)

    batches = [job.store.batch(task.structures) for task in tasks]
    job.workers.map(work, batches, on_done=look)
    if broken:
        alone = [
            Task((number,), (structure,))
            for task in sorted(broken, key=lambda task: task.candidates)
            for number, structure in zip(task.candidates, task.structures, strict=True)
        ]
        run_tasks(job, work, alone, keep)


def fate_of_error(error: str) -> Fate:
    """Return the fate of a crystal whose task ended with this error."""
    return Fate.TIMED_OUT if "longer than" in error else Fate.FAILED


def _write(job: Job, task: Task, outcome: Outcome, key: str, picked: dict[int, Candidate]) -> int:
    """Store a task's results in one transaction and return how many crystals converged."""
    if outcome.error is not None:
        fate = fate_of_error(outcome.error)
        row = Row(candidate=task.candidates[0], fate=fate, reason=outcome.error)
        job.store.finish("relax", [row])
        return 0
    batch, records = outcome.value
    rows, evaluations = [], []
    seconds = outcome.seconds / len(records)
    for number, before, after, record in zip(
        task.candidates, task.structures, batch.hashes, records, strict=True
    ):
        fate = Fate(record.pop("fate"))
        # Counted from the crystal as proposed, the coarse steps of the shortlist included.
        start = picked[number].values
        record["n_relax_steps"] += start.get("n_coarse_steps", 0)
        drop = start.get("raw_energy_ev_per_atom", math.nan) - record["energy_ev_per_atom"]
        record["energy_drop_ev_per_atom"] = drop
        values = {**record, "potential_name": job.parts.potential_name}
        reason = "" if fate is Fate.PASSED else fate.explanation
        rows.append(Row(candidate=number, fate=fate, reason=reason, structure=after, values=values))
        evaluations.append(
            Evaluation(
                structure=before, status=str(fate), result=after, values=values, seconds=seconds
            )
        )
    job.store.finish("relax", rows, structures=batch, evaluator=key, evaluations=evaluations)
    return sum(row.fate == PASSED for row in rows)
