"""Runs the cells of a benchmark, in parallel, each once; a second run measures only the rest."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from matmill import __version__, registry
from matmill.data.compositions import Table, items
from matmill.data.parts import with_parts
from matmill.errors import InputError, MatmillError
from matmill.predict.benchmark.cells import Cell, divide, result_file
from matmill.predict.benchmark.scoring import score_classes, score_regression
from matmill.predict.benchmark.tasks import (
    Task,
    find_task,
    in_published_order,
    open_task,
)
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child_seed
from matmill.training.checkpoint import write_atomically

BASELINE = "median"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a benchmark measures: every model on every task, split, fold, seed and size.

    Attributes:
        models: Names in the registry of predictors; the median predictor is always added.
        tasks: The tasks.
        data: Folder of the tables; None downloads the published ones.
        files: Tables of tasks of the user's own, by task name.
        splits: ``official`` or kinds of `data.splits`.
        folds: Which folds to run; all by default.
        n_folds: Folds of a division.
        seeds: One division (unless official) and one model each.
        sizes: Training rows; None stands for all.
        settings: What else the ``fit`` of a model is given, by model.
        coverage: Of the intervals.
    """

    models: tuple[str, ...]
    tasks: tuple[Task, ...]
    data: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    splits: tuple[str, ...] = ("official",)
    folds: tuple[int, ...] | None = None
    n_folds: int = 5
    seeds: tuple[int, ...] = (0,)
    sizes: tuple[int | None, ...] = (None,)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    coverage: float = 0.9

    def cells(self) -> list[Cell]:
        """Return all measurements, the cheap baseline first.

        Raises:
            UnknownNameError: If a model does not exist.
            InputError: If a fold does not exist.
        """
        models = [BASELINE, *(name for name in self.models if name != BASELINE)]
        for name in models:
            registry.predictors.load(name)
        folds = self.folds if self.folds is not None else tuple(range(self.n_folds))
        if any(not 0 <= fold < self.n_folds for fold in folds):
            raise InputError(f"Folds go from 0 to {self.n_folds - 1}; {folds} was asked for.")
        return [
            Cell(
                model=model,
                task=task.name,
                split=kind,
                fold=fold,
                n_folds=self.n_folds,
                seed=seed,
                size=size,
                settings=json.dumps(self.settings.get(model, {}), sort_keys=True),
            )
            for model, task, kind, size, seed, fold in product(
                models, self.tasks, self.splits, self.sizes, self.seeds, folds
            )
            if can_read(model, task)
        ]


def can_read(model: str, task: Task) -> bool:
    """Return whether a model can learn a task: one that needs structures needs them there."""
    reads = getattr(registry.predictors.load(model), "reads", "structure")
    return task.reads == "structure" or reads != "structure"


def run(
    plan: Plan, folder: Path, *, workers: int = 1, on_event: OnEvent = ignore
) -> list[dict[str, Any]]:
    """Measure everything that the folder does not hold yet, and return all results.

    Args:
        plan: What to measure.
        folder: Where results are kept, one JSON file a cell, written in one step.
        workers: Processes, one thread each; 1 runs in this process.
        on_event: Told when a cell is done.

    A cell that fails with an error of ours is kept as failed, with its line, and run again next
    time; the others go on.
    """
    cells = plan.cells()
    todo = [cell for cell in cells if _finished(folder, cell) is None]
    done = len(cells) - len(todo)
    on_event(Event(stage="benchmark", done=done, total=len(cells)))
    for cell, outcome in _outcomes(plan, folder, todo, workers):
        done += 1
        text = outcome.get("error") or _short(outcome)
        message = f"{cell.task} {cell.model} fold {cell.fold}: {text}"
        on_event(Event(stage="benchmark", done=done, total=len(cells), message=message))
    return [found for cell in cells if (found := _stored(folder, cell)) is not None]


def measure(plan: Plan, folder: Path, cell: Cell) -> dict[str, Any]:
    """Fit and score one cell, keep its result, and return it."""
    task = next(task for task in plan.tasks if task.name == cell.task)
    outcome: dict[str, Any] = {"cell": cell.as_dict(), "matmill_version": __version__}
    try:
        outcome |= _measured(plan, folder, cell, task)
    except MatmillError as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    write_atomically(result_file(folder, cell), json.dumps(outcome, indent=1).encode())
    return outcome


def _measured(plan: Plan, folder: Path, cell: Cell, task: Task) -> dict[str, Any]:
    table = _table(plan, task)
    division = divide(cell, task, table)
    names = ["val" if is_val else "train" for is_val in division.is_val.tolist()]
    train = with_parts(table.select(division.train), names)
    test = table.select(division.test)
    work = folder / "fits" / cell.key
    started = time.perf_counter()
    model = registry.predictors.load(cell.model).fit(
        train,
        task.column,
        folder=work,
        seed=child_seed(cell.seed, cell.model, task.name, str(cell.fold)),
        **json.loads(cell.settings),
    )
    fitted = time.perf_counter()
    prediction = model.predict(items(test), coverage=plan.coverage)
    predicted = time.perf_counter()
    truth = test.column(task.column).double()
    scores = (
        score_classes(prediction.mean, truth, threshold=model.card.get("threshold", 0.5))
        if task.is_classification
        else score_regression(prediction, truth)
    )
    shutil.rmtree(work, ignore_errors=True)
    return {
        "scores": scores,
        "is_official": division.is_official,
        "n_rows": len(table),
        "n_train": len(division.train),
        "n_test": len(division.test),
        "fit_seconds": round(fitted - started, 2),
        "predict_seconds": round(predicted - fitted, 3),
        "choice": model.card.get("choice"),
        "ids": list(test.ids),
        "truth": _rounded(truth),
        "mean": _rounded(prediction.mean),
        "std": _rounded(prediction.std),
    }


_TABLES: dict[tuple[str, str], Table] = {}  # of this process: folds of a task share its table


def _table(plan: Plan, task: Task) -> Table:
    key = (task.name, str(plan.files.get(task.name, plan.data)))
    if key not in _TABLES:
        table = open_task(task, plan.data, file=plan.files.get(task.name))
        _TABLES[key] = in_published_order(task, table)
    return _TABLES[key]


def _outcomes(
    plan: Plan, folder: Path, cells: Sequence[Cell], workers: int
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if workers <= 1:
        for cell in cells:
            yield cell, measure(plan, folder, cell)
        return
    # Fresh processes: forked ones inherit torch's threads and may hang.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        jobs: dict[Future[dict[str, Any]], Cell] = {
            pool.submit(measure, plan, folder, cell): cell for cell in cells
        }
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _stored(folder: Path, cell: Cell) -> dict[str, Any] | None:
    path = result_file(folder, cell)
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _finished(folder: Path, cell: Cell) -> dict[str, Any] | None:
    found = _stored(folder, cell)
    return None if found is None or "error" in found else found


def _short(outcome: dict[str, Any]) -> str:
    scores = outcome["scores"]
    name = "mae" if "mae" in scores else "roc_auc"
    return f"{name} {scores[name]:.4g} in {outcome['fit_seconds']:.0f} s"


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def tasks_named(names: Sequence[str]) -> tuple[Task, ...]:
    """Return tasks by name."""
    return tuple(find_task(name) for name in names)
