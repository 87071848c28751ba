"""The loss of the autoencoder, part by part, as CDVAE and Con-CDVAE have it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from matmill.generate.cdvae.conditions import Wishes
from matmill.generate.cdvae.geometry import cells
from matmill.generate.cdvae.model import Autoencoder
from matmill.generate.cdvae.noise import (
    drawn_rows,
    lost_share,
    noisy_sites,
    noisy_types,
    reach,
    site_levels,
    type_levels,
)
from matmill.generate.cdvae.padded import PaddedCrystals, atom_mean
from matmill.generate.cdvae.settings import LossSettings


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Everything random about one view of a batch.

    Attributes:
        latent: Standard normal, ``(b, k)``.
        site_level: Noise of the sites in Å, ``(b,)``.
        type_level: Noise of the elements, ``(b,)``.
        own_lattice: Whether the decoder works in the predicted cell, ``(b,)``.
    """

    latent: Float[Tensor, "b k"]
    site_level: Float[Tensor, " b"]
    type_level: Float[Tensor, " b"]
    own_lattice: Tensor

    @classmethod
    def draw(cls, model: Autoencoder, b: int, own_lattice: float, rng: torch.Generator) -> "Draws":
        """Draw levels from their lists, for sites and elements apart."""
        noise, device = model.noise, rng.device
        site_rows = drawn_rows(noise.n_levels, b, rng)
        type_rows = torch.randint(noise.n_levels, (b,), generator=rng, device=device)
        return cls(
            latent=torch.randn(b, model.size.latent, generator=rng, device=device),
            site_level=site_levels(noise).to(device)[site_rows],
            type_level=type_levels(noise).to(device)[type_rows],
            own_lattice=torch.rand(b, generator=rng, device=device) < own_lattice,
        )


def view_losses(
    model: Autoencoder,
    crystals: PaddedCrystals,
    known: Wishes,
    shown: Wishes,
    settings: LossSettings,
    rng: torch.Generator,
) -> dict[str, Float[Tensor, " b"]]:
    """Return the parts of the loss of each crystal, unweighted, for one random view.

    Args:
        model: The autoencoder.
        crystals: Clean crystals.
        known: All that is known of them, for the auxiliary heads.
        shown: What the decoder is told.
        settings: Weighting of levels, and how often the cell is the predicted one.
        rng: Source of randomness.

    Source:
        Xie et al., Crystal Diffusion Variational Autoencoder (2022), equations 2 to 7: with the
        shortest way back d to the clean site, ``½ σ² |d/σ² - s|²`` for the score s.
    """
    draws = Draws.draw(model, len(crystals), settings.own_lattice, rng)
    mean, log_variance = model.encode(crystals)
    latent = mean + (0.5 * log_variance).exp() * draws.latent
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    told = model.fused(latent, shown)

    counts = model.heads.n_atoms(told)
    y = model.heads.lattice(told, crystals.n_atoms)
    log_composition = model.heads.composition(told)
    is_atom = crystals.is_atom
    named = (crystals.z - 1).clamp_min(0)

    y_used = torch.where(draws.own_lattice[:, None], y.detach(), crystals.y)
    lattice = cells(model.scale, y_used, crystals.n_atoms)
    f, back = noisy_sites(crystals, lattice, draws.site_level, rng)
    z = noisy_types(crystals, log_composition, draws.type_level, rng)
    steps, logits = model.decoder(told, z, f, y_used, lattice, is_atom, draws.site_level)
    unit = lost_share(draws.site_level, lattice) * reach(lattice)
    squared = 0.5 * (steps - back / unit[:, None, None]).square().sum(-1)
    if not settings.balanced:
        squared = squared * (unit / draws.site_level).square()[:, None]
    cross = F.cross_entropy(logits.flatten(0, 1), named.flatten(), reduction="none").view_as(named)
    return {
        "n_atoms": F.cross_entropy(counts, crystals.n_atoms, reduction="none"),
        "lattice": (y - crystals.y).square().mean(1),
        "composition": atom_mean(-log_composition.gather(1, named), is_atom),
        "coords": atom_mean(squared, is_atom),
        "types": atom_mean(cross, is_atom) / draws.type_level,
        "divergence": divergence,
        "property": _property_loss(model, latent, known),
    }


def _property_loss(model: Autoencoder, latent: Tensor, known: Wishes) -> Float[Tensor, " b"]:
    """Return the squared errors of the auxiliary heads, summed over the known columns."""
    wanted = model.properties.scaled(known.values)
    is_known = torch.isfinite(wanted)
    error = model.properties(latent) - wanted.nan_to_num(0.0)
    return (error.square() * is_known).sum(1)
