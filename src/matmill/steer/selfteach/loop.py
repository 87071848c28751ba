"""`run_selfteach`: a generator that learns from its own verified output, beside three controls.

Every round draws crystals, relaxes them, judges them, and fine-tunes the generator on what an arm
keeps, mixed with training crystals. The crystals of a round both judge its generator and teach
the next. Everything is a content-keyed task: the same call continues after a kill.

Source:
    The loop around Crystalite with verified self-training (a public report of 2026), whose gain
    was in part a replay of its own lessons, which the usual novelty does not see.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matmill import __version__
from matmill.campaign.provenance import machine
from matmill.campaign.store import Store
from matmill.campaign.tasks import TaskBoard, TaskResult, task_key
from matmill.campaign.workers import LocalWorkers, Workers
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.data.rows import content_hash
from matmill.errors import DataError, MatmillError
from matmill.generate.conditions import SCALARS
from matmill.generate.dataset import usable
from matmill.generate.train import labelled_crystals
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child, child_seed
from matmill.steer.flywheel.looking import SettleInput
from matmill.steer.flywheel.making import from_plain
from matmill.steer.flywheel.tasks import TASK_SECONDS, Bench
from matmill.steer.selfteach.judging import Judgement, judge, lesson
from matmill.steer.selfteach.settings import SelfteachSettings
from matmill.steer.selfteach.tasks import Draw, DrawInput, Teach, TeachInput, weights_of
from matmill.training.checkpoint import hash_of, write_atomically
from matmill.verify.novelty import KnownIndex

STORE_NAME = "selfteach.sqlite"
# Raise a number when a change of code changes its results: kept ones are then made anew.
DRAW, TEACH = "selfteach draw 1", "selfteach teach 1"
_HULL = "energy_above_hull_ev"
_MOST_REPEATS = 4
_DRAWN_PER_RELAXED = 4  # a generator is twice as fast with 200 crystals at once as with 50


@dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """One round of one arm.

    Attributes:
        arm: One of `settings.ARMS`; round 0 is the same for all.
        round: Fine-tunings before it.
        counts: See `judging.Judgement.counts`.
        n_taught: Own crystals that this generator has been taught in all rounds.
        cpu_s: CPU seconds of drawing, relaxing and fine-tuning.
        stopped: Why the arm ends here; empty when it goes on.
    """

    arm: str
    round: int
    counts: dict[str, float]
    n_taught: int
    cpu_s: float
    stopped: str = ""


@dataclass(eq=False)
class _Arm:
    """An arm on its way."""

    name: str
    weights: str
    lessons: list[CrystalBatch] = field(default_factory=list)
    stopped: str = ""

    @property
    def taught(self) -> list[CrystalBatch]:
        """Own crystals that it learned from; training crystals once more are none."""
        return [] if self.name == "none" else self.lessons


def run_selfteach(
    settings: SelfteachSettings,
    *,
    folder: Path | str,
    store: str | None = None,
    workers: Workers | None = None,
    known: KnownIndex | None = None,
    retry_failed: bool = False,
    on_event: OnEvent = ignore,
) -> list[RoundFacts]:
    """Run the rounds of all arms, or what is left of them; write ``rounds.json``.

    Args:
        settings: What to do.
        folder: For weights and results.
        store: SQLAlchemy URL of the results; a file in ``folder`` when None.
        workers: Where tasks run, stopped at the end; one local process a core when None.
        known: Known crystals; the index that ships when None.
        retry_failed: Try tasks again that an earlier call gave up.
        on_event: Told about progress.

    Raises:
        InputError: If the data or the generator cannot be used.
        MatmillError: If a task failed for good.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    on_event(Event(stage="load", message=str(settings.data)))
    crystals, _, _ = labelled_crystals(settings.data, split=settings.split)
    with (
        closing(Store(store or folder / STORE_NAME)) as kept,
        closing(workers or LocalWorkers(timeout_s=TASK_SECONDS)) as crew,
    ):
        wheel = Selfteach(
            crystals,
            settings,
            board=TaskBoard(kept, retry_failed=retry_failed),
            workers=crew,
            folder=folder,
            known=known or KnownIndex.load(),
            on_event=on_event,
        )
        facts = wheel.run()
    record = {
        "matmill": __version__,
        "settings": settings.model_dump(mode="json"),
        "machine": machine(),
        "rounds": [vars(each) for each in facts],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    write_atomically(folder / "rounds.json", text.encode())
    return facts


class Selfteach:
    """The loop; see `run_selfteach`.

    Args:
        trained_on: What the generator was trained on.
        settings: What to do.
        board: Results by content.
        workers: Where tasks run.
        folder: Of fine-tuned weights.
        known: Known crystals.
        on_event: Told about progress.
    """

    def __init__(
        self,
        trained_on: CrystalBatch,
        settings: SelfteachSettings,
        *,
        board: TaskBoard,
        workers: Workers,
        folder: Path,
        known: KnownIndex,
        on_event: OnEvent = ignore,
    ) -> None:
        if not len(trained_on):
            raise DataError(f"{settings.data} has no crystals of the split '{settings.split}'.")
        learnt = {k: v for k, v in trained_on.properties.items() if k in SCALARS}
        self.trained_on, self.settings = replace(trained_on, properties=learnt), settings
        self.folder = folder
        self._bench = Bench(board=board, workers=workers, folder=folder, on_event=on_event)
        self.known = known
        self._judged: dict[str, Judgement] = {}

    def run(self) -> list[RoundFacts]:
        """Return the facts of every round of every arm."""
        arms = [_Arm(name=name, weights=self.settings.generator) for name in self.settings.arms]
        facts: list[RoundFacts] = []
        first: float | None = None
        for number in range(self.settings.rounds + 1):
            active = [arm for arm in arms if not arm.stopped]
            cpu = {arm.name: 0.0 for arm in active}
            judged = {}
            for arm in active:
                judged[arm.name], cpu[arm.name] = self._round(arm, number)
            for arm in active:
                counts = judged[arm.name].counts(self.settings.max_above_hull_ev_per_atom)
                first = counts["effective_elements"] if first is None else first
                if counts["effective_elements"] < self.settings.fewest_alike * first:
                    arm.stopped = "its crystals have narrowed to few elements"
                facts.append(
                    RoundFacts(
                        arm=arm.name,
                        round=number,
                        counts=counts,
                        n_taught=sum(len(batch) for batch in arm.taught),
                        cpu_s=round(cpu[arm.name], 1),
                        stopped=arm.stopped,
                    )
                )
            if number < self.settings.rounds:
                self._teach([arm for arm in active if not arm.stopped], judged, number)
        return facts

    def _round(self, arm: _Arm, number: int) -> tuple[Judgement, float]:
        """Draw, relax and judge the crystals of one generator; arms with equal ones share them."""
        settings = self.settings
        seed = child_seed(settings.seed, "round", str(number))
        weights = self._hash(arm.weights)
        inputs, items = [], []
        most = _DRAWN_PER_RELAXED * settings.crystals_a_task
        for part, start in enumerate(range(0, settings.n_samples, most)):
            n = min(most, settings.n_samples - start)
            inputs.append(
                DrawInput(weights=arm.weights, n=n, part=part, n_steps=settings.n_steps, seed=seed)
            )
            items.append(
                {"weights": weights, "n": n, "part": part, "steps": settings.n_steps, "seed": seed}
            )
        drawn = self._done(DRAW, items, Draw(self.folder), inputs)
        batch = concatenate([from_plain(result["crystals"]) for result in drawn])
        pieces = [
            batch.select(rows) for rows in torch.arange(len(batch)).split(settings.crystals_a_task)
        ]
        settled = _results(
            "relaxing",
            self._bench.settle([SettleInput(crystals=b, stability="relaxed") for b in pieces]),
        )
        key = task_key(
            "selfteach judge", [weights, seed, [content_hash(batch) for batch in arm.taught]]
        )
        if key not in self._judged:
            self._judged[key] = judge(
                batch,
                concatenate([from_plain(result["crystals"]) for result in settled]),
                torch.tensor(
                    [x for result in settled for x in result["above_hull_ev_per_atom"]],
                    dtype=torch.float64,
                ),
                trained_on=self.trained_on,
                taught=arm.taught,
                known=self.known,
            )
        return self._judged[key], sum(r["cpu_s"] for r in [*drawn, *settled])

    def _teach(self, arms: Sequence[_Arm], judged: dict[str, Judgement], number: int) -> None:
        """Fine-tune every arm on training crystals and on what it keeps of its own.

        All arms add as many crystals as ``verified`` does, where that runs, and keep those of
        earlier rounds.
        """
        settings = self.settings
        inputs = []
        n: int | None = None
        for arm in sorted(arms, key=lambda arm: arm.name != "verified"):
            rng = child(settings.seed, "lesson", arm.name, number)
            own = self._lesson(arm, judged[arm.name], n, rng)
            n = len(own) if n is None else n
            arm.lessons.append(own)
            crystals = self._mixed(arm.lessons, child(settings.seed, "replay", number))
            inputs.append(
                (
                    arm,
                    TeachInput(
                        key="",
                        start=arm.weights,
                        crystals=crystals,
                        steps=settings.steps,
                        learning_rate=settings.learning_rate,
                        seed=child_seed(settings.seed, "teach", str(number)),
                    ),
                )
            )
        items = [self._teach_item(given) for _, given in inputs]
        keyed = [
            replace(given, key=task_key(TEACH, item))
            for (_, given), item in zip(inputs, items, strict=True)
        ]
        results = self._done(TEACH, items, Teach(self.folder), keyed)
        for (arm, _), result in zip(inputs, results, strict=True):
            arm.weights = result["file"]

    def _lesson(
        self, arm: _Arm, judged: Judgement, n: int | None, rng: torch.Generator
    ) -> CrystalBatch:
        """Return the crystals that an arm adds; of the arm ``none`` training crystals once more."""
        if arm.name == "none":
            count = n if n is not None else self.settings.n_samples
            rows = torch.randperm(len(self.trained_on), generator=rng)[:count]
            return _bare(self.trained_on, rows)
        rows = lesson(
            judged,
            arm.name,
            threshold=self.settings.max_above_hull_ev_per_atom,
            most_of_a_formula=self.settings.most_of_a_formula,
            n=n,
            rng=rng,
        )
        own = _bare(judged.relaxed, rows)
        return own.with_properties(**{_HULL: judged.above_hull[rows].clamp_min(0.0)})

    def _mixed(self, own: Sequence[CrystalBatch], rng: torch.Generator) -> CrystalBatch:
        """Return training crystals and own ones, these brought to their share of the whole.

        Few are repeated, a few times at most: a crystal that is shown over and over is learned by
        heart. Of many some are drawn.
        """
        settings = self.settings
        order = torch.randperm(len(self.trained_on), generator=rng)[: settings.n_replayed]
        replayed = _bare(self.trained_on, order)
        pool = [batch for batch in own if len(batch)]
        if not pool:
            return replayed
        mine = concatenate([_with(batch, replayed) for batch in pool])
        wanted = max(1, round(len(replayed) * (1.0 - settings.replay) / settings.replay))
        # Whole rounds first and a part of one last, so that none is shown much more than another.
        times = min(-(-wanted // len(mine)), _MOST_REPEATS)
        shown = torch.cat([torch.randperm(len(mine), generator=rng) for _ in range(times)])
        return usable(concatenate([replayed, mine.select(shown[:wanted])]), max_atoms=64)

    def _teach_item(self, given: TeachInput) -> dict[str, Any]:
        return {
            "start": self._hash(given.start),
            "crystals": content_hash(given.crystals),
            "steps": given.steps,
            "learning_rate": given.learning_rate,
            "seed": given.seed,
        }

    def _hash(self, weights: str) -> str:
        return hash_of(weights_of(weights, self.folder))

    def _done(self, kind: str, items: list[Any], function: Any, inputs: list[Any]) -> list[Any]:  # noqa: ANN401
        """Return the results of tasks.

        Raises:
            MatmillError: If one failed for good.
        """
        bench = self._bench
        return _results(
            kind,
            bench.board.run(kind, items, function, bench.workers, bench.on_event, inputs=inputs),
        )


def _results(what: str, found: Sequence[TaskResult]) -> list[Any]:
    """Return the results of tasks.

    Raises:
        MatmillError: If one failed for good.
    """
    for one in found:
        if not one.is_done:
            raise MatmillError(f"A task of '{what}' failed: {one.error}.")
    return [one.result for one in found]


def _bare(batch: CrystalBatch, rows: Tensor) -> CrystalBatch:
    return replace(batch.select(rows).to(dtype=torch.float64), ids=())


def _with(batch: CrystalBatch, like: CrystalBatch) -> CrystalBatch:
    """Return the batch with the properties of another, NaN where it has none of its own."""
    nothing = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    return replace(
        batch, properties={name: batch.properties.get(name, nothing) for name in like.properties}
    )
