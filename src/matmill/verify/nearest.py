"""Exact nearest neighbours among millions of fingerprints under the largest difference.

A tree holds a few of the columns: the largest difference over some columns is never above that
over all, so what the tree leaves out cannot be nearer. The rows that it proposes are measured in
full, and a search in the tree with the distance found so far proves that nothing was missed.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from matmill.errors import InputError

if TYPE_CHECKING:
    from scipy.spatial import KDTree

N_TREE_COLUMNS = 16
"""Columns in the tree; neighbouring average distances say nearly the same."""

_QUERIES_AT_ONCE = 256
_ROWS_AT_ONCE = 200_000
_SLACK = 1e-12  # differences of single-precision values are all but exact in double precision


class ChebyshevIndex:
    """Vectors that the nearest ones are looked for among, by the largest absolute difference.

    Args:
        vectors: One row a reference, ``(n, d)``; kept as float32, 4 d bytes a reference, beside a
            tree of about 200 bytes a reference that is built when first asked.

    Raises:
        InputError: If a value is not finite.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(self.vectors).all():
            raise InputError("An index holds finite vectors only; leave out what has none.")

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def columns(self) -> np.ndarray:
        """Columns in the tree: the first, the last, and between them in equal ratios."""
        d = self.vectors.shape[1]
        spaced = np.geomspace(1, d, min(N_TREE_COLUMNS, d)) - 1
        return np.unique(np.round(spaced).astype(int))

    @cached_property
    def tree(self) -> "KDTree":
        """The tree over some columns."""
        from scipy.spatial import KDTree

        return KDTree(self.vectors[:, self.columns].astype(np.float64), balanced_tree=False)

    def query(self, wanted: np.ndarray, n: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the n nearest references of each vector.

        Args:
            wanted: Finite vectors, ``(m, d)``.
            n: How many, at least 1.

        Returns:
            Distances, ascending, float64 ``(m, n)``, infinite where there are fewer references; and
            their rows ``(m, n)``, −1 there. At a tie the lower row comes first.

        Raises:
            InputError: If n is not positive or the vectors have another length.
        """
        # The same rounding as the references, so that a reference is at distance 0 of itself.
        wanted = np.asarray(wanted, dtype=np.float32)
        if n < 1 or wanted.ndim != 2 or wanted.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"Asked for {n} neighbours of vectors of shape {wanted.shape}; expected 1 or more, "
                f"and {self.vectors.shape[1]} columns."
            )
        distances = np.full((len(wanted), n), np.inf)
        rows = np.full((len(wanted), n), -1, dtype=np.int64)
        for start in range(0, len(wanted) if len(self) else 0, _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            self._query(wanted[part], distances[part], rows[part])
        return distances, rows

    def _query(self, wanted: np.ndarray, distances: np.ndarray, rows: np.ndarray) -> None:
        """Fill in distances and rows for a few vectors."""
        n = distances.shape[1]
        n_first = min(len(self), 2 * n + 8)
        seen = wanted[:, self.columns].astype(np.float64)
        _, found = self.tree.query(seen, k=n_first, p=np.inf)
        proposed = np.reshape(found, (len(seen), n_first))  # flat for one neighbour
        exact = wanted.astype(np.float64)
        full = np.abs(self.vectors[proposed] - exact[:, None]).max(2)
        reach = np.sort(full, axis=1)[:, min(n, n_first) - 1] * (1 + _SLACK)
        # Whatever is nearer in full is nearer in the tree.
        balls = self.tree.query_ball_point(seen, reach, p=np.inf)
        for i, near in enumerate(balls):
            nearest, at = self._measure(exact[i], near, n)
            distances[i, : len(at)], rows[i, : len(at)] = nearest, at

    def _measure(
        self, wanted: np.ndarray, near: Sequence[int], n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the n nearest of these rows."""
        near_rows = np.sort(np.asarray(near, dtype=np.int64))
        full = np.empty(len(near_rows))
        for start in range(0, len(near_rows), _ROWS_AT_ONCE):
            part = near_rows[start : start + _ROWS_AT_ONCE]
            gap = np.abs(self.vectors[part] - wanted).max(1)
            full[start : start + len(part)] = gap
        order = np.argsort(full, kind="stable")[:n]
        return full[order], near_rows[order]
