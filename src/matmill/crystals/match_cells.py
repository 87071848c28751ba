"""Compiled: whether a crystal may have a smaller cell, and the shortest vectors of a lattice.

pymatgen's search for a primitive cell is slow and mostly finds nothing. The test here needs only
what that search needs first, so it never misses a crystal that pymatgen would make smaller.

Loads numba on import, so import it late; see `match_lattices` on its files on disk.
"""

import numpy as np
from numba import njit

from matmill.crystals.match_lattices import dot, lll_reduce

_SLACK = 1.0 + 1e-9  # tests pass a little early, so that rounding cannot make them fail


@njit(cache=True, nogil=True, error_model="numpy")
def _close(d: np.ndarray, tolerance: np.ndarray, factor: float) -> bool:
    inside = True
    for k in range(3):
        inside &= abs(d[k] - np.rint(d[k])) < tolerance[k] * factor * _SLACK
    return inside


@njit(cache=True, nogil=True, error_model="numpy")
def _steps(frac: np.ndarray, block: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Return the steps between sites of the rarest element that take every site near a like one."""
    n = len(frac)
    rarest = 0
    for i in range(n):
        if block[i, 1] - block[i, 0] < block[rarest, 1] - block[rarest, 0]:
            rarest = i
    first, last = block[rarest]
    steps, d = np.empty((last - first, 3)), np.empty(3)
    kept = 0
    for s in range(first, last):
        for k in range(3):
            steps[kept, k] = frac[s, k] - frac[first, k]
        good = True
        for i in range(n):
            found = False
            for j in range(block[i, 0], block[i, 1]):
                for k in range(3):
                    d[k] = frac[j, k] - frac[i, k] - steps[kept, k]
                if _close(d, tolerance, 2.0):
                    found = True
                    break
            if not found:
                good = False
                break
        kept += good
    return steps[:kept]


@njit(cache=True, nogil=True, error_model="numpy")
def _may_hold(
    frac: np.ndarray,
    block: np.ndarray,
    lattice: np.ndarray,
    tolerance: float,
    matrix: np.ndarray,
    inverse: np.ndarray,
    size: int,
) -> bool:
    """Return whether each site has about ``size`` images in the smaller cell, not its neighbours'.

    Counted twice, with tolerances a little wider and a little narrower, since at one of them
    rounding decides.
    """
    n = len(frac)
    small, edge, old = np.empty(3), np.empty(3), np.empty(3)
    for k in range(3):
        square, whole = 0.0, 0.0
        for m in range(3):
            x = 0.0
            for q in range(3):
                x += inverse[k, q] * lattice[q, m]
            square += x * x
            whole += lattice[k, m] ** 2
        small[k] = tolerance / np.sqrt(square)
        edge[k] = 2.0 * tolerance / np.sqrt(whole)
    for i in range(n):
        fewest, most = 0, 0
        for j in range(block[i, 0], block[i, 1]):
            neighbours, surely = True, True
            for k in range(3):
                d = frac[j, k] - frac[i, k]
                old[k] = d
                d = abs(d - np.rint(d))
                if d > edge[k] / _SLACK:
                    neighbours = False
                if d > edge[k] * _SLACK:
                    surely = False
            if neighbours and i != j:
                continue
            wide, narrow = True, True
            for k in range(3):
                d = old[0] * matrix[0, k] + old[1] * matrix[1, k] + old[2] * matrix[2, k]
                d = abs(d - np.rint(d))
                wide &= d < small[k] * _SLACK
                narrow &= d < small[k] / _SLACK
            most += wide
            fewest += narrow and (i == j or not surely)
        if not fewest <= size <= most:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def may_be_smaller(
    frac: np.ndarray, block: np.ndarray, lattice: np.ndarray, tolerance: float, units: int
) -> bool:
    """Return False only if pymatgen's ``get_primitive_structure`` finds no smaller cell.

    Args:
        frac: Fractional coordinates, sorted by element, ``(n, 3)``.
        block: First and one past the last site of each site's element, ``(n, 2)``.
        lattice: Row vectors in Å.
        tolerance: How far in Å images may be from where they should be.
        units: Greatest common divisor of the numbers of sites per element.
    """
    if units < 2:
        return False
    edges, d = np.empty(3), np.empty(3)
    for k in range(3):
        edges[k] = tolerance / np.sqrt(dot(lattice[k], lattice[k]))
    steps = _steps(frac, block, edges)
    matrix, inverse = np.zeros((3, 3)), np.zeros((3, 3))
    for size in range(2, units + 1):
        if units % size:
            continue
        for a in range(1, size + 1):
            if size % a:
                continue
            for e in range(1, size // a + 1):
                if (size // a) % e:
                    continue
                g = size // a // e
                for b in range(a):
                    for c in range(a):
                        for f in range(e):
                            matrix[0, 0], matrix[0, 1], matrix[0, 2] = a, b, c
                            matrix[1, 1], matrix[1, 2], matrix[2, 2] = e, f, g
                            inverse[0, 0], inverse[1, 1], inverse[2, 2] = 1 / a, 1 / e, 1 / g
                            inverse[0, 1] = -b / (a * e)
                            inverse[1, 2] = -f / (e * g)
                            inverse[0, 2] = (b * f - c * e) / (a * e * g)
                            rows = 0
                            for k in range(3):
                                for s in range(len(steps)):
                                    for m in range(3):
                                        d[m] = inverse[k, m] - steps[s, m]
                                    if _close(d, edges, 1.0):
                                        rows += 1
                                        break
                            if rows == 3 and _may_hold(
                                frac, block, lattice, tolerance, matrix, inverse, size
                            ):
                                return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def successive_minima(lattice: np.ndarray) -> np.ndarray:
    """Return the lengths of the three shortest independent lattice vectors, ascending.

    Args:
        lattice: Row vectors of any cell, ``(3, 3)``.
    """
    basis, change = lattice.copy(), np.empty((3, 3))
    lll_reduce(basis, change)
    found, kept, v = np.empty(3), np.zeros((3, 3)), np.empty(3)
    for rank in range(3):
        found[rank] = np.inf
        for a in range(-3, 4):
            for b in range(-3, 4):
                for c in range(-3, 4):
                    for m in range(3):
                        v[m] = a * basis[0, m] + b * basis[1, m] + c * basis[2, m]
                    length = np.sqrt(dot(v, v))
                    if length < found[rank] and _is_independent(kept, rank, v, length):
                        found[rank] = length
                        for m in range(3):
                            kept[rank, m] = v[m]
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _is_independent(kept: np.ndarray, rank: int, v: np.ndarray, length: float) -> bool:
    """Return whether ``v`` lies off the point, line or plane of the first ``rank`` vectors."""
    if rank == 0:
        return length > 0.0
    normal = np.empty(3)
    for k in range(3):
        p, q = (k + 1) % 3, (k + 2) % 3
        other = v if rank == 1 else kept[1]
        normal[k] = kept[0, p] * other[q] - kept[0, q] * other[p]
    area = np.sqrt(dot(normal, normal))
    if rank == 1:
        return area > 1e-5 * length * np.sqrt(dot(kept[0], kept[0]))
    return abs(dot(normal, v)) > 1e-7 * area * length
