"""Relaxation in several processes, one thread each: the best use of a few cores.

A second thread in one process brings nothing here (matrices are small), a second process doubles
the speed. Crystals are dealt by size into as few parts as keep all processes busy, since a part's
last crystals share their passes through the potential with nobody.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.progress import Event, OnEvent, ignore
from matmill.verify.potentials import Potential
from matmill.verify.relax import Relaxed, RelaxSettings, relax
from matmill.verify.verdict import Fate

_MOST_ATOMS = 2000  # of a part: bounds what a worker holds, and what a crash costs
_WORTH_ATOMS = 400  # fewer are done before a second process has loaded its libraries


class Mapper(Protocol):
    """A place where tasks run, such as `campaign.workers.LocalWorkers`."""

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        on_done: Callable[[int, Any], None] | None = None,
    ) -> Sequence[Any]:
        """Return an outcome with ``value`` and ``error`` for each item, in order."""
        ...


class RelaxTask:
    """Relaxes a part in a worker; loads the potential once there, and is never sent with it.

    Args:
        make_potential: Picklable function that loads the potential.
        settings: When relaxation stops.
    """

    def __init__(self, make_potential: Callable[[], Potential], settings: RelaxSettings) -> None:
        self.make_potential = make_potential
        self.settings = settings
        self._potential: Potential | None = None

    def warm_up(self) -> None:
        """Load the potential before the first task's clock starts."""
        if self._potential is None:
            self._potential = self.make_potential()

    def __call__(self, part: tuple[CrystalBatch, Tensor | None]) -> Relaxed:
        """Return what became of the crystals of a part."""
        self.warm_up()
        assert self._potential is not None
        batch, limit = part
        return relax(batch, self._potential, self.settings, limit_ev_per_atom=limit)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_potential": None}


def is_worth_it(batch: CrystalBatch) -> bool:
    """Return whether more processes would be done earlier, their start-up included."""
    return len(batch) > 1 and int(batch.n_atoms.sum()) >= _WORTH_ATOMS


def n_processes(wanted: int, batch: CrystalBatch) -> int:
    """Return how many processes to use; 0 wanted means one a core where that is worth it."""
    return wanted or (os.cpu_count() or 1 if is_worth_it(batch) else 1)


def relax_in_workers(
    batch: CrystalBatch,
    make_potential: Callable[[], Potential],
    settings: RelaxSettings,
    workers: Mapper,
    *,
    n_workers: int,
    limit_ev_per_atom: Tensor | None = None,
    on_event: OnEvent = ignore,
) -> Relaxed:
    """Relax all crystals in worker processes; see `relax.relax`.

    A part that breaks its process is tried again crystal by crystal; one that breaks it alone ends
    as ``TIMED_OUT`` or ``FAILED`` and costs nobody else. In their last bits, energies depend on
    the crystals that share a part, so on the number of workers.

    Args:
        batch: The crystals; not changed.
        make_potential: Picklable function that loads the potential.
        settings: When to stop.
        workers: Where the parts are relaxed.
        n_workers: How many parts can run at once.
        limit_ev_per_atom: See `relax.relax`.
        on_event: Told after every part how many crystals are finished.
    """
    task = RelaxTask(make_potential, settings)
    result = Relaxed.untouched(batch)
    finished = 0

    def run(parts: list[Tensor]) -> list[Tensor]:
        """Relax parts; return those of several crystals that broke."""
        broken: list[Tensor] = []

        def keep(position: int, outcome: Any) -> None:  # noqa: ANN401 - see Mapper
            nonlocal finished
            rows = parts[position]
            if outcome.error is None:
                result.put(rows, outcome.value)
            elif len(rows) > 1:
                broken.append(rows)
                return
            else:
                late = "longer than" in outcome.error
                result.status[int(rows[0])] = Fate.TIMED_OUT if late else Fate.FAILED
            finished += len(rows)
            on_event(Event(stage="relax", done=finished, total=len(batch)))

        limit = limit_ev_per_atom
        items = [(batch.select(r), None if limit is None else limit[r]) for r in parts]
        workers.map(task, items, on_done=keep)
        return broken

    broken = run(dealt(batch, n_workers))
    if broken:
        run([row.reshape(1) for rows in broken for row in rows])
    return result


def dealt(batch: CrystalBatch, n_workers: int) -> list[Tensor]:
    """Return the rows of each part: alike in sizes, a multiple of the workers in number."""
    if not len(batch):
        return []
    rounds = math.ceil(int(batch.n_atoms.sum()) / (_MOST_ATOMS * n_workers))
    n_parts = min(len(batch), n_workers * max(1, rounds))
    order = torch.argsort(batch.n_atoms, descending=True, stable=True)
    return [order[part::n_parts] for part in range(n_parts)]
