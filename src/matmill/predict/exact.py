"""Properties that follow from the structure: computed, never predicted."""

from dataclasses import dataclass
from typing import Any

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density, n_elements, volume_per_atom
from matmill.errors import UnknownNameError
from matmill.predict.protocol import DEFAULT_COVERAGE, Prediction

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
