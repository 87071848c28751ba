"""The flow as a training task: one noisy view of a batch in, a loss out."""

import torch
from torch import Tensor, nn

from matmill.crystals.periodic import wrap
from matmill.generate.dataset import TrainingBatch
from matmill.generate.network import Denoiser
from matmill.generate.process import add_noise, add_symmetric_noise, losses
from matmill.generate.state import DenseCrystals
from matmill.generate.symmetric import SymmetricBatch

# A batch counts by its number of crystals, relative to this many, so that every crystal of a
# small-cell batch weighs as much as one of a large-cell batch.
_REFERENCE_BATCH = 128


class FlowTask(nn.Module):
    """Holds the denoiser and knows its loss.

    Args:
        denoiser: The network to train.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def loss(self, batch: TrainingBatch | SymmetricBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of one random view of these crystals, with its parts."""
        clean = mirrored(batch.crystals, rng)
        if isinstance(batch, SymmetricBatch):
            state, targets = add_symmetric_noise(clean, batch.orbits, batch.scale, rng)
            shown = batch.shown(rng)
        else:
            state, targets = add_noise(clean, rng)
            shown = batch.conditions.dropped(rng)
        velocity = self.denoiser(state, shown)
        parts = losses(velocity, targets, state)
        return {**parts, "loss": parts["loss"] * len(clean) / _REFERENCE_BATCH}


def mirrored(crystals: DenseCrystals, rng: torch.Generator) -> DenseCrystals:
    """Invert half of the crystals through the origin: (f, G) and (-f, G) are the same crystal.

    The network sees only fractional differences and the metric, and does not know this by itself.
    """
    flip = torch.rand(len(crystals), 1, 1, generator=rng) < 0.5
    f = torch.where(flip, wrap(-crystals.f), crystals.f)
    return DenseCrystals(z=crystals.z, f=f, y=crystals.y)
