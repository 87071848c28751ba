"""Honest error bars: conformal intervals, and how to tell whether error bars are honest."""

import math
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

COVERAGES = (0.5, 0.8, 0.9, 0.95)
_GRID = tuple(i / 100 for i in range(1, 100))


def residual_scores(error: Float[Tensor, " n"], std: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return errors in units of the predicted standard deviation: the conformal score."""
    return error.abs() / std


def conformal_quantile(scores: Float[Tensor, " n"], coverage: float) -> float:
    """Return the factor on σ whose interval holds a new value with at least this probability.

    Args:
        scores: Residual scores of calibration rows that the model did not train on.
        coverage: Wanted probability, in (0, 1).

    Returns:
        The ⌈(n+1)·coverage⌉-th smallest score; infinite when there are too few rows.

    Source:
        Split conformal prediction, Lei et al. (2018), theorem 2.
    """
    n = len(scores)
    place = math.ceil((n + 1) * coverage)
    if place > n:
        return math.inf
    return float(scores.double().sort().values[place - 1])


def quantile_table(scores: Float[Tensor, " n"]) -> dict[str, float]:
    """Return the conformal factor for coverages 0.01 … 0.99; those out of reach are left out."""
    factors = {f"{level:.2f}": conformal_quantile(scores, level) for level in _GRID}
    return {level: factor for level, factor in factors.items() if math.isfinite(factor)}


def factor_for(table: dict[str, float], coverage: float) -> float:
    """Return the conformal factor for a coverage: that of the next higher tabulated one.

    Infinite when the calibration rows were too few for it.
    """
    reachable = [float(level) for level in table if float(level) >= coverage - 1e-9]
    return table[f"{min(reachable):.2f}"] if reachable else math.inf


def coverage(
    truth: Float[Tensor, " n"], low: Float[Tensor, " n"], high: Float[Tensor, " n"]
) -> float:
    """Return the share of true values inside their intervals."""
    return float(((truth >= low) & (truth <= high)).double().mean())


def miscalibration_area(
    truth: Float[Tensor, " n"], mean: Float[Tensor, " n"], std: Float[Tensor, " n"]
) -> float:
    """Return the area between expected and observed coverage of Gaussian intervals, in [0, 0.5].

    Source:
        Kuleshov et al., Accurate uncertainties for deep learning (2018).
    """
    scores = residual_scores(truth - mean, std).double()
    normal = NormalDist()
    gaps = [
        abs(float((scores <= normal.inv_cdf(0.5 + level / 2)).double().mean()) - level)
        for level in _GRID
    ]
    return sum(gaps) / len(gaps)


def gaussian_nll(
    truth: Float[Tensor, " n"], mean: Float[Tensor, " n"], std: Float[Tensor, " n"]
) -> float:
    """Return the mean negative log-likelihood under independent Gaussians, in nats."""
    terms = 0.5 * ((truth - mean) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)
    return float(terms.double().mean())


def crps(truth: Float[Tensor, " n"], mean: Float[Tensor, " n"], std: Float[Tensor, " n"]) -> float:
    """Return the mean continuous ranked probability score of Gaussians, in the values' unit.

    Source:
        Gneiting and Raftery, Strictly proper scoring rules (2007), equation 5.
    """
    z = ((truth - mean) / std).double()
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    cumulative = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    terms = z * (2 * cumulative - 1) + 2 * density - 1 / math.sqrt(math.pi)
    return float((std.double() * terms).mean())


def std_factor(error: Float[Tensor, " n"], std: Float[Tensor, " n"]) -> float:
    """Return the factor on σ after which one σ holds 68.3 % of the errors.

    A quantile rather than the root mean square: a few crystals with wild errors would otherwise
    widen the error bars of all others.
    """
    share = NormalDist().cdf(1.0) - NormalDist().cdf(-1.0)
    return float(residual_scores(error, std).double().quantile(share))


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Return Spearman's rank correlation, ties sharing a rank; NaN when one side is constant."""
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def rank_auc(upper: Float[Tensor, " n"], lower: Float[Tensor, " m"]) -> float:
    """Return the probability that a value of ``upper`` exceeds one of ``lower``; ties count half.

    The area under the ROC curve of a score for telling the two apart.
    """
    n, m = len(upper), len(lower)
    ranks = _ranks(torch.cat([upper, lower]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the rank of each value from 1; tied values get their mean rank."""
    _, place, counts = values.double().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[place]


def sparsification(
    error: Float[Tensor, " n"], std: Float[Tensor, " n"], *, n_points: int = 51
) -> tuple[Float[Tensor, " n_points"], Float[Tensor, " n_points"], Float[Tensor, " n_points"]]:
    """Return how the mean absolute error falls when the most uncertain crystals are set aside.

    Args:
        error: Errors.
        std: Their predicted standard deviations.
        n_points: Points of the curves.

    Returns:
        Shares set aside, from 0 to below 1; the mean error of the rest as a share of that of all;
        and the same for the ideal order, by the error itself.

    Source:
        Ilg et al., Uncertainty estimates and multi-hypotheses networks (2018), section 4.
    """
    error = error.double().abs()
    n = len(error)
    kept = torch.linspace(n, 1, n_points, dtype=torch.float64).round().long()
    curves = []
    for order in (std.double().argsort(stable=True), error.argsort()):
        means = error[order].cumsum(0) / torch.arange(1, n + 1)
        curves.append(means[kept - 1] / error.mean().clamp_min(1e-300))
    return 1 - kept.double() / n, curves[0], curves[1]


def sparsification_error(error: Float[Tensor, " n"], std: Float[Tensor, " n"]) -> float:
    """Return the area between the curves of `sparsification`: 0 when σ orders like the error.

    An order at random scores about the area under one minus the ideal curve.
    """
    set_aside, own, ideal = sparsification(error, std, n_points=201)
    return float(torch.trapezoid(own - ideal, set_aside))


def class_calibration_error(
    chance: Float[Tensor, " n"], truth: Float[Tensor, " n"], *, n_bins: int = 10
) -> float:
    """Return how far predicted probabilities are from observed shares, averaged over bins.

    Args:
        chance: Probability of class 1.
        truth: 0 or 1.
        n_bins: Bins of equal width in [0, 1], weighted by their rows.

    Source:
        Guo et al., On calibration of modern neural networks (2017), equation 3.
    """
    place = (chance.double() * n_bins).long().clamp(0, n_bins - 1)
    gap = torch.zeros(n_bins, dtype=torch.float64)
    gap.index_add_(0, place, chance.double() - truth.double())
    return float(gap.abs().sum() / len(chance))
