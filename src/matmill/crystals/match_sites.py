"""Compiled: where the sites of one crystal fall on those of another, for one basis and translation.

Comparisons have pymatgen's operators. What rounding could decide is reported: a comparison too
close to call, periodic images or assignments that tie.

Loads numba on import, so import it late; see `match_lattices` on its files on disk.
"""

import numpy as np
from numba import njit

from matmill.crystals.match_assignment import FORBIDDEN, TIE, cheapest, nearest_of_each
from matmill.crystals.match_lattices import NEAR, dot


@njit(cache=True, nogil=True, error_model="numpy")
def box_test(
    ours: np.ndarray,
    theirs: np.ndarray,
    shift: np.ndarray,
    block: np.ndarray,
    box: np.ndarray,
) -> tuple[int, int]:
    """Return whether each site has one of its element in the box around it, and the work done.

    Args:
        ours: Fractional coordinates that may be chosen, ``(n, 3)``.
        theirs: Fractional coordinates that look for one, ``(n, 3)``; ``shift`` is added.
        shift: Translation, ``(3,)``.
        block: First and one past the last site of the element of each site, ``(n, 2)``.
        box: Largest difference along each axis, ``(3,)``.

    Returns:
        1 or 0, or 2 where it depends on a comparison too close to call; and how many sites were
        compared.
    """
    work, answer = 0, 1
    for i in range(len(theirs)):
        x, y, z = theirs[i, 0] + shift[0], theirs[i, 1] + shift[1], theirs[i, 2] + shift[2]
        found = 0
        for j in range(block[i, 0], block[i, 1]):
            work += 1
            d = x - ours[j, 0]
            over = abs(d - np.rint(d)) - box[0]
            if over > NEAR:
                continue
            d = y - ours[j, 1]
            over = max(over, abs(d - np.rint(d)) - box[1])
            if over > NEAR:
                continue
            d = z - ours[j, 2]
            over = max(over, abs(d - np.rint(d)) - box[2])
            if over <= -NEAR:
                found = 1
                break
            if over <= NEAR:
                found = 2
        if found == 0:
            return 0, work
        if found == 2:
            answer = 2
    return answer, work


