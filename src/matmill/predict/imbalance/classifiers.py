"""Classifiers for rare classes: by weights, by sampling, by balanced ensembles, by focal loss.

Columns are filled in, scaled and resampled inside `Classifier.fit`, on the rows it is given: when
those are the training rows, nothing of the test rows leaks in.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.data.splits import matbench_folds
from matmill.errors import InputError, UnknownNameError
from matmill.predict.imbalance.models import (
    FocalNetwork,
    balanced_forest,
    easy_ensemble,
    learner_of,
)
from matmill.predict.imbalance.sampling import balanced_rows, smote
from matmill.predict.imbalance.scores import best_threshold, check_classes
from matmill.randomness import child, child_seed

METHODS: dict[str, str] = {
    "none": "nothing done",
    "weights": "class weights n / (k n_c)",
    "undersampling": "random rows of the larger class left out",
    "smote": "new rows of the smaller class between neighbours",
    "balanced-forest": "random forest, each tree on equally many rows of both classes",
    "easy-ensemble": "boosted trees on many equal samples",
    "focal": "small network with focal loss, γ = 2",
}
"""What is done against imbalance, by name."""

LEARNERS = ("forest", "boosted")
"""What the first four methods fit: random forest, or histogram boosting."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a classifier is fitted.

    Attributes:
        method: A name in `METHODS`.
        learner: ``forest`` or ``boosted``, for the first four methods.
        seed: Of everything random.
        n_trees: Trees of the forests; boosting has as many steps.
        n_neighbors: Of SMOTE, at least 1.
        tune: Choose the threshold on out-of-fold predictions; else it is one half.
        cost: Of a false alarm and of a miss for the tuned threshold; None for F1.
        inner_folds: Folds of the out-of-fold predictions.
    """

    method: str = "weights"
    learner: Literal["forest", "boosted"] = "forest"
    seed: int = 0
    n_trees: int = 200
    n_neighbors: int = 5
    tune: bool = True
    cost: tuple[float, float] | None = None
    inner_folds: int = 4

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("method against imbalance", self.method, list(METHODS))
        if self.learner not in LEARNERS:
            raise UnknownNameError("learner", self.learner, list(LEARNERS))
        if self.n_trees < 1 or self.n_neighbors < 1 or self.inner_folds < 2:
            raise InputError("n_trees and n_neighbors must be at least 1, inner_folds at least 2.")


class Classifier:
    """One classifier of two classes with its threshold.

    Attributes:
        settings: How it is fitted.
        threshold: Probability from which a row is called 1; one half until tuned.
        out_of_fold: Probabilities of the training rows by models that did not see them; None
            without tuning.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.threshold = 0.5
        self.out_of_fold: Float[Tensor, " n"] | None = None
        self._model: Any = None

    def fit(
        self, columns: Float[Tensor, "n n_columns"], classes: Float[Tensor, " n"]
    ) -> "Classifier":
        """Fit to training rows and return itself.

        Args:
            columns: NaN where unknown: the median of the training rows stands in.
            classes: 0 or 1.

        Raises:
            InputError: If a class is missing or has too few rows for the inner folds or for
                SMOTE, or a column is infinite.
            MissingExtraError: If scikit-learn is not installed.
        """
        truth = check_classes(classes)
        if torch.isinf(columns).any() or len(columns) != len(truth):
            raise InputError(
                f"There are {len(columns)} rows for {len(truth)} classes; they must be equally "
                "many, and no column infinite."
            )
        if self.settings.tune:
            self.out_of_fold = self._predict_out_of_fold(columns, truth)
            self.threshold = best_threshold(truth, self.out_of_fold, self.settings.cost)
        self._fit_once(columns, truth, self.settings.seed)
        return self

    def probability(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, " n"]:
        """Return the probability of class 1, as the fitted model has it (not calibrated)."""
        assert self._model is not None, "fit first"
        chance = self._model.predict_proba(self._scaled(columns))
        return torch.from_numpy(np.ascontiguousarray(chance[:, 1], dtype=np.float64))

    def predict(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, " n"]:
        """Return 0 or 1 for each row."""
        return (self.probability(columns) >= self.threshold).double()

    def _predict_out_of_fold(self, columns: Tensor, truth: Tensor) -> Tensor:
        n_folds = self.settings.inner_folds
        check_enough(truth, n_folds)
        seed = child_seed(self.settings.seed, "inner folds") % 2**32
        chance = torch.empty(len(truth), dtype=torch.float64)
        for fold, rows in enumerate(matbench_folds(len(truth), truth, n_folds, seed)):
            is_test = torch.zeros(len(truth), dtype=torch.bool)
            is_test[rows] = True
            self._fit_once(
                columns[~is_test], truth[~is_test], child_seed(self.settings.seed, "inner", fold)
            )
            chance[rows] = self.probability(columns[rows])
        return chance

    def _fit_once(self, columns: Tensor, truth: Tensor, seed: int) -> None:
        median = columns.double().nanmedian(dim=0).values.nan_to_num(nan=0.0)
        filled = torch.where(columns.isnan(), median, columns.double())
        self._median, self._mean = median, filled.mean(0)
        spread = filled.std(0, correction=0)
        self._spread = torch.where(spread > 1e-12, spread, 1.0)
        rows, labels = self._scaled(columns), truth.long().numpy()
        self._model = _fitted(self.settings, rows, labels, seed)

    def _scaled(self, columns: Tensor) -> np.ndarray:
        filled = torch.where(columns.isnan(), self._median, columns.double())
        return ((filled - self._mean) / self._spread).numpy()


