"""The greedy choice of MD-HIT, in blocks: keep a row if it is far from all that are kept."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from matmill.data.redundancy.spaces import Rows, Space, close_pairs
from matmill.progress import Event, OnEvent, ignore

_BLOCK = 4096


def keep_far(
    space: Space, order: Rows, threshold: float, *, block: int = _BLOCK, on_event: OnEvent = ignore
) -> Int[Tensor, " n_kept"]:
    """Return the rows that are kept, in the order in which they were.

    The same rows as the plain loop: in ``order``, a row is kept when its smallest distance to the
    rows kept before it exceeds the threshold.

    Args:
        space: Where the rows live.
        order: All rows, in the order in which they are tried.
        threshold: At least 0; with 0 only exact repeats are dropped.
        block: Rows that are tried together. It changes speed and memory, never the answer.
        on_event: Told about progress.
    """
    kept = order[:0]
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        covered = torch.zeros(len(rows), dtype=torch.bool)
        for i, _ in close_pairs(space, rows, kept, threshold):
            covered[i] = True
        kept = torch.cat([kept, _first_come(space, rows[~covered], threshold)])
        on_event(
            Event(
                stage="reduce",
                done=min(start + block, len(order)),
                total=len(order),
                values={"kept": len(kept)},
            )
        )
    return kept


def _first_come(space: Space, rows: Tensor, threshold: float) -> Tensor:
    """Return the rows of a block that are kept, none of which is near to an earlier block."""
    earlier, later = [rows[:0]], [rows[:0]]
    for i, j in close_pairs(space, rows, rows, threshold):
        ahead = i < j
        earlier.append(i[ahead])
        later.append(j[ahead])
    first, second = torch.cat(earlier).numpy(), torch.cat(later).numpy()
    by_first = np.argsort(first, kind="stable")
    second = second[by_first]
    edges = np.searchsorted(first[by_first], np.arange(len(rows) + 1))
    is_kept = np.ones(len(rows), dtype=bool)
    for row in range(len(rows)):
        if is_kept[row]:
            is_kept[second[edges[row] : edges[row + 1]]] = False
    return rows[torch.from_numpy(is_kept)]
