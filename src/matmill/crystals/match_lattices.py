"""Compiled lattice work of the matcher: bases that look alike, mean cells, LLL reduction.

Comparisons have pymatgen's operators. One that rounding could decide is reported as close.

Loads numba on import, so import it late. Numba's files on disk notice changes of the file that a
kernel is in, not of those it calls: after an edit here touch `match_search` as well.
"""

import numpy as np
from numba import njit

NEAR = 1e-9  # relative: far above rounding, far below any difference that means something
_MOST_VECTORS, _MOST_PAIRS, _MOST_BASES = 2e6, 1e8, 1e6  # what fits into memory


@njit(cache=True, nogil=True, error_model="numpy")
def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Return the scalar product of two vectors of three."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, nogil=True, error_model="numpy")
def invert(m: np.ndarray, out: np.ndarray) -> float:
    """Write the inverse of a 3 x 3 matrix and return its determinant."""
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        for p in range(3):
            q, r = (p + 1) % 3, (p + 2) % 3
            out[p, i] = m[j, q] * m[k, r] - m[j, r] * m[k, q]
    det = m[0, 0] * out[0, 0] + m[0, 1] * out[1, 0] + m[0, 2] * out[2, 0]
    if det != 0.0:
        for i in range(3):
            for p in range(3):
                out[i, p] /= det
    return det