@njit(cache=True, nogil=True, error_model="numpy")
def shortest(
    step: np.ndarray, basis: np.ndarray, safe: float, out: np.ndarray
) -> tuple[float, bool]:
    """Write the shortest of the 27 images of a step; return its square and whether others tie.

    Args:
        step: Fractional step between points inside the cell, each part in (-1, 1), ``(3,)``.
        basis: Row vectors of an LLL-reduced cell.
        safe: Square of half the smallest plane spacing: what is shorter is the shortest.
        out: Written, ``(3,)``.
    """
    square = 0.0
    for k in range(3):
        x = 0.0
        for m in range(3):
            x += (step[m] - np.rint(step[m])) * basis[m, k]
        out[k] = x
        square += x * x
    if square < safe:
        return square, False
    best, second = np.inf, np.inf
    for a in range(-1, 2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                fa, fb, fc = step[0] + a, step[1] + b, step[2] + c
                x = fa * basis[0, 0] + fb * basis[1, 0] + fc * basis[2, 0]
                y = fa * basis[0, 1] + fb * basis[1, 1] + fc * basis[2, 1]
                z = fa * basis[0, 2] + fb * basis[1, 2] + fc * basis[2, 2]
                square = x * x + y * y + z * z
                if square < best:
                    best, second = square, best
                    out[0], out[1], out[2] = x, y, z
                elif square < second:
                    second = square
    return best, second - best < TIE


@njit(cache=True, nogil=True, error_model="numpy")
def distances(
    ours: np.ndarray,
    theirs: np.ndarray,
    shift: np.ndarray,
    block: np.ndarray,
    basis: np.ndarray,
    box: np.ndarray,
    safe: float,
    cost: np.ndarray,
    vectors: np.ndarray,
    tied: np.ndarray,
) -> tuple[bool, bool]:
    """Write the shortest vectors between sites of one element.

    Args:
        ours: LLL coordinates of the sites to be taken, in [0, 1), ``(n, 3)``.
        theirs: LLL coordinates of the sites that take one, ``(n, 3)``.
        shift: Translation of ``theirs`` in LLL coordinates.
        block: As for `box_test`.
        basis: LLL-reduced row vectors.
        box: Largest difference along each LLL axis.
        safe: As for `shortest`.
        cost: Written: squared lengths, `FORBIDDEN` outside the box, ``(n, largest block)``.
        vectors: Written: from ``theirs`` to ``ours``, ``(n, largest block, 3)``.
        tied: Written: whether another image is as near, ``(n, largest block)``.

    Returns:
        Whether every site has a partner, and whether a comparison with the box was close.
    """
    close = False
    step = np.empty(3)
    point = np.empty(3)
    for i in range(len(theirs)):
        for k in range(3):
            x = theirs[i, k] + shift[k]
            point[k] = x - np.floor(x)
        alone = True
        for j in range(block[i, 0], block[i, 1]):
            at = j - block[i, 0]
            inside = True
            for k in range(3):
                step[k] = ours[j, k] - point[k]
                over = abs(step[k] - np.rint(step[k])) - box[k]
                close |= abs(over) < NEAR
                if over > 0.0:
                    inside = False
                    break
            if not inside:
                cost[i, at] = FORBIDDEN
                continue
            alone = False
            cost[i, at], tied[i, at] = shortest(step, basis, safe, vectors[i, at])
        if alone:
            return False, close
    return True, close


@njit(cache=True, nogil=True, error_model="numpy")
def deviation(vectors: np.ndarray, column: np.ndarray, length: float, use_rms: bool) -> float:
    """Return the largest or the root-mean-square of the chosen vectors about their mean.

    Args:
        vectors: As `distances` writes them.
        column: Which one each site takes, ``(n,)``.
        length: Unit of the result.
        use_rms: Which of the two.
    """
    n = len(column)
    mean = np.zeros(3)
    for i in range(n):
        for k in range(3):
            mean[k] += vectors[i, column[i], k]
    for k in range(3):
        mean[k] /= n
    total, most = 0.0, 0.0
    for i in range(n):
        square = 0.0
        for k in range(3):
            square += (vectors[i, column[i], k] - mean[k]) ** 2
        total += square
        most = max(most, square)
    return np.sqrt(total / n if use_rms else most) / length


@njit(cache=True, nogil=True, error_model="numpy")
def blocks_of(numbers: np.ndarray) -> np.ndarray:
    """Return first and one past the last site of each site's element; sites are sorted by it."""
    n = len(numbers)
    block = np.empty((n, 2), dtype=np.int64)
    start = 0
    for i in range(1, n + 1):
        if i == n or numbers[i] != numbers[start]:
            for k in range(start, i):
                block[k, 0], block[k, 1] = start, i
            start = i
    return block


@njit(cache=True, nogil=True, error_model="numpy")
def assign_sites(
    cost: np.ndarray,
    tied: np.ndarray,
    block: np.ndarray,
    column: np.ndarray,
    reach: np.ndarray,
    prices: np.ndarray,
    scratch: np.ndarray,
) -> tuple[bool, bool]:
    """Find the best assignment, and between which lengths the vectors lie that could tie with it.

    Args:
        cost: As `distances` writes it.
        tied: As `distances` writes it.
        block: As for `box_test`.
        column: Written: the partner of each site, ``(n,)``.
        reach: Written: shortest and longest vector a site may have instead, -1 where its vector is
            the only one, ``(n, 2)``.
        prices: Scratch, ``(3, n)``.
        scratch: Integer scratch, ``(3, n)``.

    Returns:
        Whether there is an assignment, and whether each site simply takes its nearest.
    """
    n, i, all_nearest = len(column), 0, True
    while i < n:
        stop = block[i, 1]
        outcome = 1
        if not nearest_of_each(cost, i, stop - i, column, scratch[0]):
            all_nearest = False
            outcome = cheapest(cost, i, stop - i, column, prices[0], prices[1], scratch, prices[2])
            if outcome == 0:
                return False, False
        for row in range(i, stop):
            at = column[row]
            reach[row, 0] = reach[row, 1] = np.sqrt(cost[row, at]) if tied[row, at] else -1.0
            if outcome == 2:
                reach[row, 0] = reach[row, 1] = np.sqrt(cost[row, at])
                for j in range(stop - i):
                    tight = cost[row, j] - prices[0, row] - prices[1, j] < TIE
                    if tight and cost[row, j] < FORBIDDEN:
                        reach[row, 0] = min(reach[row, 0], np.sqrt(cost[row, j]))
                        reach[row, 1] = max(reach[row, 1], np.sqrt(cost[row, j]))
        i = stop
    return True, all_nearest


@njit(cache=True, nogil=True, error_model="numpy")
def least_deviation(
    vectors: np.ndarray,
    cost: np.ndarray,
    column: np.ndarray,
    reach: np.ndarray,
    length: float,
    use_rms: bool,
) -> float:
    """Return what `deviation` cannot fall below, whichever of the tied vectors are taken.

    Ties leave the sum of squares alone and change the mean; and two displacements that differ by d
    cannot both be closer to their mean than d/2.
    """
    n = len(column)
    fixed, loose, total = np.zeros(3), 0.0, 0.0
    for i in range(n):
        total += cost[i, column[i]]
        if reach[i, 0] >= 0.0:
            loose += reach[i, 1]
        else:
            for k in range(3):
                fixed[k] += vectors[i, column[i], k]
    mean = (np.sqrt(dot(fixed, fixed)) + loose) / n
    least = max(0.0, total / n - mean * mean)
    if use_rms:
        return np.sqrt(least) / length
    for i in range(n):
        for j in range(i):
            if reach[i, 0] >= 0.0 and reach[j, 0] >= 0.0:
                gap = max(reach[i, 0] - reach[j, 1], reach[j, 0] - reach[i, 1])
            elif reach[i, 0] < 0.0 and reach[j, 0] < 0.0:
                for k in range(3):
                    fixed[k] = vectors[i, column[i], k] - vectors[j, column[j], k]
                gap = np.sqrt(dot(fixed, fixed))
            else:
                a, b = (i, j) if reach[i, 0] >= 0.0 else (j, i)
                own = np.sqrt(cost[b, column[b]])
                gap = max(reach[a, 0] - own, own - reach[a, 1])
            if gap > 0.0:
                least = max(least, 0.25 * gap * gap)
    return np.sqrt(least) / length
