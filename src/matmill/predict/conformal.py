"""Conformal intervals beyond the plain split: by group, from folds, and for shifted crystals.

All work on scores, |error| / σ, of rows that the model did not train on. The interval of a new
crystal is mean ± factor · σ, except with folds, where every fold's model has its own say. Plain
split conformal is `calibrate.conformal_quantile`.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.predict.calibrate import conformal_quantile

FEW = 50  # with fewer (effective) calibration rows no coverage is promised


def effective_size(weights: Float[Tensor, " n"]) -> float:
    """Return how many equally weighted rows are worth as much: (Σw)² / Σw².

    Source:
        Kish, Survey Sampling (1965); used for conformal weights by Tibshirani et al. (2019).
    """
    total, squares = float(weights.sum()), float(weights.square().sum())
    return total**2 / squares if squares > 0 else 0.0


def weighted_factors(
    scores: Float[Tensor, " n"],
    weights: Float[Tensor, " n"],
    asked: Float[Tensor, " m"],
    coverage: float,
) -> Float[Tensor, " m"]:
    """Return the factor on σ for each asked crystal when calibration rows count unequally.

    Args:
        scores: Of the calibration rows.
        weights: Density ratio at the calibration rows, asked over calibration.
        asked: The same ratio at each asked crystal.
        coverage: Wanted probability, in (0, 1).

    Returns:
        The smallest score below which lies a share ``coverage`` of all weight, the crystal's own
        included; infinite where the calibration rows do not weigh enough.

    Source:
        Tibshirani et al., Conformal prediction under covariate shift (2019), corollary 1.
    """
    order = scores.argsort()
    below = weights[order].double().cumsum(0)
    total = (float(below[-1]) if len(below) else 0.0) + asked.double()
    # A hair below: sums of many weights must not miss their own total by rounding.
    wanted = coverage * total * (1 - 1e-12)
    place = torch.searchsorted(below, wanted)
    padded = torch.cat([scores[order].double(), torch.tensor([math.inf], dtype=torch.float64)])
    return padded[place]


def group_factors(
    scores: Float[Tensor, " n"],
    groups: Int[Tensor, " n"],
    asked: Int[Tensor, " m"],
    coverage: float,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Bool[Tensor, " m"]]:
    """Return the factor on σ for each asked crystal from calibration rows of its own group.

    The promise then holds within each group, not only on average. A group with fewer than `FEW`
    rows borrows all rows.

    Args:
        scores: Of the calibration rows.
        groups: Their groups.
        asked: Group of each asked crystal.
        coverage: Wanted probability, in (0, 1).

    Returns:
        Factors; the number of calibration rows behind each; and True where they are of the own
        group, each ``(m,)``.

    Source:
        Vovk et al., Algorithmic Learning in a Random World (2005), section 4.5 (Mondrian).
    """
    factors = torch.full((len(asked),), conformal_quantile(scores, coverage), dtype=torch.float64)
    sizes = torch.full((len(asked),), float(len(scores)), dtype=torch.float64)
    is_own = torch.zeros(len(asked), dtype=torch.bool)
    for group in asked.unique().tolist():
        own = scores[groups == group]
        if len(own) >= FEW:
            here = asked == group
            factors[here] = conformal_quantile(own, coverage)
            sizes[here] = float(len(own))
            is_own |= here
    return factors, sizes, is_own


def cross_interval(
    scores: Float[Tensor, " n"],
    folds: Int[Tensor, " n"],
    means: Float[Tensor, "n_folds m"],
    stds: Float[Tensor, "n_folds m"],
    coverage: float,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return CV+ intervals: every row calibrates, through the model that did not see it.

    With as many folds as rows this is the jackknife+. For fewer than 1,000 rows it wastes none on
    calibration.

    Args:
        scores: |error| / σ of each row under the model of the other folds.
        folds: Fold of each row.
        means: What the model without each fold says about the asked crystals.
        stds: σ of the same; ones give the CV+ of the source.
        coverage: Wanted probability, in (0, 1). Close to it is what is found in practice; proven
            is ``2 · coverage − 1`` and a little more.

    Returns:
        Lower and upper ends, ``(m,)``; infinite when there are too few rows.

    Source:
        Barber et al., Predictive inference with the jackknife+ (2021), equation 11.
    """
    n = len(scores)
    place = math.ceil((n + 1) * coverage)
    if place > n:
        ends = torch.full((means.shape[1],), math.inf, dtype=torch.float64)
        return -ends, ends
    reach = scores.double()[:, None] * stds.double()[folds]
    centers = means.double()[folds]
    # The k-th smallest of −a is minus the k-th largest of a: both ends are the same statistic.
    low = -(reach - centers).kthvalue(place, dim=0).values
    high = (reach + centers).kthvalue(place, dim=0).values
    return low, high
