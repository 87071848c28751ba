"""Niggli cells: one canonical choice of axes, so that a network sees each lattice one way."""

import numpy as np
import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.periodic import wrap

_TOLERANCE = 1e-5  # pymatgen's default; one tolerance everywhere, or cells flip between two forms


def niggli(batch: CrystalBatch) -> tuple[CrystalBatch, Tensor]:
    """Return the crystals in their Niggli-reduced cells, and which of them could be reduced.

    The cell is not made primitive; handedness and Cartesian orientation may change.

    Returns:
        The batch with new ``lattice`` and ``frac_coords`` (unchanged where the reduction failed),
        and a bool mask ``(n_crystals,)`` of successes.

    Source:
        Grosse-Kunstleve et al., Numerically stable algorithms for reduced unit cells (2004).
    """
    from pymatgen.core import Lattice

    old = batch.lattice.double().cpu().numpy()
    new = old.copy()
    reduced = np.zeros(len(batch), dtype=bool)
    for i, matrix in enumerate(old):
        try:
            new[i] = Lattice(matrix).get_niggli_reduced_lattice(tol=_TOLERANCE).matrix
            reduced[i] = True
        except (ValueError, np.linalg.LinAlgError):
            continue
    # A reduced lattice comes in a frame of its own: the change of basis is found from integers.
    change = _integer_change(old, new)
    reduced &= np.isfinite(change).all((1, 2))
    change[~reduced] = np.eye(3)
    inverse = torch.from_numpy(np.linalg.inv(change))
    frac = torch.einsum("ai,aij->aj", batch.frac_coords.double(), inverse[batch.crystal_index])
    lattice = torch.from_numpy(change @ old)
    return (
        CrystalBatch(
            lattice=lattice.to(batch.lattice.dtype),
            frac_coords=wrap(frac.to(batch.frac_coords.dtype)),
            atomic_numbers=batch.atomic_numbers,
            n_atoms=batch.n_atoms,
            properties=batch.properties,
            ids=batch.ids,
        ),
        torch.from_numpy(reduced),
    )


def _integer_change(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return integer matrices M with ``M @ old ≈ new``; NaN where there is none."""
    ratio = new @ np.linalg.inv(old)
    rounded = np.round(ratio)
    bad = (np.abs(ratio - rounded) > 1e-3).any((1, 2))
    bad |= np.abs(np.abs(np.linalg.det(rounded)) - 1.0) > 1e-6
    rounded[bad] = np.nan
    return rounded
