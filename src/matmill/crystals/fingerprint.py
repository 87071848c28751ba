"""Average and pointwise distances: fingerprints of geometry alone, the same for any choice of cell.

Both are made of the distances d_i1 ≤ … ≤ d_ik of each atom to its nearest atoms in the infinite
crystal, whatever the elements. The pointwise ones keep a row per kind of atom, the average ones
are the mean of those rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.neighbors import nearest_distances
from matmill.errors import InputError

MERGE_ANGSTROM = 1e-4
"""Rows closer than this in every distance are one kind of atom; the tolerance of the paper."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointwiseDistances:
    """Pointwise distance distributions of many crystals, stored flat.

    Attributes:
        rows: Distances of each kind of atom to its k nearest, ascending, Å, ``(n_rows_total, k)``.
        counts: Atoms of the cell that have this row, ``(n_rows_total,)``.
        n_rows: Rows of each crystal, in order, ``(n_crystals,)``.
    """

    rows: Float[Tensor, "n_rows_total k"]
    counts: Int[Tensor, " n_rows_total"]
    n_rows: Int[Tensor, " n_crystals"]

    def __len__(self) -> int:
        return len(self.n_rows)

    def select(self, crystals: slice) -> "PointwiseDistances":
        """Return these crystals, a run without gaps."""
        start, stop, step = crystals.indices(len(self))
        if step != 1:
            raise InputError(f"A run of crystals goes in steps of 1, not {step}.")
        first, last = int(self.n_rows[:start].sum()), int(self.n_rows[:stop].sum())
        return PointwiseDistances(
            rows=self.rows[first:last],
            counts=self.counts[first:last],
            n_rows=self.n_rows[start:stop],
        )

    def of(self, crystal: int) -> tuple[Float[Tensor, " n_rows"], Float[Tensor, "n_rows k"]]:
        """Return the weights, which add up to 1, and the rows of one crystal."""
        stop = int(self.n_rows[: crystal + 1].sum())
        part = slice(stop - int(self.n_rows[crystal]), stop)
        counts = self.counts[part].double()
        return counts / counts.sum(), self.rows[part]


def amd(
    batch: CrystalBatch, k: int = 100, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n_crystals k"]:
    """Return the average minimum distances of each crystal.

    Entry j is the mean, over the atoms of the cell, of the distance to the j-th nearest atom of
    the infinite crystal, whatever the elements: ``AMD_j = (1/n) Σ_i d_ij``. It does not change
    under rotation, translation, reordering, or a change of cell, and changes continuously with the
    atoms. Crystals far apart in it are different; the reverse needs `matching`.

    Args:
        batch: Any number of crystals.
        k: How many neighbours, at least 1.
        dtype: Of the result.

    Returns:
        Å, ascending along each row.

    Raises:
        InputError: If k is not positive.

    Source:
        Widdowson et al., Average Minimum Distances of periodic point sets (2022), definition 1.
    """
    distances = nearest_distances(batch, k).double()
    sums = torch.zeros(len(batch), k, dtype=torch.float64, device=distances.device)
    sums.index_add_(0, batch.crystal_index, distances)
    return (sums / batch.n_atoms[:, None]).to(dtype)


def pdd(
    batch: CrystalBatch, k: int = 100, *, tolerance: float = MERGE_ANGSTROM
) -> PointwiseDistances:
    """Return the pointwise distance distribution of each crystal.

    One row of k distances for each atom; atoms that a chain of rows, each within the tolerance of
    the next in every distance, connects share one row, their mean. So the mean of the rows by
    weight is `amd`, and the order of atoms does not matter.

    Args:
        batch: Any number of crystals.
        k: How many neighbours, at least 1.
        tolerance: Largest difference of two rows that are one, Å; 0 or more.

    Returns:
        float64, rows in lexicographic order; distances that round to the same multiple of the
        tolerance are a tie.

    Raises:
        InputError: If k is not positive or the tolerance is negative.

    Source:
        Widdowson and Kurlin, Resolving the data ambiguity for periodic crystals (2022),
        definition 3.1.
    """
    if not tolerance >= 0:
        raise InputError(f"The tolerance is {tolerance} Å, but must be 0 or more.")
    distances = nearest_distances(batch, k).double().cpu().numpy()
    parts, start = [], 0
    for n in batch.n_atoms.tolist():
        parts.append(_merged(distances[start : start + n], tolerance))
        start += n
    device = batch.frac_coords.device
    rows = [rows for rows, _ in parts] or [np.zeros((0, k))]
    counts = [counts for _, counts in parts] or [np.zeros(0, dtype=np.int64)]
    return PointwiseDistances(
        rows=torch.from_numpy(np.concatenate(rows)).to(device),
        counts=torch.from_numpy(np.concatenate(counts)).to(device),
        n_rows=torch.tensor([len(rows) for rows, _ in parts], dtype=torch.int64, device=device),
    )


def _merged(rows: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, sorted, and how many atoms have each."""
    from scipy.spatial.distance import cdist

    if len(rows) == 1:
        return rows, np.ones(1, dtype=np.int64)
    near = cdist(rows, rows, "chebyshev") <= tolerance
    label = np.arange(len(rows))
    while True:  # the smallest label spreads along the chains
        spread = np.where(near, label, len(rows)).min(1)
        if (spread == label).all():
            break
        label = spread
    member = label == np.flatnonzero(label == np.arange(len(rows)))[:, None]
    counts = member.sum(1)
    merged = (member @ rows) / counts[:, None]
    # Lists are compared entry by entry, so that few of the k distances are ever looked at.
    keys = (np.round(merged / tolerance) if tolerance else merged).tolist()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return merged[order], counts[order]
