"""Scores of a prediction against the truth: the ones that leaderboards list, and the intervals'."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.calibrate import coverage
from matmill.predict.imbalance.scores import call_scores, class_scores
from matmill.predict.protocol import Prediction

_LISTED = (
    "roc_auc",
    "pr_auc",
    "balanced_accuracy",
    "f1",
    "precision",
    "recall",
    "mcc",
    "threshold",
)


def score_regression(prediction: Prediction, truth: Float[Tensor, " n"]) -> dict[str, float]:
    """Return errors in the target's unit, and what the intervals hold.

    ``mae`` mean absolute error, ``rmse``, ``r2``, ``median_error``, ``covered`` the share of true
    values in their intervals (whose promise is ``coverage``), ``mean_width`` of the finite ones.
    """
    truth = truth.double()
    error = prediction.mean - truth
    width = prediction.high - prediction.low
    finite = width[torch.isfinite(width)]
    around = (truth - truth.mean()).square().sum()
    return {
        "mae": float(error.abs().mean()),
        "median_error": float(error.abs().median()),
        "rmse": float(error.square().mean().sqrt()),
        "r2": float(1 - error.square().sum() / around) if float(around) > 0 else math.nan,
        "covered": coverage(truth, prediction.low, prediction.high),
        "coverage": prediction.coverage,
        "mean_width": float(finite.mean()) if len(finite) else math.inf,
        "share_in_domain": float(prediction.in_domain.double().mean()),
    }


def score_classes(
    probability: Float[Tensor, " n"], truth: Float[Tensor, " n"], *, threshold: float = 0.5
) -> dict[str, float]:
    """Return scores of two classes.

    Args:
        probability: Of class 1.
        truth: 0 or 1.
        threshold: Probability from which class 1 is said.

    Returns:
        ``roc_auc``, ``pr_auc`` (average precision), ``balanced_accuracy``, ``f1``, ``precision``,
        ``recall``, ``mcc`` (Matthews' correlation), ``threshold``. AUC and balanced accuracy are
        NaN where the rows hold one class.
    """
    wanted, chance = truth.double(), probability.double()
    if 0 < int(wanted.sum()) < len(wanted):
        found = class_scores(wanted, chance, threshold).as_dict()
    else:
        found = {"roc_auc": math.nan, "pr_auc": math.nan, "threshold": threshold}
        found |= call_scores(wanted, chance >= threshold)
    return {name: found[name] for name in _LISTED}
