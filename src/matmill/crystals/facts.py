"""Properties that follow from the structure: density, volume an atom, number of elements."""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import SYMBOLS, table

# 1 amu/Å³ in g/cm³ (CODATA 2018 atomic mass constant, 1.66053906660e-24 g).
_AMU_PER_A3 = 1.66053906660


Masses = Literal["iupac-2016", "pymatgen"]
"""Whose atomic masses: the two differ by up to 0.2 % (Zn), hydrogen's by 0.006 %."""


def density(batch: CrystalBatch, *, masses: Masses = "iupac-2016") -> Float[Tensor, " n_crystals"]:
    """Return the mass density in g/cm³; NaN where an element has no standard mass.

    Args:
        batch: The crystals.
        masses: Whose atomic masses; published distances of densities are by pymatgen's.
    """
    of_element = table("mass") if masses == "iupac-2016" else _pymatgen_masses()
    weights = of_element[batch.atomic_numbers.cpu()].to(batch.n_atoms.device)
    total = torch.zeros(len(batch), dtype=torch.float64, device=weights.device)
    total = total.index_add(0, batch.crystal_index, weights)
    return total / batch.volume.double() * _AMU_PER_A3


def volume_per_atom(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the cell volume an atom in Å³."""
    return batch.volume.double() / batch.n_atoms


def n_elements(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the number of different elements."""
    return (element_counts(batch) > 0).sum(1).double()


@cache
def _pymatgen_masses() -> Float[Tensor, "119"]:
    from pymatgen.core import Element

    known = [float(Element(symbol).atomic_mass) for symbol in SYMBOLS[1:]]
    return torch.tensor([torch.nan, *known], dtype=torch.float64)
