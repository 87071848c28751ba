"""From a latent to a crystal: sites fall into place while the noise is lowered level by level.

The published chain makes 100 Langevin steps a level, each of size σ² with noise √2 σ. For sites
that are known exactly such a step lands at a noise of √2 σ, not σ; here a step keeps a share of
the present noise and adds fresh noise so that the next level is met exactly. All of it kept, the
steps follow the flow of the same score without noise; none of it, they are the published ones with
that factor mended, and the best of what was tried (0, 0.4, 0.7, 0.9 and 1). One step a level does:
two are no better.

Source:
    Xie et al., Crystal Diffusion Variational Autoencoder (2022), algorithm 1; Song et al.,
    Denoising diffusion implicit models (2021), for the steps between levels.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.periodic import wrap

# What the decoder says of noisy crystals of one size: (elements, sites, level) -> (the way to the
# clean sites in Å, element logits).
Answer = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

KEPT_NOISE = 0.0


@torch.no_grad()
def anneal(
    answer: Answer,
    z: Int[Tensor, "b n"],
    lattice: Float[Tensor, "b 3 3"],
    *,
    levels: Float[Tensor, " s"],
    steps_per_level: int,
    start: Float[Tensor, "b n 3"],
    noise: Float[Tensor, "b steps n 3"],
    allowed: Bool[Tensor, " e"],
    free_types: bool,
    kept_noise: float = KEPT_NOISE,
) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n 3"]]:
    """Return elements and fractional sites of clean crystals.

    Args:
        answer: The decoder, with latents and cells in it.
        z: Elements to start from.
        lattice: Cells in Å; they stay.
        levels: Noise of the sites in Å, falling.
        steps_per_level: Steps at each.
        start: Fractional sites to start from; uniform ones have more noise than any level.
        noise: Standard normal numbers for all steps.
        allowed: Elements that may be chosen, Z = 1..100.
        free_types: Whether elements follow the decoder; else they stay.
        kept_noise: Share of the present noise that goes on to the next step, in [0, 1].
    """
    to_frac = torch.linalg.inv(lattice)
    f = wrap(start)
    n_steps = len(levels) * steps_per_level
    fresh = math.sqrt(1 - kept_noise**2)
    for i in range(n_steps):
        level = levels[i // steps_per_level]
        is_last = i == n_steps - 1
        following = 0.0 * level if is_last else levels[(i + 1) // steps_per_level]
        back, logits = answer(z, f, level.expand(len(z)))
        moved = (1 - kept_noise * following / level) * back + following * fresh * noise[:, i]
        f = wrap(f + moved @ to_frac)
        if free_types:
            z = logits.masked_fill(~allowed.to(logits.device), -torch.inf).argmax(-1) + 1
    return z, f
