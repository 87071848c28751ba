"""Which property values synthetic crystals are asked for."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import DataError
from matmill.steer.flywheel.settings import Law

MARGIN = 0.05  # of the range of the labels, by which conditions may leave it
BEYOND = 0.25  # the same, for conditions that are meant to
SKEWED = 1.0  # skewness above which positive labels are drawn as logarithms


def draw(
    labels: Float[Tensor, " n_labels"], n: int, law: Law, rng: torch.Generator
) -> Float[Tensor, " n"]:
    """Return values to ask a generator for, in the unit of the labels.

    Args:
        labels: Of the rows that the generator learns from, finite.
        n: How many values.
        law: ``kde``: a Gaussian kernel density of the labels (Scott's width), inside their range
            and a twentieth around it. ``flat``: even over the range. ``beyond``: even over a
            quarter of the range on either side of it, of positive labels above it only. All
            three in logarithms where labels are positive and skewed.
        rng: Draws them.

    Raises:
        DataError: If the labels are fewer than two or all alike.

    Source:
        MatWheel (2025) draws its conditions from a kernel density of the training labels.
    """
    values = labels.double().numpy()
    if len(values) < 2 or not float(np.ptp(values)) > 0:
        raise DataError(
            f"Conditions need at least two different labels to be drawn from; there are "
            f"{len(np.unique(values))}."
        )
    in_logs = is_skewed(values)
    straight = np.log(values) if in_logs else values
    low, high = float(straight.min()), float(straight.max())
    span = high - low
    if law == "kde":
        drawn = _density(straight, n, low - MARGIN * span, high + MARGIN * span, rng)
    else:
        share = torch.rand(n, generator=rng, dtype=torch.float64).numpy()
        drawn = low + span * share
        if law == "beyond":
            is_above = torch.rand(n, generator=rng).numpy() < 0.5
            is_above |= bool((values >= 0).all())
            drawn = np.where(is_above, high + BEYOND * span * share, low - BEYOND * span * share)
    drawn = np.exp(drawn) if in_logs else drawn
    if (values >= 0).all():
        drawn = drawn.clip(min=0.0)
    return torch.from_numpy(drawn)


def is_skewed(values: np.ndarray) -> bool:
    """Return whether labels are positive and so skewed that their logarithms are drawn."""
    if not (values > 0).all():
        return False
    from scipy.stats import skew

    return float(skew(values)) > SKEWED and abs(float(skew(np.log(values)))) < float(skew(values))


def _density(
    values: np.ndarray, n: int, low: float, high: float, rng: torch.Generator
) -> np.ndarray:
    """Return draws of a kernel density inside bounds: what falls outside is drawn again."""
    from scipy.stats import gaussian_kde

    width = float(np.sqrt(gaussian_kde(values, "scott").covariance[0, 0]))
    drawn = np.empty(0)
    while len(drawn) < n:
        centres = torch.randint(len(values), (2 * n,), generator=rng).numpy()
        noise = torch.randn(2 * n, generator=rng, dtype=torch.float64).numpy()
        tried = values[centres] + width * noise
        drawn = np.concatenate([drawn, tried[(tried >= low) & (tried <= high)]])
    return drawn[:n]
