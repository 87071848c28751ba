"""Scores of two-class predictions that stay honest when one class is rare."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.errors import InputError

Goal = Literal["balanced-accuracy", "f1"]

PRECISION = 0.9
"""The precision at which `ClassScores.recall_at_precision` is read off."""


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How well class 1 is found. Accuracy is not among them: it is high when nothing is found.

    Attributes:
        precision: Share of the rows called 1 that are; 0 where none is called.
        recall: Share of the rows of class 1 that are called 1.
        f1: Harmonic mean of both.
        roc_auc: Chance that a row of class 1 ranks above one of class 0.
        pr_auc: Average precision: precision over all ranks of class 1, weighted by recall gained.
        mcc: Matthews correlation, −1 to 1; 0 where all rows are called alike.
        balanced_accuracy: Mean of the recalls of both classes.
        recall_at_precision: Largest recall of any threshold with a precision of at least 0.9.
        threshold: Probability from which a row is called 1.
    """

    precision: float
    recall: float
    f1: float
    roc_auc: float
    pr_auc: float
    mcc: float
    balanced_accuracy: float
    recall_at_precision: float
    threshold: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields by name."""
        return asdict(self)


def check_classes(classes: Tensor) -> Float[Tensor, " n"]:
    """Return classes as float64.

    Raises:
        InputError: If they are missing, not 0 and 1, or only one class is there.
    """
    classes = torch.as_tensor(classes).double()
    if not len(classes):
        raise InputError("There are no rows to classify.")
    missing = int((~torch.isfinite(classes)).sum())
    if missing:
        raise InputError(
            f"The class is missing in {missing} of {len(classes)} rows: leave these rows out."
        )
    if not bool(((classes == 0) | (classes == 1)).all()):
        raise InputError("A classification needs the classes 0 and 1, but there are other values.")
    if bool((classes == classes[0]).all()):
        raise InputError(
            f"All {len(classes)} rows are of class {int(classes[0])}: there is nothing to tell "
            "apart. Add rows of the other class."
        )
    return classes


def class_scores(
    classes: Float[Tensor, " n"],
    probability: Float[Tensor, " n"],
    threshold: float = 0.5,
    *,
    precision: float = PRECISION,
) -> ClassScores:
    """Return the scores of predicted probabilities.

    Args:
        classes: 0 or 1, both present.
        probability: Of class 1.
        threshold: Rows at or above it are called 1.
        precision: For ``recall_at_precision``.

    Raises:
        InputError: If the classes cannot be used, or a probability is missing.
    """
    truth = check_classes(classes)
    chance = probability.double()
    if not bool(torch.isfinite(chance).all()):
        raise InputError("A predicted probability is missing or not finite.")
    ones = float(truth.sum())
    steps = _steps(truth, chance)
    gained = torch.diff(steps.recall, prepend=torch.zeros(1, dtype=torch.float64))
    good = steps.recall[steps.precision >= precision - 1e-12]
    return ClassScores(
        **call_scores(truth, chance >= threshold),
        roc_auc=_ranked_higher(steps, ones, len(truth) - ones),
        pr_auc=float((gained * steps.precision).sum()),
        recall_at_precision=float(good.max()) if len(good) else 0.0,
        threshold=threshold,
    )


def call_scores(truth: Float[Tensor, " n"], called: Bool[Tensor, " n"]) -> dict[str, float]:
    """Return the scores that need no ranks: those of rows called 1 or 0.

    Rows of one class have a balanced accuracy of NaN; other ratios of nothing are 0.
    """
    hits = float(truth[called].sum())
    ones, n_called, n = float(truth.sum()), float(called.sum()), len(truth)
    false_alarms, zeros = n_called - hits, n - ones
    right_zeros = zeros - false_alarms
    cells = n_called * ones * zeros * (n - n_called)
    # hits·right_zeros − false_alarms·misses over the root of the product of the margins.
    product = hits * right_zeros - false_alarms * (ones - hits)
    return {
        "precision": hits / n_called if n_called else 0.0,
        "recall": hits / ones if ones else 0.0,
        "f1": 2 * hits / (n_called + ones) if n_called + ones else 0.0,
        "mcc": product / math.sqrt(cells) if cells else 0.0,
        "balanced_accuracy": 0.5 * (hits / ones + right_zeros / zeros)
        if ones and zeros
        else math.nan,
    }


@dataclass(frozen=True, eq=False)
class _Steps:
    """What each different probability gives as threshold, from the highest down."""

    chance: Tensor
    hits: Tensor
    called: Tensor
    recall: Tensor
    precision: Tensor


def _steps(truth: Tensor, chance: Tensor) -> _Steps:
    order = torch.argsort(chance, descending=True, stable=True)
    chance, hits = chance[order], truth[order].cumsum(0)
    is_end = torch.ones(len(chance), dtype=torch.bool)
    is_end[:-1] = chance[:-1] > chance[1:]
    called = torch.arange(1, len(chance) + 1, dtype=torch.float64)[is_end]
    hits = hits[is_end]
    return _Steps(chance[is_end], hits, called, hits / truth.sum(), hits / called)


def _ranked_higher(steps: _Steps, ones: float, zeros: float) -> float:
    """Return the area under recall over false-alarm rate, ties counting one half."""
    start = torch.zeros(1, dtype=torch.float64)
    alarms = torch.cat([start, (steps.called - steps.hits) / zeros])
    recall = torch.cat([start, steps.hits / ones])
    return float(torch.trapezoid(recall, alarms))


def best_threshold(
    classes: Float[Tensor, " n"],
    probability: Float[Tensor, " n"],
    cost: tuple[float, float] | None = None,
    *,
    goal: Goal = "f1",
) -> float:
    """Return the threshold with the highest F1 or balanced accuracy, or the lowest cost.

    It lies half-way between two probabilities that occur; of equal ones the nearest to one half is
    taken. Give probabilities of rows that the model was not trained on: out-of-fold ones.

    Args:
        classes: 0 or 1, both present.
        probability: Of class 1.
        cost: Of one false alarm and of one miss, in any unit; None for the goal.
        goal: What to raise where there is no cost.

    Raises:
        InputError: If the classes cannot be used, or a cost is not positive.
    """
    truth = check_classes(classes)
    steps = _steps(truth, probability.double())
    ones = float(truth.sum())
    if cost is None and goal == "balanced-accuracy":
        gain = steps.hits / ones - (steps.called - steps.hits) / (len(truth) - ones)
    elif cost is None:
        gain = 2 * steps.hits / (steps.called + ones)
    else:
        if not (0 < cost[0] < math.inf and 0 < cost[1] < math.inf):
            raise InputError(f"The costs {cost} must be two positive numbers: false alarm, miss.")
        gain = -(cost[0] * (steps.called - steps.hits) + cost[1] * (ones - steps.hits))
        # To call no row 1 can be the cheapest.
        nothing = torch.tensor([-cost[1] * ones], dtype=torch.float64)
        gain = torch.cat([nothing, gain])
    below = torch.cat([steps.chance[1:], torch.zeros(1, dtype=torch.float64)])
    edges = 0.5 * (steps.chance + below)
    if cost is not None:
        top = 0.5 * (1 + steps.chance[:1].clamp(max=1.0)) + 1e-9
        edges = torch.cat([top, edges])
    best = gain >= gain.max() - 1e-12
    return float(edges[best][(edges[best] - 0.5).abs().argmin()])
