"""Two spaces of vectors with fast, exact neighbour search: sums of differences, and Euclid.

Both look only at rows whose projection on one axis is near enough, since a projection never moves
further than the point itself; what is left is compared in blocks.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rows = Int[Tensor, " _n"]
Pairs = tuple[Int[Tensor, " _n_pairs"], Int[Tensor, " _n_pairs"]]

DECIMALS = 9
"""Distances are rounded to so many, so that ties and exact thresholds do not hang on rounding."""

_STRIP = 128
_WINDOW = 8192
_N_SEGMENTS = 12
_SAMPLE = 4096


class Space(Protocol):
    """Points with a distance.

    Attributes:
        key: A projection of each row that never differs by more than the distance.
    """

    key: Float[Tensor, " n_rows"]

    def close(self, left: Rows, right: Rows, limit: float) -> Pairs:
        """Return positions in ``left`` and ``right`` of all pairs not further than ``limit``."""
        ...

    def distances(self, left: Rows, right: Rows) -> Float[Tensor, " _n"]:
        """Return the distance of each row of ``left`` to the same place of ``right``, float64."""
        ...


class Manhattan:
    """Rows under ``Σ_k |a_k − b_k|``.

    The sums over a few segments of the columns bound it from below, since
    ``|Σ (a_k − b_k)| ≤ Σ |a_k − b_k|``; most pairs are decided by them alone.
    """

    def __init__(self, vectors: Float[Tensor, "n_rows n_columns"]) -> None:
        self.vectors = vectors.double()
        segments = torch.tensor_split(self.vectors, _N_SEGMENTS, dim=1)
        self.coarse = torch.stack([segment.sum(1) for segment in segments], dim=1).float()
        self.key = self.vectors.sum(1)
        # Rounding of the coarse sums to single precision, twice.
        self.slack = 1e-5 * max(1.0, float(self.coarse.abs().sum(1).amax())) if len(vectors) else 0

    def close(self, left: Rows, right: Rows, limit: float) -> Pairs:
        """Return positions in ``left`` and ``right`` of all pairs not further than ``limit``."""
        bound = torch.cdist(self.coarse[left], self.coarse[right], p=1)
        i, j = torch.nonzero(bound <= limit + self.slack, as_tuple=True)
        near = self.distances(left[i], right[j]) <= limit
        return i[near], j[near]

    def distances(self, left: Rows, right: Rows) -> Float[Tensor, " _n"]:
        """Return the distance of each row of ``left`` to the same place of ``right``, float64."""
        parts = [
            (self.vectors[a] - self.vectors[b]).abs_().sum(1)
            for a, b in zip(left.split(20_000), right.split(20_000), strict=True)
        ]
        return torch.cat(parts).round(decimals=DECIMALS)


class Euclid:
    """Rows under the Euclidean distance: matrix products, and differences where they are unsure."""

    def __init__(self, vectors: Float[Tensor, "n_rows n_columns"]) -> None:
        # Rounding of the products grows with the norms, so the mean is taken off.
        mean = vectors.double().mean(0) if len(vectors) else vectors.double().sum(0)
        self.vectors = (vectors - mean.to(vectors.dtype)).float()
        squares = [part.double().square().sum(1) for part in self.vectors.split(_SAMPLE)]
        self.squares = torch.cat(squares).float()
        sample = self.vectors[:: max(1, len(vectors) // _SAMPLE)].double()
        axis = torch.linalg.eigh(sample.T @ sample)[1][:, -1:]
        self.key = torch.cat([(part.double() @ axis)[:, 0] for part in self.vectors.split(_SAMPLE)])

    def close(self, left: Rows, right: Rows, limit: float) -> Pairs:
        """Return positions in ``left`` and ``right`` of all pairs not further than ``limit``."""
        total = self.squares[left, None] + self.squares[right]
        squared = torch.addmm(total, self.vectors[left], self.vectors[right].T, alpha=-2)
        # Single precision is good to about 1e-6 of the norms here; ten times that is left open.
        open_ = 1e-5 * total + 1e-12
        i, j = torch.nonzero(squared <= limit**2 + open_, as_tuple=True)
        sure = squared[i, j] < limit**2 - open_[i, j]
        unsure = torch.nonzero(~sure).flatten()
        near = sure
        near[unsure] = self.distances(left[i[unsure]], right[j[unsure]]) <= limit
        return i[near], j[near]

    def distances(self, left: Rows, right: Rows) -> Float[Tensor, " _n"]:
        """Return the distance of each row of ``left`` to the same place of ``right``, float64."""
        parts = [
            (self.vectors[a].double() - self.vectors[b].double()).square_().sum(1).sqrt()
            for a, b in zip(left.split(2000), right.split(2000), strict=True)
        ]
        return torch.cat(parts).round(decimals=DECIMALS)


def close_pairs(space: Space, left: Rows, right: Rows, limit: float) -> Iterator[Pairs]:
    """Yield positions in ``left`` and ``right`` of the pairs not further than ``limit``."""
    if not len(left) or not len(right):
        return
    left_order = torch.argsort(space.key[left])
    right_order = torch.argsort(space.key[right])
    right_keys = space.key[right][right_order].contiguous()
    slack = 1e-6 * (1 + float(right_keys.abs().amax()))
    for strip in left_order.split(_STRIP):
        keys = space.key[left[strip]]
        edges = torch.stack([keys[0] - limit - slack, keys[-1] + limit + slack])
        low, high = torch.searchsorted(right_keys, edges).tolist()
        for window in right_order[low:high].split(_WINDOW):
            i, j = space.close(left[strip], right[window], limit)
            if len(i):
                yield strip[i], window[j]


def nearest_rows(
    space: Space, left: Rows, right: Rows, *, limit: float
) -> tuple[Int[Tensor, " _n_left"], Float[Tensor, " _n_left"]]:
    """Return for each row of ``left`` the position of the nearest of ``right``, and its distance.

    Ties go to the first of ``right``.

    Args:
        space: Where both live.
        left: Rows of the space.
        right: Rows of the space, at least one.
        limit: First radius, above 0; it doubles for those that have none inside.
    """
    place = torch.full((len(left),), len(right))
    distance = torch.full((len(left),), torch.inf, dtype=torch.float64)
    open_ = torch.arange(len(left))
    while len(open_):
        for i, j in close_pairs(space, left[open_], right, limit):
            rows, found = open_[i], space.distances(left[open_[i]], right[j])
            best = distance.scatter_reduce(0, rows, found, "amin")
            # A row that was beaten forgets its place; of equals the first place wins.
            place[best < distance] = len(right)
            distance = best
            wins = found == distance[rows]
            place.scatter_reduce_(0, rows[wins], j[wins], "amin")
        open_ = open_[torch.isinf(distance[open_])]
        limit *= 2
    return place, distance
