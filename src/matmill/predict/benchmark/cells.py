"""One measurement of a benchmark: a model, a task, a split, a fold, a seed, a training size."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.data.compositions import Table, items
from matmill.data.splits import split
from matmill.errors import InputError
from matmill.predict.benchmark.tasks import Task, tested_on_official_folds
from matmill.randomness import child, child_seed

OFFICIAL = "official"
_VAL_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one measurement is made with.

    Attributes:
        model: Name in the registry of predictors.
        task: Name of the task.
        split: ``official`` (matbench's folds, or random ones where those do not apply) or a kind
            of `data.splits`.
        fold: Which fold is tested on.
        n_folds: Of how many.
        seed: Of the division (unless official) and of the model.
        size: Training rows; None for all.
        settings: What else the model's ``fit`` is given, as JSON.
    """

    model: str
    task: str
    split: str
    fold: int
    n_folds: int
    seed: int
    size: int | None = None
    settings: str = "{}"

    @property
    def key(self) -> str:
        """Name of the file of its result."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        size = "all" if self.size is None else str(self.size)
        parts = (self.task, self.model, self.split, f"n{size}", f"s{self.seed}", f"f{self.fold}")
        return "-".join((*parts, digest)).replace("/", "_")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Division:
    """Row numbers of one fold.

    Attributes:
        train: Rows to learn from.
        is_val: Which of them serve for early choices and calibration, ``(n_train,)`` bool; a
            model that makes inner folds of its own need not heed it.
        test: Rows to score on.
        is_official: These are the published folds.
    """

    train: Tensor
    is_val: Tensor
    test: Tensor
    is_official: bool


def divide(cell: Cell, task: Task, table: Table) -> Division:
    """Return the rows of a cell.

    Training sets of different sizes are nested: the 50 rows are among the 100. Validation rows
    never share a formula with the other training rows.

    Raises:
        InputError: If there are fewer training rows than asked for.
    """
    is_official = cell.split == OFFICIAL and tested_on_official_folds(task, table)
    kind = cell.split
    if kind == OFFICIAL:
        kind = "matbench" if is_official else "random"
    # Elements are drawn, not dealt into folds: each fold draws others.
    seed = child_seed(cell.seed, "elements", str(cell.fold)) if kind == "element" else cell.seed
    found = split(
        table,  # pyright: ignore[reportArgumentType]
        kind,  # pyright: ignore[reportArgumentType]
        seed=seed,
        fractions=(0.8, 0.0, 0.2) if kind == "element" else (1.0, 0.0, 0.0),
        n_folds=cell.n_folds,
        fold=cell.fold,
        target=task.column if task.is_classification else None,
    )
    train = torch.cat([found.train, found.val]).sort().values
    rng = child(cell.seed, "benchmark", task.name, cell.split, str(cell.fold))
    if cell.size is not None:
        if cell.size > len(train):
            raise InputError(
                f"Task '{task.name}' has {len(train)} training rows a fold; size {cell.size} "
                "cannot be drawn. Leave it out."
            )
        order = torch.randperm(len(train), generator=rng)
        train = train[order[: cell.size]].sort().values
    rows = items(table.select(train))
    formulas = rows.formula if isinstance(rows, CrystalBatch) else rows.formulas
    return Division(
        train=train,
        is_val=_validation(tuple(formulas), rng),
        test=found.test,
        is_official=is_official,
    )


def result_file(folder: Path, cell: Cell) -> Path:
    """Return where the result of a cell is kept."""
    return folder / "results" / f"{cell.key}.json"


def _validation(formulas: tuple[str, ...], rng: torch.Generator) -> Tensor:
    """Return which rows validate: whole formulas in random order, about a tenth of the rows."""
    numbers: dict[str, int] = {}
    groups = torch.tensor([numbers.setdefault(name, len(numbers)) for name in formulas])
    order = torch.randperm(len(numbers), generator=rng)
    sizes = torch.bincount(groups, minlength=len(numbers))[order]
    wanted = max(1.0, _VAL_SHARE * len(formulas))
    chosen = order[sizes.cumsum(0) - sizes < wanted]
    if len(chosen) == len(numbers):
        chosen = chosen[:0]
    return torch.isin(groups, chosen)
