"""Weights for regression on values of which some are rare."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import InputError

_GRID = 512
_REACH = 4.0  # bandwidths on either side of the data


def density_weights(
    values: Float[Tensor, " n"], *, power: float = 0.5, most: float = 5.0
) -> Float[Tensor, " n"]:
    """Return a weight for each row that is larger where few rows have such a value.

    ``w = KDE(y)^−power``, divided by its mean and clipped to ``most``; the density is a Gaussian
    kernel estimate with Silverman's bandwidth ``1.06 s n^(−1/5)``, where s is the smaller of the
    standard deviation and the interquartile range over 1.349.

    Args:
        values: Labels of the training rows, at least one.
        power: 0 gives equal weights, 1 the same sum of weights everywhere.
        most: Largest weight; the mean stays near 1.

    Returns:
        float64, in (0, most]; all 1 where all values are equal.

    Raises:
        InputError: If there are no values, or one is missing or infinite.
    """
    y = values.double()
    if not len(y) or not bool(torch.isfinite(y).all()):
        raise InputError("Density weights need at least one value, and every value finite.")
    spread = _spread(y)
    if spread <= 0 or not power:
        return torch.ones_like(y)
    bandwidth = 1.06 * spread * len(y) ** -0.2
    weights = _density(y, bandwidth) ** -power
    # Clipping lowers the mean, so the scale comes first and the bound holds exactly.
    return (weights / weights.mean()).clamp(max=most)


def _spread(y: Tensor) -> float:
    std = float(y.std(correction=0))
    low, high = torch.quantile(y, torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    robust = (high - low) / 1.349
    return min(std, robust) if robust > 0 else std


def _density(y: Tensor, bandwidth: float) -> Tensor:
    """Return the kernel estimate at each value, by a grid when there are many."""
    if len(y) <= 4096:
        at = [_kernel(part[:, None] - y, bandwidth).mean(1) for part in y.split(1024)]
        return torch.cat(at)
    low, high = float(y.min()) - _REACH * bandwidth, float(y.max()) + _REACH * bandwidth
    n_points = max(_GRID, math.ceil(8 * (high - low) / bandwidth))
    step = (high - low) / (n_points - 1)
    place = (y - low) / step
    left = place.long().clamp(max=n_points - 2)
    share = place - left
    # Each value is dealt to its two grid points, so the grid keeps the mean of each value.
    counts = torch.zeros(n_points, dtype=torch.float64)
    counts.index_add_(0, left, 1 - share).index_add_(0, left + 1, share)
    half = math.ceil(5 * bandwidth / step)
    kernel = _kernel(torch.arange(-half, half + 1, dtype=torch.float64) * step, bandwidth)
    smooth = torch.nn.functional.conv1d(counts[None, None], kernel[None, None], padding=half)[0, 0]
    return (smooth[left] * (1 - share) + smooth[left + 1] * share) / len(y)


def _kernel(distance: Tensor, bandwidth: float) -> Tensor:
    z = distance / bandwidth
    return torch.exp(-0.5 * z * z) / (bandwidth * math.sqrt(2 * math.pi))
