"""Compiled: pymatgen's Niggli cell, step by step, so that the same axes come out.

Which of several equal cells is taken matters at the edges of the tolerances. The steps and their
tolerance are therefore those of pymatgen, and a comparison that rounding could turn is reported.

Loads numba on import, so import it late; see `match_lattices` on its files on disk.
"""

import numpy as np
from numba import njit

from matmill.crystals.match_lattices import dot, lll_reduce

_CLOSE = 1e-9  # relative to the cell: far above rounding, far below the tolerance of the steps


@njit(cache=True, nogil=True, error_model="numpy")
def _transform(gram: np.ndarray, step: np.ndarray) -> None:
    """Replace a Gram matrix by that of the basis with these columns."""
    half = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            half[i, j] = gram[i, 0] * step[0, j] + gram[i, 1] * step[1, j] + gram[i, 2] * step[2, j]
    for i in range(3):
        for j in range(3):
            gram[i, j] = step[0, i] * half[0, j] + step[1, i] * half[1, j] + step[2, i] * half[2, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _exchange(gram: np.ndarray, i: int, j: int) -> None:
    """Swap two axes and turn all round."""
    step = np.zeros((3, 3))
    step[3 - i - j, 3 - i - j] = step[i, j] = step[j, i] = -1.0
    _transform(gram, step)


@njit(cache=True, nogil=True, error_model="numpy")
def _add(gram: np.ndarray, i: int, j: int, factor: float) -> None:
    """Add axis ``i`` times a factor to axis ``j``."""
    step = np.zeros((3, 3))
    step[0, 0] = step[1, 1] = step[2, 2] = 1.0
    step[i, j] = factor
    _transform(gram, step)


@njit(cache=True, nogil=True, error_model="numpy")
def _sign(value: float, e: float) -> int:
    if abs(value) < e:
        return 0
    return 1 if value > 0.0 else -1


@njit(cache=True, nogil=True, error_model="numpy")
def _make_all_acute_or_obtuse(gram: np.ndarray, e: float) -> None:
    """Turn axes round so that all angles are below 90°, or none is."""
    signs = (_sign(gram[1, 2] * 2, e), _sign(gram[0, 2] * 2, e), _sign(gram[0, 1] * 2, e))
    product = signs[0] * signs[1] * signs[2]
    turn = np.ones(3)
    wanted = 1 if product == 1 else -1
    for k in range(3):
        if signs[k] == -wanted:
            turn[k] = -1.0
    if product != 1 and turn[0] * turn[1] * turn[2] < 0.0:
        # An axis whose angle is a right one may turn as well.
        for k in range(2, -1, -1):
            if signs[k] == 0:
                turn[k] = -1.0
                break
    step = np.zeros((3, 3))
    for k in range(3):
        step[k, k] = turn[k]
    _transform(gram, step)


@njit(cache=True, nogil=True, error_model="numpy")
def niggli_parameters(lattice: np.ndarray, tolerance: float, out: np.ndarray) -> tuple[float, bool]:
    """Find edges and angles of the Niggli cell.

    Args:
        lattice: Row vectors, ``(3, 3)``.
        tolerance: Relative to the cube root of the volume.
        out: Written: edges, and angles in degrees, ``(6,)``.

    Returns:
        The absolute tolerance, and whether no comparison was a close call.

    Source:
        Grosse-Kunstleve et al., Numerically stable algorithms for reduced unit cells (2004),
        steps A1 to A8.
    """
    basis, change = lattice.copy(), np.empty((3, 3))
    lll_reduce(basis, change)
    volume = abs(
        lattice[0, 0] * (lattice[1, 1] * lattice[2, 2] - lattice[1, 2] * lattice[2, 1])
        - lattice[0, 1] * (lattice[1, 0] * lattice[2, 2] - lattice[1, 2] * lattice[2, 0])
        + lattice[0, 2] * (lattice[1, 0] * lattice[2, 1] - lattice[1, 1] * lattice[2, 0])
    )
    e = tolerance * volume ** (1.0 / 3.0)
    gram = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            gram[i, j] = dot(basis[i], basis[j])
    close = _CLOSE * max(gram[0, 0], gram[1, 1], gram[2, 2])
    sure = True
    for _ in range(100):
        sure &= _is_clear(gram, e, close)
        a, b, c = gram[0, 0], gram[1, 1], gram[2, 2]
        u, v, w = 2 * gram[1, 2], 2 * gram[0, 2], 2 * gram[0, 1]
        if b + e < a or (abs(a - b) < e and abs(u) > abs(v) + e):
            _exchange(gram, 0, 1)
            a, b, c = gram[0, 0], gram[1, 1], gram[2, 2]
            u, v, w = 2 * gram[1, 2], 2 * gram[0, 2], 2 * gram[0, 1]
        if c + e < b or (abs(b - c) < e and abs(v) > abs(w) + e):
            _exchange(gram, 1, 2)
            continue
        _make_all_acute_or_obtuse(gram, e)
        a, b, c = gram[0, 0], gram[1, 1], gram[2, 2]
        u, v, w = 2 * gram[1, 2], 2 * gram[0, 2], 2 * gram[0, 1]
        total = u + v + w + a + b
        if abs(u) > b + e or (abs(u - b) < e and w - e > 2 * v) or (abs(u + b) < e and -e > w):
            _add(gram, 1, 2, -np.sign(u))
        elif abs(v) > a + e or (abs(a - v) < e and w - e > 2 * u) or (abs(a + v) < e and -e > w):
            _add(gram, 0, 2, -np.sign(v))
        elif abs(w) > a + e or (abs(a - w) < e and v - e > 2 * u) or (abs(a + w) < e and -e > v):
            _add(gram, 0, 1, -np.sign(w))
        elif -e > total or (abs(total) < e < w + (a + v) * 2):
            step = np.zeros((3, 3))
            step[0, 0] = step[1, 1] = step[2, 2] = step[0, 2] = step[1, 2] = 1.0
            _transform(gram, step)
        else:
            break
    for k in range(3):
        out[k] = np.sqrt(gram[k, k])
    for k in range(3):
        p, q = (k + 1) % 3, (k + 2) % 3
        out[3 + k] = np.degrees(np.arccos(gram[p, q] / (out[p] * out[q])))
    return e, sure


@njit(cache=True, nogil=True, error_model="numpy")
def _is_clear(gram: np.ndarray, e: float, close: float) -> bool:
    """Return whether no quantity that the steps compare with ``e`` is near it."""
    a, b, c = gram[0, 0], gram[1, 1], gram[2, 2]
    u, v, w = abs(2 * gram[1, 2]), abs(2 * gram[0, 2]), abs(2 * gram[0, 1])
    clear = True
    for x in (a - b, b - c, u, v, w, u - b, v - a, w - a, u - v, v - w, w - 2 * v, w - 2 * u):
        clear &= abs(abs(x) - e) > close
    clear &= abs(abs(v - 2 * u) - e) > close
    for s in (-1.0, 1.0):
        for t in (-1.0, 1.0):
            for r in (-1.0, 1.0):
                clear &= abs(abs(a + b + s * u + t * v + r * w) - e) > close
            clear &= abs(abs(s * w + 2 * (a + t * v)) - e) > close
    return clear


@njit(cache=True, nogil=True, error_model="numpy")
def first_mapping(
    lattice: np.ndarray,
    images: np.ndarray,
    lengths: np.ndarray,
    wanted: np.ndarray,
    e: float,
    out: np.ndarray,
) -> int:
    """Write the first basis, in the order of the given vectors, that has the wanted parameters.

    The first that keeps the handedness, or else the first of all.

    Args:
        lattice: Row vectors, ``(3, 3)``.
        images: Integer combinations of them, in pymatgen's order, ``(n, 3)``.
        lengths: Their lengths, ``(n,)``.
        wanted: Edges, and angles in degrees, ``(6,)``.
        e: Relative tolerance of the edges; angles may be off by 1°, as in pymatgen.
        out: Written: the basis, right-handed, ``(3, 3)``.

    Returns:
        1 if found, 0 if not, 2 where a comparison on the way was a close call.
    """
    n = len(images)
    cart = np.empty((n, 3))
    for i in range(n):
        for k in range(3):
            cart[i, k] = 0.0
            for m in range(3):
                cart[i, k] += images[i, m] * lattice[m, k]
    kept, count = np.empty((3, n), dtype=np.int64), np.zeros(3, dtype=np.int64)
    for edge in range(3):
        for i in range(n):
            ratio = lengths[i] / wanted[edge]
            if abs(ratio - 1.0 - e) < _CLOSE or abs(ratio - 1.0 / (1.0 + e)) < _CLOSE:
                return 2
            if 1.0 / (1.0 + e) < ratio < 1.0 + e:
                kept[edge, count[edge]] = i
                count[edge] += 1
    found = False
    for i in range(count[0]):
        a = cart[kept[0, i]]
        for j in range(count[1]):
            b = cart[kept[1, j]]
            off = abs(_degrees(a, b) - wanted[5])
            if abs(off - 1.0) < 1e-7:
                return 2
            if off > 1.0:
                continue
            for k in range(count[2]):
                c = cart[kept[2, k]]
                off = max(abs(_degrees(b, c) - wanted[3]), abs(_degrees(a, c) - wanted[4]))
                if abs(off - 1.0) < 1e-7:
                    return 2
                p, q, r = images[kept[0, i]], images[kept[1, j]], images[kept[2, k]]
                det = p[0] * (q[1] * r[2] - q[2] * r[1]) - p[1] * (q[0] * r[2] - q[2] * r[0])
                det += p[2] * (q[0] * r[1] - q[1] * r[0])
                if off > 1.0 or abs(det) < 0.5 or (found and det < 0.0):
                    continue
                found = True
                hand = a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
                hand += a[2] * (b[0] * c[1] - b[1] * c[0])
                turn = 1.0 if hand > 0.0 else -1.0
                for m in range(3):
                    out[0, m], out[1, m], out[2, m] = turn * a[m], turn * b[m], turn * c[m]
                if det > 0.0:
                    return 1
    return 1 if found else 0


@njit(cache=True, nogil=True, error_model="numpy")
def _degrees(a: np.ndarray, b: np.ndarray) -> float:
    cosine = dot(a, b) / np.sqrt(dot(a, a) * dot(b, b))
    return np.degrees(np.arccos(max(-1.0, min(1.0, cosine))))
