"""The autoencoder as a training task: one random view of a batch in, a loss out."""

import torch
from torch import Tensor, nn

from matmill.crystals.periodic import wrap
from matmill.generate.cdvae.dataset import View
from matmill.generate.cdvae.losses import view_losses
from matmill.generate.cdvae.model import Autoencoder
from matmill.generate.cdvae.padded import PaddedCrystals
from matmill.generate.cdvae.settings import LossSettings


class CdvaeTask(nn.Module):
    """Holds the autoencoder and knows its loss.

    Args:
        model: The network to train.
        settings: Weights of the parts.
        hide: Chance that one condition is hidden from the decoder.
    """

    def __init__(self, model: Autoencoder, settings: LossSettings, *, hide: float) -> None:
        super().__init__()
        self.model, self.settings, self.hide = model, settings, hide

    def loss(self, batch: tuple[View, ...], rng: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss of one random view of these crystals, with its parts."""
        sums: dict[str, Tensor] = {}
        n = sum(len(view.crystals) for view in batch)
        for view in batch:
            crystals = mirrored(view.crystals, rng)
            shown = view.known.without_extras().with_hidden(self.hide, rng)
            parts = view_losses(self.model, crystals, view.known, shown, self.settings, rng)
            for name, values in parts.items():
                sums[name] = sums.get(name, values.new_zeros(())) + values.sum() / n
        weights = self.settings.model_dump()
        total = sum((weights[name] * part for name, part in sums.items()), torch.zeros(()))
        return {"loss": total, **sums}


def mirrored(crystals: PaddedCrystals, rng: torch.Generator) -> PaddedCrystals:
    """Invert half of the crystals through the origin: (f, G) and (-f, G) are the same crystal."""
    flip = torch.rand(len(crystals), 1, 1, generator=rng, device=rng.device) < 0.5
    f = torch.where(flip, wrap(-crystals.f), crystals.f)
    return PaddedCrystals(z=crystals.z, f=f, y=crystals.y, n_atoms=crystals.n_atoms)
