"""The probability from which a row counts as class 1, tuned on out-of-fold probabilities."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Goal = Literal["balanced-accuracy", "f1"]


def best_threshold(
    chance: Float[Tensor, " n"], classes: Float[Tensor, " n"], goal: Goal
) -> dict[str, Any]:
    """Return ``threshold``, what it was tuned for and what it reaches, for the card.

    Every gap between two probabilities that occur is tried; of equal ones the nearest to one half
    is taken.
    """
    order = chance.sort(descending=True)
    truth = classes[order.indices]
    ones, zeros = float(classes.sum()), float((1 - classes).sum())
    # The first k rows are called class 1, for k = 0 … n.
    hits = torch.cat([torch.zeros(1).double(), truth.double().cumsum(0)])
    called = torch.arange(len(truth) + 1, dtype=torch.float64)
    if goal == "f1":
        reached = 2 * hits / (called + ones).clamp_min(1e-12)
    else:
        reached = 0.5 * (hits / ones + (zeros - (called - hits)) / zeros)
    edges = torch.cat(
        [
            torch.ones(1).double(),
            0.5 * (order.values[:-1] + order.values[1:]),
            torch.zeros(1).double(),
        ]
    )
    # Rows of equal probability cannot be told apart by a threshold.
    is_cut = torch.ones(len(edges), dtype=torch.bool)
    is_cut[1:-1] = order.values[:-1] > order.values[1:]
    best = reached.masked_fill(~is_cut, -1.0)
    ties = best >= best.max() - 1e-12
    place = int(torch.where(ties, (edges - 0.5).abs(), torch.inf).argmin())
    return {
        "threshold": float(edges[place]),
        "threshold_for": goal,
        "threshold_reaches": float(best[place]),
    }
