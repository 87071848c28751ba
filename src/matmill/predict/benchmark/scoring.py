"""Scores of a prediction against the truth: the ones that leaderboards list, and the intervals'."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import MissingExtraError
from matmill.predict.calibrate import coverage
from matmill.predict.protocol import Prediction


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
        ``recall``, ``mcc`` (Matthews' correlation). AUC are NaN where the rows hold one class.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MissingExtraError("Scores of classes need: pip install 'matmill[train]'") from error
    wanted, guess = truth.long().numpy(), probability.double().numpy()
    said = (guess >= threshold).astype(int)
    nothing: dict[str, Any] = {"zero_division": 0}  # no row said to be of class 1 scores 0
    both = len(set(wanted.tolist())) > 1
    return {
        "roc_auc": float(metrics.roc_auc_score(wanted, guess)) if both else math.nan,
        "pr_auc": float(metrics.average_precision_score(wanted, guess)) if both else math.nan,
        "balanced_accuracy": float(metrics.balanced_accuracy_score(wanted, said))
        if both
        else math.nan,
        "f1": float(metrics.f1_score(wanted, said, **nothing)),
        "precision": float(metrics.precision_score(wanted, said, **nothing)),
        "recall": float(metrics.recall_score(wanted, said, **nothing)),
        "mcc": float(metrics.matthews_corrcoef(wanted, said)),
        "threshold": threshold,
    }
