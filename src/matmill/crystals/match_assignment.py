"""Compiled: which site goes with which, at the smallest sum of squares, and whether that is sure.

Sites of one element are matched among themselves. Symmetric crystals have assignments that tie; a
tie is reported, because which of the tied ones pymatgen takes is left to rounding.

Loads numba on import, so import it late. Numba's files on disk notice changes of the file that a
kernel is in, not of those it calls: after an edit here touch `match_search` as well.
"""

import numpy as np
from numba import njit

FORBIDDEN = 1e20
TIE = 1e-9  # in squared lengths of order one: far above rounding, far below any real difference


@njit(cache=True, nogil=True, error_model="numpy")
def nearest_of_each(
    cost: np.ndarray, first: int, size: int, column: np.ndarray, taken: np.ndarray
) -> bool:
    """Give each site of a block its nearest; return whether that is the only best assignment.

    Args:
        cost: Squared distances, ``(n, largest block)``; `FORBIDDEN` where not allowed.
        first: First row of the block.
        size: Rows and columns of the block.
        column: Written: the column of each row, ``(n,)``.
        taken: Scratch of at least ``size``.
    """
    for j in range(size):
        taken[j] = -1
    for i in range(first, first + size):
        best, second, at = FORBIDDEN, FORBIDDEN, -1
        for j in range(size):
            value = cost[i, j]
            if value < best:
                best, second, at = value, best, j
            elif value < second:
                second = value
        if at < 0 or second - best < TIE or taken[at] >= 0:
            return False
        taken[at] = i
        column[i] = at
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def cheapest(
    cost: np.ndarray,
    first: int,
    size: int,
    column: np.ndarray,
    row_price: np.ndarray,
    column_price: np.ndarray,
    scratch: np.ndarray,
    reached: np.ndarray,
) -> int:
    """Find the assignment of a block with the smallest sum by shortest augmenting paths.

    Args:
        cost: As for `nearest_of_each`.
        first: First row of the block.
        size: Rows and columns of the block.
        column: Written: the column of each row, ``(n,)``.
        row_price: Scratch, ``(n,)``.
        column_price: Scratch, ``(n,)``.
        scratch: Integer scratch, ``(3, n)``.
        reached: Scratch, ``(n,)``.

    Returns:
        0 if there is none without a forbidden pair, 1 if there is one best, 2 if several tie.

    Source:
        Crouse, On implementing 2D rectangular assignment algorithms (2016), shortest paths.
    """
    owner, came_from, done = scratch[0], scratch[1], scratch[2]
    for j in range(size):
        owner[j] = -1
        column_price[j] = 0.0
        row_price[first + j] = 0.0
        column[first + j] = -1
    for start in range(first, first + size):
        for j in range(size):
            reached[j] = np.inf
            done[j] = 0
        row, so_far, end = start, 0.0, -1
        while end < 0:
            nearest, at = np.inf, -1
            for j in range(size):
                if done[j]:
                    continue
                if cost[row, j] < FORBIDDEN:
                    length = so_far + cost[row, j] - row_price[row] - column_price[j]
                    if length < reached[j]:
                        reached[j] = length
                        came_from[j] = row
                if reached[j] < nearest or (reached[j] == nearest and owner[j] < 0 and at >= 0):
                    nearest, at = reached[j], j
            if at < 0:
                return 0
            done[at] = 1
            so_far = nearest
            if owner[at] < 0:
                end = at
            else:
                row = owner[at]
        row_price[start] += so_far
        for j in range(size):
            if done[j]:
                if owner[j] >= 0:
                    row_price[owner[j]] += so_far - reached[j]
                column_price[j] -= so_far - reached[j]
        while True:
            row = came_from[end]
            owner[end] = row
            end, column[row] = column[row], end
            if row == start:
                break
    return 2 if _has_tie(cost, first, size, column, row_price, column_price, scratch) else 1


@njit(cache=True, nogil=True, error_model="numpy")
def _has_tie(
    cost: np.ndarray,
    first: int,
    size: int,
    column: np.ndarray,
    row_price: np.ndarray,
    column_price: np.ndarray,
    scratch: np.ndarray,
) -> bool:
    """Return whether rows can pass their columns round a ring at no cost.

    Rows that can hand on to nobody are struck out until none is left, or a ring is.
    """
    owner, left = scratch[0], scratch[1]
    for i in range(size):
        left[i] = 1
    changed, n_left = True, size
    while changed and n_left:
        changed = False
        for i in range(size):
            if not left[i]:
                continue
            row, alive = first + i, False
            for j in range(size):
                if j == column[row] or cost[row, j] >= FORBIDDEN or not left[owner[j] - first]:
                    continue
                if cost[row, j] - row_price[row] - column_price[j] < TIE:
                    alive = True
                    break
            if not alive:
                left[i] = 0
                n_left -= 1
                changed = True
    return n_left > 0
