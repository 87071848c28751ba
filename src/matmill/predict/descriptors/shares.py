"""Compositions as the few elements they have, instead of a column for every element."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.predict.descriptors.properties import element_property


@dataclass(frozen=True, eq=False)
class Shares:
    """The elements of each row, most abundant first, padded to the longest row.

    Attributes:
        number: Atomic number, 0 in the padding, ``(n, most_elements)``.
        share: Share of the atoms, 0 in the padding, ``(n, most_elements)``.
    """

    number: Int[Tensor, "n most_elements"]
    share: Float[Tensor, "n most_elements"]

    @classmethod
    def of(cls, batch: CrystalBatch | CompositionBatch) -> "Shares":
        """Return the elements of a batch of either kind."""
        if isinstance(batch, CrystalBatch):
            batch = CompositionBatch.of(batch)
        fractions = batch.fractions.double()
        most = int((fractions > 0).sum(1).amax()) if len(fractions) else 1
        # Exact ties are resolved by atomic number, so that equal formulas give equal bits.
        order = torch.sort(fractions, dim=1, descending=True, stable=True)
        share = order.values[:, :most]
        return cls(torch.where(share > 0, order.indices[:, :most], 0), share)

    @property
    def present(self) -> Bool[Tensor, "n most_elements"]:
        """False in the padding."""
        return self.number > 0

    def values(self, name: str) -> Float[Tensor, "n most_elements"]:
        """Return a property of the elements, NaN where unknown and in the padding."""
        return element_property(name)[self.number]

    def mean(self, name: str) -> Float[Tensor, " n"]:
        """Return the mean of a property over the atoms whose element has one."""
        values = self.values(name)
        return weighted_mean(values, self.share * torch.isfinite(values))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over dim 1, NaN where all weights are 0. NaN values need weight 0."""
    total = weights.sum(1)
    mean = (values.nan_to_num(0.0) * weights).sum(1) / total
    return mean.masked_fill(total == 0, torch.nan)
