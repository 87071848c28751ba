"""Properties that follow from the structure: density, volume an atom, number of elements."""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import table

# 1 amu/Å³ in g/cm³ (CODATA 2018 atomic mass constant, 1.66053906660e-24 g).
_AMU_PER_A3 = 1.66053906660


def density(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the mass density in g/cm³; NaN where an element has no standard mass."""
    masses = table("mass")[batch.atomic_numbers.cpu()].to(batch.n_atoms.device)
    total = torch.zeros(len(batch), dtype=torch.float64, device=masses.device)
    total = total.index_add(0, batch.crystal_index, masses)
    return total / batch.volume.double() * _AMU_PER_A3


def volume_per_atom(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the cell volume an atom in Å³."""
    return batch.volume.double() / batch.n_atoms


def n_elements(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the number of different elements."""
    return (element_counts(batch) > 0).sum(1).double()
