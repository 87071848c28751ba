"""From latents to crystals: the heads say what the whole is, annealing finds the sites."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.generate.cdvae.geometry import cells
from matmill.generate.cdvae.langevin import anneal
from matmill.generate.cdvae.model import Autoencoder
from matmill.generate.cdvae.noise import levels
from matmill.generate.cdvae.wishes import elements_of
from matmill.generate.protocol import GenerationRequest
from matmill.generate.state import DenseCrystals, from_dense
from matmill.generate.streams import Streams

# Small batches stay in the processor's caches; the number is tokens (atoms + 1).
TOKENS_PER_BATCH = 1000


@torch.no_grad()
def decode(
    model: Autoencoder,
    latent: Float[Tensor, "b k"],
    *,
    request: GenerationRequest,
    sizes: Tensor,
    allowed: Bool[Tensor, " e"],
    streams: Streams,
) -> CrystalBatch:
    """Return a crystal for each latent, in order.

    Args:
        model: The autoencoder.
        latent: With the conditions in it.
        request: A formula or a chemical system fixes the elements; ``n_steps`` are the calls of
            the decoder, one for each noise level or a multiple.
        sizes: Which numbers of atoms are allowed, bool over 0 to the largest; or the number of
            each crystal, ``(b,)``.
        allowed: Elements that may occur, Z = 1..100.
        streams: One for each latent.
    """
    if sizes.dtype == torch.bool:
        logits = model.heads.n_atoms(latent).masked_fill(~sizes.to(latent.device), -torch.inf)
        n_atoms = logits.argmax(1).cpu()
    else:
        n_atoms = sizes
    parts, places = [], []
    for n in sorted(set(n_atoms.tolist())):
        every = torch.nonzero(n_atoms == n).flatten()
        for index in every.split(max(1, TOKENS_PER_BATCH // (n + 1))):
            own = streams.select(index)
            crystals = _of_one_size(model, latent[index], n, request, allowed, own)
            parts.append(from_dense(crystals, model.scale))
            places.append(index)
    if not parts:
        return CrystalBatch.empty()
    return concatenate(parts).select(torch.cat(places).argsort())


def _of_one_size(
    model: Autoencoder,
    latent: Float[Tensor, "b k"],
    n: int,
    request: GenerationRequest,
    allowed: Bool[Tensor, " e"],
    streams: Streams,
) -> DenseCrystals:
    b, device = len(latent), latent.device
    count = torch.full((b,), n, device=device)
    y = model.heads.lattice(latent, count)
    lattice = cells(model.scale, y, count)
    z = elements_of(request, model.heads.composition(latent), n, allowed)
    noise = model.noise
    n_levels = min(request.n_steps, noise.n_levels)
    per_level = request.n_steps // n_levels
    u = streams.uniform("sample", 3 * n * (1 + n_levels * per_level)).to(device)
    is_atom = torch.ones(b, n, dtype=torch.bool, device=device)

    def answer(z: Tensor, f: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        steps, logits = model.decoder(latent, z, f, y, lattice, is_atom, level)
        return model.decoder.displacement(steps, level, lattice), logits

    z, f = anneal(
        answer,
        z,
        lattice,
        levels=levels(noise.coords_largest_a, noise.coords_smallest_a, n_levels).to(device)
        if n_levels > 1
        else torch.tensor([noise.coords_largest_a], device=device),
        steps_per_level=per_level,
        start=u[:, : 3 * n].reshape(b, n, 3),
        noise=torch.special.ndtri(u[:, 3 * n :]).reshape(b, -1, n, 3),
        allowed=allowed,
        free_types=not (request.formula or request.system),
    )
    return DenseCrystals(z=z, f=f, y=y)
