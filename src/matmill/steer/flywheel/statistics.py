"""What paired runs can and cannot tell: differences, intervals, tests, power."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The difference of two arms over runs that share split and seed.

    Attributes:
        n: Runs.
        mean: First minus second, in the unit of the errors; negative: the first is better.
        low: Lower end of the 95 % interval of the mean, by Student's t. (A percentile bootstrap
            of ten runs holds the mean in 90 % of cases only, of three in 75 %.)
        high: Upper end.
        p_value: Of Wilcoxon's signed-rank test, two-sided; NaN with fewer than six runs.
        detectable: Difference that this many runs would find at the 5 % level with 80 % power,
            from the spread of the differences.
        n_better: Runs in which the first arm had the smaller error.
    """

    n: int
    mean: float
    low: float
    high: float
    p_value: float
    detectable: float
    n_better: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two arms run by run.

    Args:
        first: Error of each run.
        second: Error of the same runs by the other arm.

    Source:
        Student, The probable error of a mean (1908); Wilcoxon, Individual comparisons by ranking
        methods (1945); Cohen, Statistical power analysis (1988), for the detectable difference of
        a paired t-test.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    if n < 2:
        return Paired(
            n=n,
            mean=mean,
            low=math.nan,
            high=math.nan,
            p_value=math.nan,
            detectable=math.nan,
            n_better=int((difference < 0).sum()),
        )
    from scipy.stats import t

    spread = float(difference.std(ddof=1))
    half = float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return Paired(
        n=n,
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_value=_wilcoxon(difference),
        detectable=detectable(spread, n),
        n_better=int((difference < 0).sum()),
    )


def detectable(spread: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that n paired runs find with this power.

    Args:
        spread: Standard deviation of the paired differences.
        n: Runs, at least 2.
        level: Two-sided.
        power: Chance to find it.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if spread == 0.0:
        return 0.0
    cut = t.ppf(1.0 - level / 2.0, n - 1)

    def missing(shift: float) -> float:
        # The other tail adds nothing where the power is of interest.
        return float(nct.sf(cut, n - 1, shift)) - power

    root: Any = brentq(missing, 0.0, cut + 6.0)
    return spread * float(root) / math.sqrt(n)


def _wilcoxon(difference: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    if len(difference) < 6 or not difference.any():
        return math.nan
    found: Any = wilcoxon(difference)
    return float(found.pvalue)