def make_classifier(
    method: str = "weights",
    *,
    learner: Literal["forest", "boosted"] = "forest",
    seed: int = 0,
    tune: bool = True,
    cost: tuple[float, float] | None = None,
    n_trees: int = 200,
    n_neighbors: int = 5,
    inner_folds: int = 4,
) -> Classifier:
    """Return an unfitted classifier; see `Settings` for the arguments.

    Raises:
        UnknownNameError: If the method or the learner is unknown.
    """
    return Classifier(
        Settings(
            method=method,
            learner=learner,
            seed=seed,
            tune=tune,
            cost=cost,
            n_trees=n_trees,
            n_neighbors=n_neighbors,
            inner_folds=inner_folds,
        )
    )


def check_enough(classes: Float[Tensor, " n"], n_folds: int) -> None:
    """Check that every fold can have a row of each class.

    Raises:
        InputError: If one class has fewer rows than folds.
    """
    ones = int(classes.sum())
    for label, count in ((0, len(classes) - ones), (1, ones)):
        if count < n_folds:
            raise InputError(
                f"Class {label} has {count} row(s), fewer than the {n_folds} folds: use fewer "
                "folds, or add rows of it."
            )


def _fitted(settings: Settings, rows: np.ndarray, labels: np.ndarray, seed: int) -> Any:  # noqa: ANN401 - any model
    if settings.method == "focal":
        return FocalNetwork(seed).fit(rows, labels)
    if settings.method == "balanced-forest":
        return balanced_forest(settings.n_trees, seed).fit(rows, labels)
    if settings.method == "easy-ensemble":
        return easy_ensemble(seed).fit(rows, labels)
    ensemble = learner_of("ensemble")
    rng = child(seed, "sampling")
    if settings.method == "undersampling":
        drawn = balanced_rows(torch.from_numpy(labels), rng, replace=False).numpy()
        rows, labels = rows[drawn], labels[drawn]
    elif settings.method == "smote":
        columns, classes = smote(
            torch.from_numpy(rows), torch.from_numpy(labels), rng, settings.n_neighbors
        )
        rows, labels = columns.numpy(), classes.numpy()
    weight = "balanced" if settings.method == "weights" else None
    number = seed % 2**32
    if settings.learner == "boosted":
        model = ensemble.HistGradientBoostingClassifier(
            class_weight=weight,
            random_state=number,
            max_iter=settings.n_trees,
            early_stopping=False,
        )
    else:
        model = ensemble.RandomForestClassifier(
            class_weight=weight, random_state=number, n_estimators=settings.n_trees
        )
    return model.fit(rows, labels)
