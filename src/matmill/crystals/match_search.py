"""Compiled: the search over bases and translations, for one pair and for many.

The steps and the operators are those of pymatgen's StructureMatcher (scaled volumes, primitive
cells, no supercells): bases of the first lattice that look like the second, translations that
bring a site of the rarest element onto another, a box test, and for what survives the best
assignment of sites. Where rounding could decide the outcome the pair is `UNSURE`, and pymatgen
itself must be asked. Cells have unit volume per site, so nothing is scaled here.

Loads numba on import, so import it late.
"""

import numpy as np
from numba import njit

from matmill.crystals.match_lattices import (
    NEAR,
    bases_like,
    cell_from,
    cell_parameters,
    invert,
    lll_reduce,
    times,
)
from matmill.crystals.match_sites import (
    assign_sites,
    blocks_of,
    box_test,
    deviation,
    distances,
    least_deviation,
)

DIFFERENT, SAME, UNSURE, TIMEOUT = 0, 1, 2, 3

NEAR_VALUE = 1e-6
"""A deciding value this close to ``stol`` is left to pymatgen."""

PYMATGEN_COSTS = 50.0
"""Roughly how much longer pymatgen takes; what is unsure after this share of the effort is given
up, since asking it would take too long."""

_PERFECT = 1e-5  # pymatgen looks for no smaller rms below this


@njit(cache=True, nogil=True, error_model="numpy")
def compare(
    lattice: np.ndarray,
    frac: np.ndarray,
    other_lattice: np.ndarray,
    other_frac: np.ndarray,
    numbers: np.ndarray,
    anchor: int,
    ltol: float,
    stol: float,
    angle_tol: float,
    use_rms: bool,
    effort: float,
) -> tuple[int, float, float]:
    """Compare two reduced crystals that have as many sites of each element.

    Args:
        lattice: Row vectors of the first, unit volume per site.
        frac: Its sites, sorted by element, ``(n, 3)``.
        other_lattice: Row vectors of the second.
        other_frac: Its sites, in the same order of elements.
        numbers: Atomic numbers of either, ``(n,)``.
        anchor: The site of the second that is brought onto sites of the first.
        ltol: Relative tolerance of edges.
        stol: Tolerance of sites in units of (volume / site)^(1/3).
        angle_tol: Tolerance of angles in radians.
        use_rms: Look for the smallest rms, not for any largest displacement below ``stol``.
        effort: Site comparisons after which to give up.

    Returns:
        `DIFFERENT`, `SAME`, `UNSURE` or `TIMEOUT`; the smallest value found (inf for none); and the
        effort spent.
    """
    n = len(numbers)
    target = np.empty(6)
    cell_parameters(other_lattice, target)
    bases, trouble = bases_like(lattice, target, ltol, angle_tol, effort)
    if trouble:
        return (UNSURE if trouble == 1 else TIMEOUT), np.inf, 0.0
    if len(bases) == 0:
        return DIFFERENT, np.inf, 0.0
    block = blocks_of(numbers)
    widest, n_loose = 1, 0
    for i in range(n):
        widest = max(widest, block[i, 1] - block[i, 0])
    mine, shift, lll_shift = np.empty(6), np.empty(3), np.empty(3)
    box, lll_box = np.empty(3), np.empty(3)
    scale, cell, mean = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    inverse, change, back = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    ours, ours_lll, theirs_lll = np.empty((n, 3)), np.empty((n, 3)), np.empty((n, 3))
    cost, vectors = np.empty((n, widest)), np.empty((n, widest, 3))
    tied = np.zeros((n, widest), dtype=np.bool_)
    column = np.empty(n, dtype=np.int64)
    reach, prices, scratch = np.empty((n, 2)), np.empty((3, n)), np.empty((3, n), dtype=np.int64)
    unsure, close_cell = False, False
    best, doubtful, spent, safe = np.inf, np.inf, 0.0, 0.0
    for b in range(len(bases)):
        for i in range(3):
            for k in range(3):
                scale[i, k] = bases[b, i, k]
        times(scale, lattice, cell)
        cell_parameters(cell, mine)
        for k in range(6):
            mine[k] = 0.5 * (mine[k] + target[k])
        if not cell_from(mine, mean):
            unsure = True
            continue
        volume = abs(invert(mean, inverse))
        length = (volume / n) ** (1.0 / 3.0)
        _widths(inverse, 2.0 * stol * length, box)
        invert(scale, back)
        times(frac, back, ours)
        is_reduced = False
        for s in range(block[anchor, 0], block[anchor, 1]):
            for k in range(3):
                shift[k] = ours[s, k] - other_frac[anchor, k]
            passed, work = box_test(ours, other_frac, shift, block, box)
            spent += work
            if spent > effort:
                return TIMEOUT, best, spent
            if passed == 0:
                continue
            if not is_reduced:
                is_reduced = True
                close_cell = lll_reduce(mean, change)
                invert(change, back)
                times(ours, back, ours_lll)
                for i in range(n):
                    for k in range(3):
                        ours_lll[i, k] -= np.floor(ours_lll[i, k])
                times(other_frac, back, theirs_lll)
                invert(mean, inverse)
                _widths(inverse, 1.0, lll_box)
                safe = 0.25 * (1.0 - NEAR) / max(lll_box[0], lll_box[1], lll_box[2]) ** 2
                for k in range(3):
                    lll_box[k] *= 2.0 * stol * length
            for k in range(3):
                lll_shift[k] = shift[0] * back[0, k] + shift[1] * back[1, k] + shift[2] * back[2, k]
            spent += 4.0 * n * widest
            paired, close = distances(
                ours_lll,
                theirs_lll,
                lll_shift,
                block,
                mean,
                lll_box,
                safe,
                cost,
                vectors,
                tied,
            )
            all_nearest = False
            if paired:
                spent += 1.0 * n * widest * widest
                paired, all_nearest = assign_sites(
                    cost, tied, block, column, reach, prices, scratch
                )
            if not paired:
                if close or close_cell:
                    doubtful = 0.0
                continue
            value = deviation(vectors, column, length, use_rms)
            least = value
            n_loose = 0
            for i in range(n):
                n_loose += reach[i, 0] >= 0.0
            if n_loose:
                least = least_deviation(vectors, cost, column, reach, length, use_rms)
            if close or close_cell:
                # Another LLL cell has another box. It changes nothing if all take their nearest,
                # and these are nearer than anything outside of any box can be.
                far = 0.0
                for i in range(n):
                    far = max(far, cost[i, column[i]])
                if not all_nearest or far >= (2.0 * stol * length) ** 2 * (1.0 - NEAR):
                    least = 0.0
            if passed == 2 or least < value:
                doubtful = min(doubtful, least)
            else:
                best = min(best, value)
                if use_rms and best < min(_PERFECT, stol - NEAR_VALUE) and not unsure:
                    return SAME, best, spent
                if not use_rms and best < stol - NEAR_VALUE:
                    return SAME, best, spent
    if use_rms:
        unsure = unsure or doubtful < min(best - NEAR, stol + NEAR_VALUE)
    else:
        unsure = unsure or doubtful < stol + NEAR_VALUE
    if unsure or abs(best - stol) < NEAR_VALUE:
        return UNSURE, best, spent
    return (SAME if best < stol else DIFFERENT), best, spent


