"""Properties that follow from the structure: computed, never predicted."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import table
from matmill.errors import UnknownNameError
from matmill.predict.protocol import DEFAULT_COVERAGE, Prediction

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


_FORMULAS = {
    "density_g_cm3": density,
    "volume_per_atom_a3": volume_per_atom,
    "n_elements": n_elements,
}


@dataclass(frozen=True)
class ExactPredictor:
    """Gives a computed property the face of a predictor, with a standard deviation of 0.

    Attributes:
        column: Name with unit: density, volume per atom, number of elements.
    """

    column: str

    def __post_init__(self) -> None:
        if self.column not in _FORMULAS:
            raise UnknownNameError("computed property", self.column, sorted(_FORMULAS))

    @property
    def card(self) -> dict[str, Any]:
        """State that nothing was learned."""
        return {"kind": "computed", "columns": [self.column]}

    def predict(self, batch: CrystalBatch, *, coverage: float = DEFAULT_COVERAGE) -> Prediction:
        """Return the computed values."""
        values = _FORMULAS[self.column](batch).cpu()
        return Prediction(
            mean=values,
            std=torch.zeros_like(values),
            low=values,
            high=values,
            column=self.column,
            coverage=coverage,
            in_domain=torch.isfinite(values),
        )
