"""Exact optimal transport between small sets of rows: the distance between pointwise distances."""

from math import gcd

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.fingerprint import PointwiseDistances
from matmill.errors import InputError

_MOST_UNITS = 300  # larger assignments take longer than the linear programme


def transport_cost(counts_a: np.ndarray, counts_b: np.ndarray, cost: np.ndarray) -> float:
    """Return the least cost of carrying one distribution into another, exactly.

    ``min_F Σ F_ij cost_ij`` with ``Σ_j F_ij`` the share of row i and ``Σ_i F_ij`` that of row j.
    Shares are ratios of whole numbers, so the problem is an assignment of equal units, which scipy
    solves; where there are too many units it is scipy's linear programme.

    Args:
        counts_a: How often each row of the first occurs, positive whole numbers, ``(n,)``.
        counts_b: The same of the second, ``(m,)``; the totals may differ.
        cost: What carrying everything from i to j costs, ``(n, m)``.

    Source:
        Rubner et al., The Earth Mover's Distance as a Metric for Image Retrieval (2000).
    """
    counts_a, counts_b = (np.asarray(counts, dtype=np.int64) for counts in (counts_a, counts_b))
    if len(counts_a) == 1 or len(counts_b) == 1:
        return float(counts_a @ cost @ counts_b) / float(counts_a.sum() * counts_b.sum())
    a, b = (counts // gcd(*counts.tolist()) for counts in (counts_a, counts_b))
    total_a, total_b = int(a.sum()), int(b.sum())
    units = total_a * total_b // gcd(total_a, total_b)
    if units > _MOST_UNITS:
        return _by_programme(a / total_a, b / total_b, cost)
    from scipy.optimize import linear_sum_assignment

    rows = np.repeat(np.arange(len(a)), a * (units // total_a))
    columns = np.repeat(np.arange(len(b)), b * (units // total_b))
    spread = cost[np.ix_(rows, columns)]
    return float(spread[linear_sum_assignment(spread)].mean())


def pdd_distances(a: PointwiseDistances, b: PointwiseDistances) -> Float[Tensor, "n m"]:
    """Return the earth mover's distance between each crystal of one set and of another.

    The cost between two rows is their largest difference, so the distance is never below the
    Chebyshev distance of the average minimum distances.

    Args:
        a: Of ``n`` crystals.
        b: Of ``m`` crystals, with as many neighbours.

    Returns:
        float64, Å.

    Raises:
        InputError: If the two were made with different numbers of neighbours.

    Source:
        Widdowson and Kurlin, Resolving the data ambiguity for periodic crystals (2022),
        definition 4.1 and theorem 4.2.
    """
    from scipy.spatial.distance import cdist

    if a.rows.shape[1] != b.rows.shape[1]:
        raise InputError(
            f"One set has {a.rows.shape[1]} neighbours an atom, the other {b.rows.shape[1]}. "
            "Make both with the same k."
        )
    mine, theirs = _arrays(a), _arrays(b)
    found = np.zeros((len(a), len(b)))
    everything = np.concatenate([rows for _, rows in theirs]) if theirs else b.rows.cpu().numpy()
    stops = np.cumsum([len(counts) for counts, _ in theirs]).tolist()
    for i, (counts, rows) in enumerate(mine):
        cost = cdist(rows, everything, "chebyshev")
        for j, (other, _) in enumerate(theirs):
            part = cost[:, stops[j] - len(other) : stops[j]]
            found[i, j] = transport_cost(counts, other, part)
    return torch.from_numpy(found).to(a.rows.device)


def _arrays(prints: PointwiseDistances) -> list[tuple[np.ndarray, np.ndarray]]:
    rows, counts = prints.rows.cpu().numpy(), prints.counts.cpu().numpy()
    stops = np.cumsum(prints.n_rows.cpu().numpy())[:-1]
    return list(zip(np.split(counts, stops), np.split(rows, stops), strict=True))[: len(prints)]


def _by_programme(a: np.ndarray, b: np.ndarray, cost: np.ndarray) -> float:
    from scipy.optimize import linprog

    # One rule a row for what leaves it, one a column for what arrives.
    flow = np.arange(cost.size)
    rules = np.zeros((len(a) + len(b), cost.size))
    rules[flow // len(b), flow] = 1.0
    rules[len(a) + flow % len(b), flow] = 1.0
    solved = linprog(
        cost.ravel(), A_eq=rules, b_eq=np.concatenate([a, b]), bounds=(0, None), method="highs"
    )
    return float(solved.fun)