@njit(cache=True, nogil=True, error_model="numpy")
def _widths(inverse: np.ndarray, factor: float, out: np.ndarray) -> None:
    """Write ``factor`` over the plane spacings of the cell with this inverse."""
    for k in range(3):
        square = inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2
        out[k] = factor * np.sqrt(square)


@njit(cache=True, nogil=True, error_model="numpy")
def compare_pairs(
    first: tuple,
    second: tuple,
    pairs: np.ndarray,
    tolerance: np.ndarray,
    use_rms: bool,
    effort: float,
    stop_at_first: bool,
    status: np.ndarray,
    values: np.ndarray,
) -> int:
    """Compare crystals of one set with crystals of another, pair by pair.

    Args:
        first: What `ReducedCrystals.arrays` returns of the crystals whose cells are mapped.
        second: The same of those that they are mapped on.
        pairs: Crystal of the first set, crystal of the second, ``(n_pairs, 2)``.
        tolerance: ltol, stol, angle_tol in radians.
        use_rms: As for `compare`.
        effort: As for `compare`.
        stop_at_first: Stop after the first pair that is not `DIFFERENT`.
        status: Written, ``(n_pairs,)``.
        values: Written, ``(n_pairs,)``.

    Returns:
        How many pairs were compared.
    """
    lattice, frac, numbers, start, minima, _, _ = first
    other_lattice, other_frac, other_numbers, other_start, _, other_edges, other_anchor = second
    ltol, stol, angle_tol = tolerance[0], tolerance[1], tolerance[2]
    for p in range(len(pairs)):
        i, j = pairs[p]
        status[p], values[p] = DIFFERENT, np.inf
        a, b = start[i], start[i + 1]
        c, d = other_start[j], other_start[j + 1]
        possible = b - a == d - c and b > a
        for k in range(3):
            # Three edges of some basis of the first lattice are this short, so its minima are.
            possible &= minima[i, k] <= (1.0 + ltol) * other_edges[j, k] + 1e-5
        if possible:
            for k in range(b - a):
                if numbers[a + k] != other_numbers[c + k]:
                    possible = False
                    break
        if not possible:
            continue
        status[p], values[p], spent = compare(
            lattice[i],
            frac[a:b],
            other_lattice[j],
            other_frac[c:d],
            numbers[a:b],
            other_anchor[j],
            ltol,
            stol,
            angle_tol,
            use_rms,
            effort,
        )
        if status[p] == UNSURE and spent > effort / PYMATGEN_COSTS:
            status[p] = TIMEOUT
        if stop_at_first and status[p] != DIFFERENT:
            return p + 1
    return len(pairs)