@njit(cache=True, nogil=True, error_model="numpy")
def times(points: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Write row vectors times a 3 x 3 matrix."""
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for k in range(3):
            out[i, k] = x * matrix[0, k] + y * matrix[1, k] + z * matrix[2, k]


@njit(cache=True, nogil=True, error_model="numpy")
def cell_parameters(m: np.ndarray, out: np.ndarray) -> None:
    """Write a, b, c, alpha, beta, gamma (radians) of row vectors."""
    for i in range(3):
        out[i] = np.sqrt(dot(m[i], m[i]))
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        cosine = dot(m[j], m[k]) / (out[j] * out[k])
        out[3 + i] = np.arccos(max(-1.0, min(1.0, cosine)))


@njit(cache=True, nogil=True, error_model="numpy")
def cell_from(p: np.ndarray, out: np.ndarray) -> bool:
    """Write row vectors, c along z and a in the xz plane; False if the cell cannot exist."""
    cos_a, cos_b, cos_g = np.cos(p[3]), np.cos(p[4]), np.cos(p[5])
    sin_a, sin_b = np.sin(p[3]), np.sin(p[4])
    star = (cos_a * cos_b - cos_g) / (sin_a * sin_b)
    if not -1.0 + NEAR < star < 1.0 - NEAR:
        return False
    angle = np.arccos(star)
    out[0, 1] = out[2, 0] = out[2, 1] = 0.0
    out[0, 0], out[0, 2] = p[0] * sin_b, p[0] * cos_b
    out[1, 0] = -p[1] * sin_a * np.cos(angle)
    out[1, 1] = p[1] * sin_a * np.sin(angle)
    out[1, 2] = p[1] * cos_a
    out[2, 2] = p[2]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def lll_reduce(basis: np.ndarray, change: np.ndarray) -> bool:
    """Reduce row vectors in place (Lovász constant 3/4); return whether a step was a close call.

    ``basis_after = change @ basis_before``.

    Source:
        Lenstra, Lenstra, Lovász, Factoring polynomials with rational coefficients (1982).
    """
    across, ortho, norm = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for m in range(3):
            change[i, m] = 1.0 if i == m else 0.0
    close, k, is_fresh = False, 1, True
    while k < 3:
        if is_fresh:
            is_fresh = False
            for i in range(3):
                for m in range(3):
                    ortho[i, m] = basis[i, m]
                for j in range(i):
                    across[i, j] = dot(basis[i], ortho[j]) / norm[j]
                    for m in range(3):
                        ortho[i, m] -= across[i, j] * ortho[j, m]
                norm[i] = dot(ortho[i], ortho[i])
        for i in range(k - 1, -1, -1):
            q = np.rint(across[k, i])
            close |= abs(abs(across[k, i] - q) - 0.5) < NEAR
            if q != 0.0:
                for m in range(3):
                    basis[k, m] -= q * basis[i, m]
                    change[k, m] -= q * change[i, m]
                for j in range(i):
                    across[k, j] -= q * across[i, j]
                across[k, i] -= q
        gap = norm[k] - (0.75 - across[k, k - 1] ** 2) * norm[k - 1]
        close |= abs(gap) < NEAR * norm[k - 1]
        if gap >= 0.0:
            k += 1
        else:
            for m in range(3):
                basis[k, m], basis[k - 1, m] = basis[k - 1, m], basis[k, m]
                change[k, m], change[k - 1, m] = change[k - 1, m], change[k, m]
            k = max(1, k - 1)
            is_fresh = True
    return close


@njit(cache=True, nogil=True, error_model="numpy")
def _vectors_near(
    lattice: np.ndarray, inverse: np.ndarray, longest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer combinations of the rows up to a length, and their lengths."""
    top = np.zeros(3, dtype=np.int64)
    for k in range(3):
        width = np.sqrt(inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2)
        top[k] = int(np.floor(longest * width + 1e-9))
    n = 0
    size = (2 * top[0] + 1) * (2 * top[1] + 1) * (2 * top[2] + 1)
    steps = np.empty((size, 3), dtype=np.int64)
    lengths = np.empty(size)
    for a in range(-top[0], top[0] + 1):
        for b in range(-top[1], top[1] + 1):
            for c in range(-top[2], top[2] + 1):
                square = 0.0
                for k in range(3):
                    x = a * lattice[0, k] + b * lattice[1, k] + c * lattice[2, k]
                    square += x * x
                length = np.sqrt(square)
                if length <= longest:
                    steps[n, 0], steps[n, 1], steps[n, 2] = a, b, c
                    lengths[n] = length
                    n += 1
    return steps[:n], lengths[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def bases_like(
    lattice: np.ndarray, parameters: np.ndarray, ltol: float, angle_tol: float, effort: float
) -> tuple[np.ndarray, int]:
    """Return the bases of one lattice with edges and angles like those of another.

    Args:
        lattice: Row vectors of the first lattice, ``(3, 3)``.
        parameters: Edges and angles (radians) of the second, ``(6,)``.
        ltol: Relative tolerance of edges, not reached.
        angle_tol: Tolerance of angles in radians, may be reached.
        effort: Pairs of vectors after which to give up: flat cells have many short vectors.

    Returns:
        Integer matrices of determinant ±1, ``(n, 3, 3)``; and 0, 1 if a comparison was close, or 2
        if there are too many vectors.
    """
    found = np.empty((64, 3, 3), dtype=np.int64)
    inverse = np.empty((3, 3))
    invert(lattice, inverse)
    longest = max(parameters[0], parameters[1], parameters[2]) * (1.0 + ltol)
    n_vectors = 1.0  # of the box that the sphere is in
    for k in range(3):
        square = inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2
        n_vectors *= 2.0 * longest * np.sqrt(square) + 1.0
    if not n_vectors < min(effort, _MOST_VECTORS):
        return found[:0], 2
    steps, lengths = _vectors_near(lattice, inverse, longest * (1.0 + 1e-7))
    cart = np.empty((len(steps), 3))
    times(steps, lattice, cart)
    close = False
    kept = np.empty((3, len(steps)), dtype=np.int64)
    count = np.zeros(3, dtype=np.int64)
    high, low = 1.0 + ltol, 1.0 / (1.0 + ltol)
    for e in range(3):
        for i in range(len(steps)):
            ratio = lengths[i] / parameters[e]
            if abs(ratio - high) < NEAR or abs(ratio - low) < NEAR:
                close = True
            if low < ratio < high:
                kept[e, count[e]] = i
                count[e] += 1
    # fits[e] says of pairs (j, k) of edges e+1, e+2 whether the angle between them is right.
    most = max(count[0], count[1], count[2])
    if 3.0 * most * most > min(effort, _MOST_PAIRS):
        return found[:0], 2
    fits = np.zeros((3, most, most), dtype=np.bool_)
    for e in range(3):
        p, q = (e + 1) % 3, (e + 2) % 3
        at_most = np.cos(max(0.0, parameters[3 + e] - angle_tol))
        at_least = np.cos(min(np.pi, parameters[3 + e] + angle_tol))
        for i in range(count[p]):
            a = kept[p, i]
            for j in range(count[q]):
                b = kept[q, j]
                cosine = dot(cart[a], cart[b]) / (lengths[a] * lengths[b])
                cosine = max(-1.0, min(1.0, cosine))
                inside = at_least <= cosine <= at_most
                # Past 0 and 180 degrees the bound is no bound; parallel edges have no volume.
                if abs(cosine) < 1.0 - 1e-6:
                    close |= abs(cosine - at_most) < NEAR or abs(cosine - at_least) < NEAR
                fits[e, i, j] = inside
    n, work = 0, 0.0
    for i in range(count[0]):
        for j in range(count[1]):
            if not fits[2, i, j]:
                continue
            work += count[2]
            if work > effort or n > _MOST_BASES:
                return found[:0], 2
            for k in range(count[2]):
                if not (fits[0, j, k] and fits[1, k, i]):
                    continue
                p, q, r = kept[0, i], kept[1, j], kept[2, k]
                a, b, c = steps[p], steps[q], steps[r]
                det = a[0] * (b[1] * c[2] - b[2] * c[1])
                det -= a[1] * (b[0] * c[2] - b[2] * c[0])
                det += a[2] * (b[0] * c[1] - b[1] * c[0])
                if abs(det) != 1:
                    continue
                if n == len(found):
                    found = np.concatenate((found, np.empty_like(found)))
                for m in range(3):
                    found[n, 0, m], found[n, 1, m], found[n, 2, m] = a[m], b[m], c[m]
                n += 1
    return found[:n], 1 if close else 0
