"""Energy above a hull that the candidates themselves are part of.

Two new phases that compete with each other both look stable against known crystals alone. Here
every candidate competes with all others of its chemical system and subsystems, so nothing lies
below the hull, and only what would survive among the candidates has distance zero.

Source:
    MatterGen (2025), evaluation: the self-consistent hull.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.verify.hull import Hull, lowest_mixture
from matmill.verify.hull_entries import element_masks, reduced

Known = Literal["all", "subsystems"]


def energy_above_joint(
    hull: Hull,
    energy_ev: Float[Tensor, " n_crystals"],
    batch: CrystalBatch,
    *,
    known: Known = "all",
) -> Float[Tensor, " n_crystals"]:
    """Return the energy above the hull of known crystals and candidates together, eV per atom.

    Args:
        hull: The known crystals.
        energy_ev: Total energy of each cell, in the scheme of the hull.
        batch: The candidates.
        known: ``"all"`` keeps every known crystal. ``"subsystems"`` is MatterGen's self-consistent
            hull: known crystals of exactly a candidate's system are replaced by the candidates of
            that system, and no other candidate counts.

    Returns:
        At least zero; NaN where the energy is NaN or an element has no entry.
    """
    counts = reduced(element_counts(batch).numpy())
    per_atom = (energy_ev.double() / batch.n_atoms).numpy()
    usable = np.isfinite(per_atom)
    masks = element_masks(counts > 0)
    above = np.full(len(batch), np.nan)
    for rows in _systems(masks, usable):
        present = counts[rows[0]] > 0
        fractions, energies = hull.competitors(counts[rows[0]])
        if known == "subsystems":
            whole = (fractions > 0).all(1)
            fractions, energies = fractions[~whole], energies[~whole]
            added = rows
        else:
            inside = ((masks & ~masks[rows[0]]) == 0).all(1)
            added = np.nonzero(inside & usable)[0]
        mine = counts[added][:, present]
        fractions = np.concatenate([fractions, mine / mine.sum(1, keepdims=True)])
        energies = np.concatenate([energies, per_atom[added]])
        for row in rows:
            target = counts[row][present] / counts[row].sum()
            above[row] = per_atom[row] - lowest_mixture(fractions, energies, target)
    return torch.from_numpy(np.where(above < 0.0, 0.0, above))  # rounding; NaN stays


def _systems(masks: np.ndarray, usable: np.ndarray) -> list[np.ndarray]:
    """Return the usable rows of each chemical system."""
    groups: dict[bytes, list[int]] = {}
    for row in np.nonzero(usable)[0]:
        groups.setdefault(masks[row].tobytes(), []).append(int(row))
    return [np.array(rows) for rows in groups.values()]
