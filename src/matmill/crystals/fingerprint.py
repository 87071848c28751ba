"""Average minimum distances: a fingerprint of geometry alone, the same for any choice of cell."""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.neighbors import nearest_distances


def amd(batch: CrystalBatch, k: int = 100) -> Float[Tensor, "n_crystals k"]:
    """Return the average minimum distances of each crystal.

    Entry j is the mean, over the atoms of the cell, of the distance to the j-th nearest atom of
    the infinite crystal, whatever the elements: ``AMD_j = (1/n) Σ_i d_ij``. It does not change
    under rotation, translation, reordering, or a change of cell, and changes continuously with the
    atoms. Crystals far apart in it are different; the reverse needs `matching`.

    Args:
        batch: Any number of crystals.
        k: How many neighbours, at least 1.

    Returns:
        float32, Å, ascending along each row.

    Raises:
        InputError: If k is not positive.

    Source:
        Widdowson et al., Average Minimum Distances of periodic point sets (2022), definition 1.
    """
    distances = nearest_distances(batch, k).double()
    sums = torch.zeros(len(batch), k, dtype=torch.float64, device=distances.device)
    sums.index_add_(0, batch.crystal_index, distances)
    return (sums / batch.n_atoms[:, None]).float()
