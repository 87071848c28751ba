"""Evaluators: whatever says how good a crystal is, with what it costs; each crystal is paid once.

An evaluation is kept under (crystal, evaluator hash), so it is never paid for again, by this run
or by another one in the same store. A failed evaluation is a row like any other.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from matmill.campaign.budget import EVALUATIONS, MONEY, Budget
from matmill.campaign.records import Evaluation
from matmill.campaign.store import Store
from matmill.campaign.workers import Outcome, Workers
from matmill.crystals.batch import CrystalBatch
from matmill.predict.protocol import Predictor, predict_many
from matmill.progress import Event, OnEvent, ignore

OK, FAILED, TIMED_OUT = "ok", "failed", "timed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one evaluation of one crystal costs, declared before it is made.

    Attributes:
        cost_class: Meter that counts it, e.g. ``"surrogate"`` or ``"dft"``.
        money: In the currency of the campaign's budget.
        timeout_s: Longest time it may take, in seconds; None for what the workers allow.
        batch_size: Crystals that are best evaluated together.
    """

    cost_class: str = "surrogate"
    money: float = 0.0
    timeout_s: float | None = None
    batch_size: int = 1

    def charges(self) -> dict[str, float]:
        """Return what one crystal costs, by meter."""
        charges = {f"{EVALUATIONS}{self.cost_class}": 1.0}
        return {**charges, MONEY: self.money} if self.money else charges


@runtime_checkable
class Evaluator(Protocol):
    """Gives columns of values for crystals, at once. Picklable: it is sent to worker processes."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def hash(self) -> str:
        """Content hash of everything that its values depend on: version, weights, settings."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What it gives, units in the names."""
        ...

    @property
    def cost(self) -> Cost:
        """What one crystal costs."""
        ...

    @property
    def needs_relaxed(self) -> bool:
        """Whether crystals must be relaxed before."""
        ...

    def evaluate(self, batch: CrystalBatch) -> list[dict[str, float]]:
        """Return values by column for each crystal; a column that is NaN failed."""
        ...


