"""Wyckoff positions computed from the operations of a space group.

A point of stabiliser S solves ``(W - 1) x = -w mod 1`` for every operation of S. The Smith form of
the stacked equations gives all solutions on the torus exactly: a finite number of affine pieces,
each with an integer basis of its free directions. Walking from the trivial stabiliser upwards
finds every piece; pieces that the group maps onto one another are one Wyckoff position.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

_TOLERANCE = 1e-6
_DENOMINATOR = 48  # every fixed coordinate of a primitive basis is a multiple of 1/48
# A generic point of a piece: no small integer combination of these is near an integer.
_GENERIC = np.array([0.137035999, 0.2718281828, 0.4142135623])


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Points ``anchor + s @ basis`` of one stabiliser, ``s`` in [0, 1)^k.

    Attributes:
        anchor: Fractional coordinates, ``(3,)``.
        basis: Primitive integer vectors of the free directions, ``(k, 3)``.
        equations: Integer rows with ``equations @ x = values mod 1`` on the piece, ``(3 - k, 3)``.
        values: Right-hand sides, ``(3 - k,)``.
        stabiliser: Which operations leave each point in place mod 1, ``(n_operations,)``.
    """

    anchor: np.ndarray
    basis: np.ndarray
    equations: np.ndarray
    values: np.ndarray
    stabiliser: np.ndarray

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Return which of the points ``(..., 3)`` lie on the piece."""
        off = points @ self.equations.T - self.values
        return np.all(np.abs(off - np.round(off)) < _TOLERANCE, axis=-1)

    @property
    def point(self) -> np.ndarray:
        """A point in general position on the piece."""
        return self.anchor + _GENERIC[: len(self.basis)] @ self.basis


def wyckoff_pieces(rotations: np.ndarray, shifts: np.ndarray) -> list[list[Piece]]:
    """Return every Wyckoff position as the list of its pieces, fewest sites first.

    Args:
        rotations: Integer parts of the operations in a primitive basis, ``(g, 3, 3)``.
        shifts: Fractional translations, ``(g, 3)``.

    Returns:
        One list of pieces per position; the first is the one with the smallest coordinates.
    """
    found: dict[bytes, list[Piece]] = {}
    trivial = np.zeros(len(rotations), dtype=bool)
    trivial[_stabiliser(rotations, shifts, _GENERIC @ np.eye(3))] = True
    todo = [trivial]
    while todo:
        chosen = todo.pop()
        if chosen.tobytes() in found:
            continue
        pieces = _fixed_pieces(rotations, shifts, chosen)
        # The pieces of the equations may have larger stabilisers: those are kept under their own.
        found[chosen.tobytes()] = [p for p in pieces if (p.stabiliser == chosen).all()]
        todo += [piece.stabiliser for piece in pieces]
        for extra in np.flatnonzero(~chosen):
            larger = chosen.copy()
            larger[extra] = True
            todo += [p.stabiliser for p in _fixed_pieces(rotations, shifts, larger)]
    every = [piece for pieces in found.values() for piece in pieces]
    return _classes(rotations, shifts, every)


def _fixed_pieces(rotations: np.ndarray, shifts: np.ndarray, chosen: np.ndarray) -> list[Piece]:
    """Return the pieces of the points that all chosen operations fix, at least by equation."""
    rows = (rotations[chosen] - np.eye(3, dtype=int)).reshape(-1, 3)
    right = -shifts[chosen].reshape(-1)
    left, diagonal, change = smith(rows)
    rotated = left @ right
    rank = int((diagonal != 0).sum())
    rest = rotated[rank:]
    if (np.abs(rest - np.round(rest)) > _TOLERANCE).any():
        return []
    inverse = np.round(np.linalg.inv(change)).astype(int)  # y = change^-1 x
    pieces = []
    for steps in product(*(range(d) for d in diagonal[:rank])):
        values = (rotated[:rank] + np.array(steps)) / diagonal[:rank]
        anchor = _tidy(change[:, :rank] @ values)
        piece = Piece(
            anchor=anchor,
            basis=change[:, rank:].T,
            equations=inverse[:rank],
            values=inverse[:rank] @ anchor,
            stabiliser=np.zeros(len(rotations), dtype=bool),
        )
        piece.stabiliser[_stabiliser(rotations, shifts, piece.point)] = True
        pieces.append(piece)
    return pieces


def _stabiliser(rotations: np.ndarray, shifts: np.ndarray, point: np.ndarray) -> np.ndarray:
    off = rotations @ point + shifts - point
    return np.flatnonzero((np.abs(off - np.round(off)) < _TOLERANCE).all(-1))


def _classes(rotations: np.ndarray, shifts: np.ndarray, pieces: list[Piece]) -> list[list[Piece]]:
    """Gather the pieces that the group maps onto one another."""
    classes: list[list[Piece]] = []
    # Small coordinates first, so that the first piece of a class reads like the printed tables.
    left = sorted(pieces, key=lambda p: (p.anchor.sum().round(6), *p.anchor.round(6)))
    while left:
        images = rotations @ left[0].point + shifts
        same = [bool(p.holds(images).any()) and _as_many(p, left[0]) for p in left]
        classes.append([p for p, taken in zip(left, same, strict=True) if taken])
        left = [p for p, taken in zip(left, same, strict=True) if not taken]
    return sorted(classes, key=lambda c: (-int(c[0].stabiliser.sum()), len(c[0].basis)))


def _as_many(one: Piece, other: Piece) -> bool:
    """Tell a piece from a larger piece that runs through it."""
    return len(one.basis) == len(other.basis)


def smith(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonalise an integer matrix by unimodular changes on both sides.

    Args:
        matrix: Integers, ``(m, 3)`` with m at least 3.

    Returns:
        ``left`` ``(m, m)``, the three diagonal entries (non-negative, zeros last; they need not
        divide one another) and ``right`` ``(3, 3)`` with ``left @ matrix @ right = diagonal``.
    """
    work = matrix.astype(int).copy()
    n_rows, n_columns = work.shape
    left, right = np.eye(n_rows, dtype=int), np.eye(n_columns, dtype=int)
    for step in range(n_columns):
        while True:
            rest = np.abs(work[step:, step:])
            if not rest.any():
                break
            smallest = np.where(rest == 0, rest.max() + 1, rest).argmin()
            row, column = (step + int(i) for i in divmod(int(smallest), rest.shape[1]))
            work[[step, row]], left[[step, row]] = work[[row, step]], left[[row, step]]
            work[:, [step, column]] = work[:, [column, step]]
            right[:, [step, column]] = right[:, [column, step]]
            if work[step, step] < 0:
                work[step] *= -1
                left[step] *= -1
            pivot = work[step, step]
            by_row = work[step + 1 :, step] // pivot
            work[step + 1 :] -= by_row[:, None] * work[step]
            left[step + 1 :] -= by_row[:, None] * left[step]
            by_column = work[step, step + 1 :] // pivot
            work[:, step + 1 :] -= work[:, [step]] * by_column
            right[:, step + 1 :] -= right[:, [step]] * by_column
            if not work[step + 1 :, step].any() and not work[step, step + 1 :].any():
                break
    return left, np.diagonal(work).copy(), right


def _tidy(point: np.ndarray) -> np.ndarray:
    """Return the fractions as exactly as floats can, in [0, 1)."""
    grid = np.round(point * _DENOMINATOR)
    if np.abs(point * _DENOMINATOR - grid).max() > _TOLERANCE * _DENOMINATOR:
        raise AssertionError(f"a fixed coordinate is no multiple of 1/{_DENOMINATOR}: {point}")
    return (grid % _DENOMINATOR) / _DENOMINATOR
