"""Which noise belongs to which atom: minimum-cost pairing of atoms that are interchangeable.

Independent noise makes paths of atoms cross, so that the network has to learn an average over
them. Pairing each atom with nearby noise straightens the paths. It must not change what the noise
looks like at clock 0, so only atoms that cannot be told apart there trade places.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.periodic import shortest_step

Coupling = Literal["none", "permutation"]

# More than any sum of squared steps in a cell of 64 atoms (64 * 3 / 4), so that atoms of different
# kinds never trade places.
_FORBIDDEN = 1e3


def paired_noise(
    noise: Float[Tensor, "b n 3"], sites: Float[Tensor, "b n 3"], kind: Int[Tensor, "b n"]
) -> Float[Tensor, "b n 3"]:
    """Permute the noise of each crystal among atoms of one kind, for the least squared step.

    Args:
        noise: Fractional coordinates to hand out.
        sites: Fractional coordinates of the crystal.
        kind: Atoms with equal numbers are interchangeable.

    Returns:
        The rows of ``noise`` in another order.

    Source:
        Tong et al., Improving and generalizing flow-based generative models with minibatch
        optimal transport (2023); equivariant flow matching (Klein et al. 2023) for permutations.
    """
    cost = shortest_step(noise[:, None], sites[:, :, None]).square().sum(-1).double()
    cost = cost + _FORBIDDEN * (kind[:, :, None] != kind[:, None])
    order = torch.from_numpy(assign(cost.cpu().numpy())).to(noise.device)
    return noise.gather(1, order[:, :, None].expand_as(noise))


def interchangeable(
    z: Int[Tensor, "b n"], type_clock: Float[Tensor, "b n"], site_clock: Float[Tensor, "b n"]
) -> Int[Tensor, "b n"]:
    """Return a kind for each atom: 0 for atoms that start nameless, else the element.

    Where the element appears along with the position (equal clocks) every atom is masked at
    clock 0, and all of them may trade places. Where the elements are known before the positions,
    or come at a pace of their own, only atoms of one element may. The kind depends on the clocks'
    law alone and not on the masks of the moment, so that the paths of one crystal fit together.
    """
    return torch.where(type_clock == site_clock, 0, z)


@dataclass
class _Search:
    """Duals and matching of all problems; rows are atoms, columns are noise."""

    u: np.ndarray
    v: np.ndarray
    column_of: np.ndarray
    row_of: np.ndarray


def assign(cost: np.ndarray) -> np.ndarray:
    """Solve many assignment problems of one size exactly.

    Shortest augmenting paths, one row after the other, over all problems at once.

    Args:
        cost: ``(n_problems, n, n)``, finite.

    Returns:
        The column of each row, ``(n_problems, n)``, of least total cost.

    Source:
        Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear
        assignment problems (1987).
    """
    b, n, _ = cost.shape
    free = np.full((b, n), -1, dtype=np.int64)
    search = _Search(
        u=np.zeros((b, n)), v=np.zeros((b, n)), column_of=free.copy(), row_of=free.copy()
    )
    for row in range(n):
        _augment(cost, search, row)
    return search.column_of


def _augment(cost: np.ndarray, search: _Search, row: int) -> None:
    """Match one more row in every problem."""
    b, n, _ = cost.shape
    every = np.arange(b)
    length = np.full((b, n), np.inf)
    closed = np.zeros((b, n), dtype=bool)
    came_from = np.full((b, n), -1, dtype=np.int64)
    end = np.full(b, -1, dtype=np.int64)
    total = np.zeros(b)
    live, at = every, np.full(b, row)
    while len(live):
        through = (total[live] - search.u[live, at])[:, None] + cost[live, at] - search.v[live]
        known, is_closed = length[live], closed[live]
        better = (through < known) & ~is_closed
        known = np.where(better, through, known)
        length[live] = known
        came_from[live] = np.where(better, at[:, None], came_from[live])
        nearest = np.where(is_closed, np.inf, known).argmin(1)
        total[live] = length[live, nearest]
        closed[live, nearest] = True
        at = search.row_of[live, nearest]
        done = at < 0
        end[live[done]] = nearest[done]
        live, at = live[~done], at[~done]
    slack = np.where(closed, total[:, None] - length, 0.0)
    problem, column = np.nonzero(closed & (search.row_of >= 0))
    search.u[problem, search.row_of[problem, column]] += slack[problem, column]
    search.u[:, row] += total
    search.v -= slack
    # Walk back along the path and flip it.
    live, column = every, end
    while len(live):
        source = came_from[live, column]
        search.row_of[live, column] = source
        before = search.column_of[live, source]
        search.column_of[live, source] = column
        more = source != row
        live, column = live[more], before[more]