def settings_hash(kind: str, name: str, **settings: Any) -> str:  # noqa: ANN401 - JSON values
    """Return an evaluator hash of everything given, readable at its beginning."""
    text = json.dumps([name, settings], sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class FunctionEvaluator:
    """A Python function as an evaluator.

    Attributes:
        name: What people call it.
        function: Importable function of a batch; returns values by column for each crystal.
        columns: What it gives.
        version: Change it whenever the function gives other values.
        cost: What one crystal costs.
        needs_relaxed: Whether crystals must be relaxed before.
    """

    name: str
    function: Callable[[CrystalBatch], list[dict[str, float]]]
    columns: tuple[str, ...]
    version: str = "1"
    cost: Cost = Cost()
    needs_relaxed: bool = True

    @property
    def hash(self) -> str:
        """Content hash of name, version and columns."""
        return settings_hash(
            "function", self.name, version=self.version, columns=list(self.columns)
        )

    def evaluate(self, batch: CrystalBatch) -> list[dict[str, float]]:
        """Return what the function returns."""
        return self.function(batch)


@dataclass(frozen=True, kw_only=True)
class PredictorEvaluator:
    """A predictor as an evaluator: its mean, and its standard deviation with suffix ``_std``.

    Attributes:
        predictor: Any predictor.
        cost: What one crystal costs.
        needs_relaxed: Whether crystals must be relaxed before.
    """

    predictor: Predictor
    cost: Cost = Cost(batch_size=256)
    needs_relaxed: bool = True

    @property
    def name(self) -> str:
        """Name of the column."""
        return f"predicted {self.predictor.column}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The predicted column and its standard deviation."""
        return self.predictor.column, f"{self.predictor.column}_std"

    @property
    def hash(self) -> str:
        """Content hash of the weights."""
        weights = self.predictor.card.get("weights_sha256", "")
        return settings_hash("predictor", self.predictor.column, weights=weights)

    def evaluate(self, batch: CrystalBatch) -> list[dict[str, float]]:
        """Return mean and standard deviation of each crystal."""
        prediction = predict_many(batch, [self.predictor])[self.predictor.column]
        return [
            dict(zip(self.columns, pair, strict=True))
            for pair in zip(prediction.mean.tolist(), prediction.std.tolist(), strict=True)
        ]


class _Work:
    """Sends an evaluator to workers; it loads there what it needs, if it says how."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def warm_up(self) -> None:
        """Load what the evaluator needs before the first clock starts."""
        getattr(self.evaluator, "warm_up", lambda: None)()

    def __call__(self, batch: CrystalBatch) -> list[dict[str, float]]:
        return self.evaluator.evaluate(batch)


def evaluate(
    store: Store,
    evaluator: Evaluator,
    ids: Sequence[str],
    workers: Workers,
    *,
    budget: Budget | None = None,
    retry_failed: bool = False,
    on_event: OnEvent = ignore,
) -> list[Evaluation | None]:
    """Return the evaluation of each crystal, making those that are not in the store yet.

    Crystals are charged one by one before they are evaluated; a batch that breaks is taken apart,
    so that a crystal which crashes its worker costs nobody else.

    Args:
        store: Holds the crystals; gets the results one batch at a time.
        evaluator: What to do.
        ids: Crystals.
        workers: Where to do it.
        budget: What may be spent; None where nobody counts.
        retry_failed: Try those again that failed before; they are not charged again.
        on_event: Told about progress.

    Returns:
        One for each id; None where the budget did not allow it.

    Raises:
        BudgetSpentError: If a meter of time is used up; what was finished is in the store.
    """
    known = store.evaluations(evaluator.hash, ids)
    todo = [
        one
        for one in dict.fromkeys(ids)
        if one not in known or (retry_failed and known[one].status != OK)
    ]
    if budget is not None:
        charges = evaluator.cost.charges()
        granted = budget.grant([(f"{evaluator.hash}/{one}", charges) for one in todo])
        todo = [one for one, may in zip(todo, granted, strict=True) if may]
    size = max(1, evaluator.cost.batch_size)
    tasks = [todo[start : start + size] for start in range(0, len(todo), size)]
    n_done = 0

    def keep(task: list[str], outcome: Outcome) -> None:
        nonlocal n_done
        found = _as_evaluations(evaluator, task, outcome)
        store.finish("predict", [], evaluator=evaluator.hash, evaluations=found)
        n_done += len(task)
        on_event(Event(stage=evaluator.name, done=n_done, total=len(todo)))
        if budget is not None:
            budget.tick(outcome.seconds)
            budget.check_time()

    while tasks:
        broken: list[list[str]] = []

        def look(
            position: int,
            outcome: Outcome,
            tasks: list[list[str]] = tasks,
            broken: list[list[str]] = broken,
        ) -> None:
            if outcome.error is not None and len(tasks[position]) > 1:
                broken.append(tasks[position])
            else:
                keep(tasks[position], outcome)

        batches = [store.batch(task) for task in tasks]
        workers.map(_Work(evaluator), batches, on_done=look, timeout_s=evaluator.cost.timeout_s)
        tasks = [[one] for task in sorted(broken) for one in task]
    found = store.evaluations(evaluator.hash, ids)
    return [found.get(one) for one in ids]


def _as_evaluations(evaluator: Evaluator, task: list[str], outcome: Outcome) -> list[Evaluation]:
    seconds = outcome.seconds / len(task)
    records, error = outcome.value, outcome.error
    if error is None and (not isinstance(records, list) or len(records) != len(task)):
        error = f"{evaluator.name} gave no list of {len(task)} records"
    if error is not None:
        status = TIMED_OUT if "longer than" in error else FAILED
        return [
            Evaluation(structure=one, status=status, values={"error": error}, seconds=seconds)
            for one in task
        ]
    made = []
    for one, record in zip(task, records, strict=True):
        problem = problem_with(record, evaluator.columns)
        status, values = (OK, dict(record)) if not problem else (FAILED, {"error": problem})
        made.append(Evaluation(structure=one, status=status, values=values, seconds=seconds))
    return made


def problem_with(record: Any, columns: Sequence[str]) -> str:  # noqa: ANN401 - foreign code made it
    """Return why a record of values cannot be used; empty when it can."""
    if not isinstance(record, dict):
        return "no record of values came back"
    for column in columns:
        value = record.get(column)
        if value is None:
            return f"{column} is missing"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{column} is no number: {str(value)[:40]!r}"
        if not math.isfinite(value):
            return f"{column} is {value}"
    return ""
