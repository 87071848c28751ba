"""The flow as a training task: one noisy view of a batch in, a loss out."""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from matmill.config import Settings
from matmill.crystals.periodic import wrap
from matmill.generate.coupling import Coupling
from matmill.generate.dataset import TrainingBatch
from matmill.generate.network import Denoiser
from matmill.generate.process import LOSS_WEIGHTS, add_noise, add_symmetric_noise, losses
from matmill.generate.schedules import TASK_SHARES
from matmill.generate.state import DenseCrystals
from matmill.generate.symmetric import SymmetricBatch

# A batch counts by its number of crystals, relative to this many, so that every crystal of a
# small-cell batch weighs as much as one of a large-cell batch.
_REFERENCE_BATCH = 128

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class FlowSettings(Settings):
    """How noise is made and how the parts of the loss weigh.

    Attributes:
        coupling: ``permutation`` pairs interchangeable atoms with nearby noise; ``none`` does not.
        task_shares: Shares of de novo, independent clocks, known composition and known geometry;
            the rest is inpainting.
        time_power: Clocks are ``1 - u**time_power``: above 1 more of them are near the end.
        mean_free: Take the common drift out of the targets of the sites.
        coords_weight: Of the sites in the loss.
        lattice_weight: Of the lattice in the loss.
        types_weight: Of the elements in the loss.
    """

    coupling: Coupling = "none"
    task_shares: tuple[Share, Share, Share, Share] = TASK_SHARES
    time_power: Annotated[float, Field(gt=0.0)] = 1.0
    mean_free: bool = True
    coords_weight: Annotated[float, Field(ge=0.0)] = LOSS_WEIGHTS["coords"]
    lattice_weight: Annotated[float, Field(ge=0.0)] = LOSS_WEIGHTS["lattice"]
    types_weight: Annotated[float, Field(ge=0.0)] = LOSS_WEIGHTS["types"]

    @model_validator(mode="after")
    def _shares_are_shares(self) -> "FlowSettings":
        if sum(self.task_shares) > 1.0 + 1e-9:
            raise ValueError(f"task_shares sum to {sum(self.task_shares):g}; give at most 1")
        return self


class FlowTask(nn.Module):
    """Holds the denoiser and knows its loss.

    Args:
        denoiser: The network to train.
        settings: Noise and weights.
    """

    def __init__(self, denoiser: Denoiser, settings: FlowSettings | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.settings = settings or FlowSettings()
        denoiser.is_centred = self.settings.mean_free

    def loss(
        self, batch: TrainingBatch | SymmetricBatch, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the loss of one random view of these crystals, with its parts."""
        settings = self.settings
        clean = mirrored(batch.crystals, rng)
        if isinstance(batch, SymmetricBatch):
            state, targets = add_symmetric_noise(clean, batch.orbits, batch.scale, rng)
            shown = batch.shown(rng)
        else:
            state, targets = add_noise(
                clean,
                rng,
                shares=settings.task_shares,
                power=settings.time_power,
                coupling=settings.coupling,
                mean_free=settings.mean_free,
            )
            shown = batch.conditions.dropped(rng)
        shown = self.denoiser.encoder.widened(shown, rng)
        velocity = self.denoiser(state, shown)
        weights = {
            "coords": settings.coords_weight,
            "lattice": settings.lattice_weight,
            "types": settings.types_weight,
        }
        parts = losses(velocity, targets, state, weights)
        return {**parts, "loss": parts["loss"] * len(clean) / _REFERENCE_BATCH}


def mirrored(crystals: DenseCrystals, rng: torch.Generator) -> DenseCrystals:
    """Invert half of the crystals through the origin: (f, G) and (-f, G) are the same crystal.

    The network sees only fractional differences and the metric, and does not know this by itself.
    """
    flip = torch.rand(len(crystals), 1, 1, generator=rng, device=rng.device) < 0.5
    f = torch.where(flip, wrap(-crystals.f), crystals.f)
    return DenseCrystals(z=crystals.z, f=f, y=crystals.y)
