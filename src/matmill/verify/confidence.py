"""Intervals: what a count out of n, or any statistic of n crystals, can and cannot tell."""

from collections.abc import Callable
from math import sqrt

import numpy as np

Z_95 = 1.959963984540054
"""Two-sided 95 % of a normal distribution."""


def wilson(hits: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval of a share, (0, 1) when there is nothing to judge by.

    Unlike the usual p ± z·s.e. it stays inside [0, 1] and is right for shares near the ends.

    Args:
        hits: How many.
        n: Out of how many.
        z: Standard normal quantile; 95 % unless given.

    Source:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927).
    """
    if n <= 0:
        return 0.0, 1.0
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(
    hits: int, n: int, other_hits: int, other_n: int, z: float = Z_95
) -> tuple[float, float]:
    """Return the interval of the difference of two shares, first minus second.

    Args:
        hits: How many of the first set.
        n: Size of the first set.
        other_hits: How many of the second set.
        other_n: Size of the second set.
        z: Standard normal quantile; 95 % unless given.

    Source:
        Newcombe, Interval estimation for the difference between independent proportions (1998),
        method 10.
    """
    if n <= 0 or other_n <= 0:
        return -1.0, 1.0
    p, q = hits / n, other_hits / other_n
    low_p, high_p = wilson(hits, n, z)
    low_q, high_q = wilson(other_hits, other_n, z)
    low = p - q - sqrt((p - low_p) ** 2 + (high_q - q) ** 2)
    high = p - q + sqrt((high_p - p) ** 2 + (q - low_q) ** 2)
    return max(-1.0, low), min(1.0, high)


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    seed: int,
    n_resamples: int = 400,
) -> tuple[float, float]:
    """Return the central 95 % of a statistic over resamples of the values, drawn with replacement.

    Args:
        values: One row a crystal.
        statistic: Of an array like ``values``.
        seed: Same seed, same interval.
        n_resamples: How many; the ends are then good to about a twentieth of the width.

    Returns:
        Lower and upper end; NaN without values.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), the percentile interval.
    """
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    n = len(values)
    found = [statistic(values[rng.integers(0, n, n)]) for _ in range(n_resamples)]
    low, high = np.quantile(np.array(found), [0.025, 0.975])
    return float(low), float(high)
