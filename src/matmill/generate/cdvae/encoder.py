"""The encoder: a crystal in, a Gaussian over latents out. It stands in for DimeNet++."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from matmill.generate.cdvae.geometry import Backbone
from matmill.generate.cdvae.padded import PaddedCrystals
from matmill.generate.cdvae.settings import CdvaeSize
from matmill.generate.state import N_ELEMENTS

_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE = -12.0, 6.0


class Encoder(nn.Module):
    """Mean and log-variance of the latent of a crystal; the pooled tokens pass a tanh first."""

    def __init__(self, size: CdvaeSize) -> None:
        super().__init__()
        d = size.encoder_width
        self.element = nn.Embedding(N_ELEMENTS + 1, d)
        self.backbone = Backbone(d, size.encoder_heads, size.encoder_blocks)
        # Gates of the blocks: small at first, so that each block starts near the identity.
        self.shared = nn.Parameter(torch.tensor([0, 0, 0.1, 0, 0, 0.1])[:, None].repeat(1, d))
        self.pool = nn.Sequential(nn.Linear(2 * d, size.latent), nn.Tanh())
        self.mean = nn.Linear(size.latent, size.latent)
        self.log_variance = nn.Linear(size.latent, size.latent)

    def forward(
        self, crystals: PaddedCrystals, lattice: Float[Tensor, "b 3 3"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Return mean and log-variance, float32."""
        is_atom = crystals.is_atom
        tokens = self.backbone(
            self.element(crystals.z),
            crystals.f,
            crystals.y,
            lattice,
            is_atom,
            self.shared.expand(len(crystals), -1, -1),
        )
        weight = is_atom[..., None].to(tokens.dtype)
        mean = (tokens[:, :-1] * weight).sum(1) / weight.sum(1).clamp_min(1)
        pooled = self.pool(torch.cat([mean, tokens[:, -1]], dim=1))
        log_variance = self.log_variance(pooled).float()
        return self.mean(pooled).float(), log_variance.clamp(
            _LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE
        )
