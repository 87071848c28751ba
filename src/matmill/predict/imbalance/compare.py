"""Methods against imbalance side by side, on the same folds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.data.splits import matbench_folds
from matmill.errors import InputError
from matmill.predict.descriptors.table import Features
from matmill.predict.imbalance.classifiers import METHODS, check_enough, make_classifier
from matmill.predict.imbalance.scores import ClassScores, check_classes, class_scores
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child_seed

SCORES = (
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "pr_auc",
    "mcc",
    "balanced_accuracy",
    "recall_at_precision",
)
"""Columns of the table, in the order of the fields of `ClassScores`."""

TUNED = " + threshold"
"""Ends the name of a method whose threshold was tuned on out-of-fold predictions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Scores of each method on each fold.

    Attributes:
        n_rows: Rows in all.
        share: Share of class 1.
        folds: By method, the scores on each test fold.
        settings: Folds, seed and what else decided.
    """

    n_rows: int
    share: float
    folds: dict[str, list[ClassScores]]
    settings: dict[str, Any] = field(default_factory=dict)

    def mean(self, method: str, score: str) -> float:
        """Return the mean over the folds."""
        return float(self._values(method, score).mean())

    def std(self, method: str, score: str) -> float:
        """Return the standard deviation over the folds (of the population, as matbench has it)."""
        return float(self._values(method, score).std(correction=0))

    @property
    def table(self) -> list[tuple[str, ...]]:
        """One line a method: its name and each of `SCORES` as mean ± std."""
        return [
            (name, *(f"{self.mean(name, s):.3f} ± {self.std(name, s):.3f}" for s in SCORES))
            for name in self.folds
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "n_rows": self.n_rows,
            "share": self.share,
            "settings": self.settings,
            "folds": {name: [s.as_dict() for s in found] for name, found in self.folds.items()},
        }

    def _values(self, method: str, score: str) -> Float[Tensor, " n_folds"]:
        found = [getattr(scores, score) for scores in self.folds[method]]
        return torch.tensor(found, dtype=torch.float64)


def compare(
    features: Features | Float[Tensor, "n n_columns"],
    labels: Float[Tensor, " n"],
    methods: Sequence[str] = tuple(METHODS),
    *,
    folds: int = 5,
    seed: int = 0,
    tune: bool = True,
    on_event: OnEvent = ignore,
    **settings: Any,  # noqa: ANN401 - of make_classifier
) -> Comparison:
    """Return the scores of each method on stratified folds, the same for all.

    Everything is fitted on the training rows of a fold only: filling in, scaling, resampling, the
    model, the threshold.

    Args:
        features: Descriptor columns, NaN where unknown.
        labels: 0 or 1 for each row.
        methods: Names in `METHODS`.
        folds: Outer folds, at least 2.
        seed: Of the folds and the models.
        tune: Score each method twice: at one half, and at the threshold tuned on out-of-fold
            predictions of its training rows.
        on_event: Told about progress.
        settings: Handed to `make_classifier`: learner, cost, n_trees, ….

    Raises:
        InputError: If a class is missing or has fewer rows than folds (or than SMOTE's
            neighbours), or labels are missing.
        UnknownNameError: If a method is unknown.
    """
    columns = features.values if isinstance(features, Features) else features
    truth = check_classes(labels)
    if len(columns) != len(truth):
        raise InputError(f"There are {len(columns)} rows of columns for {len(truth)} labels.")
    if folds < 2 or not methods:
        raise InputError("At least 2 folds and one method are needed.")
    check_enough(truth, folds)
    names = [name for method in methods for name in (method, *([method + TUNED] * tune))]
    found: dict[str, list[ClassScores]] = {name: [] for name in names}
    division = matbench_folds(len(truth), truth, folds, child_seed(seed, "folds") % 2**32)
    for fold, rows in enumerate(division):
        is_test = torch.zeros(len(truth), dtype=torch.bool)
        is_test[rows] = True
        for number, method in enumerate(methods):
            model = make_classifier(
                method, seed=child_seed(seed, method, fold), tune=tune, **settings
            ).fit(columns[~is_test], truth[~is_test])
            chance = model.probability(columns[rows])
            found[method].append(class_scores(truth[rows], chance))
            if tune:
                found[method + TUNED].append(class_scores(truth[rows], chance, model.threshold))
            done = fold * len(methods) + number + 1
            on_event(Event(stage="compare", done=done, total=folds * len(methods), message=method))
    return Comparison(
        n_rows=len(truth),
        share=float(truth.mean()),
        folds=found,
        settings={"folds": folds, "seed": seed, "tune": tune, **settings},
    )
