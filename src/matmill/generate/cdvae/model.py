"""The autoencoder: encoder, conditions, heads and decoder under one roof."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from matmill.generate.adapters import AddedProperty
from matmill.generate.cdvae.conditions import ConditionEmbedding, Wishes
from matmill.generate.cdvae.decoder import Decoder
from matmill.generate.cdvae.encoder import Encoder
from matmill.generate.cdvae.geometry import cells
from matmill.generate.cdvae.heads import CrystalHeads, PropertyHeads
from matmill.generate.cdvae.padded import PaddedCrystals
from matmill.generate.cdvae.settings import CdvaeSize, NoiseSettings
from matmill.generate.state import LatticeScale


class Autoencoder(nn.Module):
    """A CDVAE, conditional where there are columns.

    Args:
        learnt: Statistics of the columns that are conditions; empty for the plain CDVAE.
        size: Widths and depths.
        noise: Range of levels.
        max_atoms: Largest cell.
        scale: Standardisation of the lattice numbers; saved with the weights.
    """

    def __init__(
        self,
        learnt: Sequence[AddedProperty],
        *,
        size: CdvaeSize,
        noise: NoiseSettings,
        max_atoms: int,
        scale: LatticeScale,
    ) -> None:
        super().__init__()
        self.size, self.noise, self.max_atoms = size, noise, max_atoms
        self.learnt = tuple(learnt)
        self.register_buffer("scale_mean", scale.mean.clone())
        self.register_buffer("scale_std", scale.std.clone())
        self.encoder = Encoder(size)
        self.conditions = ConditionEmbedding(learnt, size.condition)
        self.fuse = nn.Sequential(
            nn.Linear(size.latent + size.condition, size.latent),
            nn.SiLU(),
            nn.Linear(size.latent, size.latent),
        )
        self.heads = CrystalHeads(size, max_atoms)
        self.properties = PropertyHeads(learnt, size)
        self.decoder = Decoder(size)

    @property
    def scale(self) -> LatticeScale:
        """Standardisation of the lattice numbers."""
        mean, std = self.scale_mean, self.scale_std
        assert isinstance(mean, Tensor)
        assert isinstance(std, Tensor)
        return LatticeScale(mean=mean.double().cpu(), std=std.double().cpu())

    def encode(self, crystals: PaddedCrystals) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Return mean and log-variance of the latents of clean crystals."""
        return self.encoder(crystals, cells(self.scale, crystals.y, crystals.n_atoms))

    def fused(self, latent: Float[Tensor, "b k"], wishes: Wishes) -> Float[Tensor, "b k"]:
        """Return latents with the conditions in them, which heads and decoder work from."""
        both = torch.cat([latent, self.conditions(wishes).to(latent.dtype)], dim=1)
        return latent + self.fuse(both).to(latent.dtype)
