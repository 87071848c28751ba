"""Which letters the choice of origin and axes may swap: the affine normaliser, seen on positions.

One crystal can be described by several sets of Wyckoff letters (NaCl with Na on a or on b). The
affine maps that carry a space group onto itself permute its positions; templates that such a
permutation connects describe the same crystals.
"""

from itertools import product

import numpy as np

from matmill.crystals.wyckoff_letters import closure
from matmill.generate.wyckoff.derive import Piece, smith

_TOLERANCE = 1e-6


def position_permutations(
    rotations: np.ndarray, shifts: np.ndarray, classes: list[list[Piece]]
) -> list[tuple[int, ...]]:
    """Return generators of the permutations of positions by the affine normaliser.

    Args:
        rotations: Operations of the group in a primitive basis, ``(g, 3, 3)``.
        shifts: Their translations, ``(g, 3)``.
        classes: Positions, as `derive.wyckoff_pieces` gives them.

    Returns:
        Permutations p, so that position i goes to position p[i]; none if all letters are fixed.
    """
    known = {tuple(range(len(classes)))}
    generators: list[tuple[int, ...]] = []
    for change in _changes_of_axes(rotations, classes):
        images = change @ rotations @ np.round(np.linalg.inv(change)).astype(int)
        partner = _index_of(images, rotations)
        for origin in _origins(images, shifts[partner] - shifts @ change.T):
            found = _permutation(classes, change, origin)
            if found not in known:
                generators.append(found)
                known = closure(generators, len(classes))
    return generators


def _changes_of_axes(rotations: np.ndarray, classes: list[list[Piece]]) -> np.ndarray:
    """Return the integer changes of basis that carry the rotations onto themselves.

    Entries from -1 to 1 are enough: larger ones act on the positions as one of these does.
    """
    every = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
    every = every[np.abs(np.linalg.det(every)).round() == 1]
    inverse = np.round(np.linalg.inv(every)).astype(int)
    fits = np.ones(len(every), dtype=bool)
    for rotation in rotations:
        image = every @ rotation @ inverse
        fits &= (image[:, None] == rotations[None]).all((2, 3)).any(1)
    fixed = [p.anchor for pieces in classes for p in pieces if len(p.basis) < 3]
    unit = next(d for d in (1, 2, 3, 4, 6, 8, 12, 24, 48) if _multiples(fixed, d))
    # Bases that agree modulo the denominator of all anchors act alike, and so do W P, W in the
    # group.
    kept: dict[tuple[int, ...], np.ndarray] = {}
    for change in every[fits]:
        names = {tuple((r @ change % unit).reshape(-1).tolist()) for r in rotations}
        if not names & kept.keys():
            kept[tuple((change % unit).reshape(-1).tolist())] = change
    return np.array(list(kept.values()))


def _multiples(points: list[np.ndarray], unit: int) -> bool:
    return all(np.abs(p * unit - np.round(p * unit)).max() < _TOLERANCE for p in points)


def _index_of(images: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    return (images[:, None] == rotations[None]).all((2, 3)).argmax(1)


def _origins(images: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
    """Solve ``(1 - W') p = w' - P w mod 1`` for the shift of origin p, one per component."""
    left, diagonal, change = smith((np.eye(3, dtype=int) - images).reshape(-1, 3))
    rotated = left @ right.reshape(-1)
    rank = int((diagonal != 0).sum())
    rest = rotated[rank:]
    if (np.abs(rest - np.round(rest)) > _TOLERANCE).any():
        return []
    return [
        change[:, :rank] @ ((rotated[:rank] + np.array(steps)) / diagonal[:rank])
        for steps in product(*(range(d) for d in diagonal[:rank]))
    ]


def _permutation(
    classes: list[list[Piece]], change: np.ndarray, origin: np.ndarray
) -> tuple[int, ...]:
    places = []
    for pieces in classes:
        image = change @ pieces[0].point + origin
        holders = [
            (len(other[0].basis), k)
            for k, other in enumerate(classes)
            if any(p.holds(image) for p in other)
        ]
        places.append(min(holders)[1])
    return tuple(places)
