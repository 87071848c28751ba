"""Corruption of sites and elements, level by level.

Source:
    Xie et al., Crystal Diffusion Variational Autoencoder (2022), section 3.3; Song and Ermon,
    Generative modeling by estimating gradients of the data distribution (2019).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.periodic import wrap
from matmill.generate.cdvae.geometry import nearest_image
from matmill.generate.cdvae.padded import PaddedCrystals
from matmill.generate.cdvae.settings import NoiseSettings

# Standard deviation of a uniform number in [0, 1).
_SATURATION = 12**-0.5


def levels(largest: float, smallest: float, n: int) -> Float[Tensor, " n"]:
    """Return noise levels in equal ratios, the largest first."""
    return torch.logspace(
        float(torch.tensor(largest).log10()), float(torch.tensor(smallest).log10()), n
    )


def site_levels(settings: NoiseSettings) -> Float[Tensor, " n"]:
    """Return the levels of the sites in Å."""
    return levels(settings.coords_largest_a, settings.coords_smallest_a, settings.n_levels)


def drawn_rows(n_levels: int, b: int, rng: torch.Generator) -> Int[Tensor, " b"]:
    """Draw levels, those in the middle more often (a triangle).

    The largest noise is uniform in any cell and the smallest moves nothing that is measured.
    """
    u = torch.rand(2, b, generator=rng, device=rng.device).mean(0)
    return (u * n_levels).long().clamp_max(n_levels - 1)


def type_levels(settings: NoiseSettings) -> Float[Tensor, " n"]:
    """Return the levels of the elements."""
    return levels(settings.types_largest, settings.types_smallest, settings.n_levels)


def noisy_sites(
    crystals: PaddedCrystals,
    lattice: Float[Tensor, "b 3 3"],
    level: Float[Tensor, " b"],
    rng: torch.Generator,
) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n 3"]]:
    """Return noisy fractional sites, and in Å the shortest way back to the clean ones.

    The way back is freed of its mean over the atoms: no network that ignores the origin knows it.
    """
    noise = torch.randn(crystals.f.shape, generator=rng, device=rng.device) * level[:, None, None]
    f = wrap(crystals.f + noise @ torch.linalg.inv(lattice))
    back = nearest_image(crystals.f - f, lattice)
    return f, centred(back, crystals.is_atom)


def noisy_types(
    crystals: PaddedCrystals,
    log_composition: Float[Tensor, "b e"],
    level: Float[Tensor, " b"],
    rng: torch.Generator,
) -> Int[Tensor, "b n"]:
    """Draw elements from one-hot plus the level times the predicted composition, normalised."""
    u = torch.rand(crystals.z.shape, generator=rng, device=rng.device)
    strange = u < (level / (1 + level))[:, None]
    n = crystals.z.shape[1]
    chance = log_composition.detach().float().exp()
    drawn = torch.multinomial(chance, n, replacement=True, generator=rng) + 1
    return torch.where(strange & crystals.is_atom, drawn, crystals.z)


def reach(lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, " b"]:
    """Return how far clean sites are when nothing is known of them, in Å: a uniform step."""
    return _SATURATION * torch.linalg.det(lattice).abs().pow(1 / 3)


def lost_share(level: Float[Tensor, " b"], lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, " b"]:
    """Return in (0, 1) how much noise of this level in Å hides: 1 once it exceeds the cell.

    Times `reach` it is how far the clean sites are expected, the unit of the decoder's answers:
    the level itself while it is small.
    """
    return level / (level.square() + reach(lattice).square()).sqrt()


def centred(vectors: Float[Tensor, "b n 3"], is_atom: Tensor) -> Float[Tensor, "b n 3"]:
    """Return vectors without their mean over the atoms; zero in empty places."""
    weight = is_atom[..., None].to(vectors.dtype)
    mean = (vectors * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
    return (vectors - mean) * weight
