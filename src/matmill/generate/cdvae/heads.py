"""Heads on the latent: number of atoms, lattice, composition; and the auxiliary property heads."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from matmill.generate.adapters import AddedProperty
from matmill.generate.cdvae.conditions import standard
from matmill.generate.cdvae.settings import CdvaeSize
from matmill.generate.state import N_ELEMENTS

_HIDDEN = 256
_REACH = 3.0


def _head(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, n_out))


class CrystalHeads(nn.Module):
    """What a latent says of the whole crystal.

    Args:
        size: Width of the latent.
        max_atoms: Largest cell.
    """

    def __init__(self, size: CdvaeSize, max_atoms: int) -> None:
        super().__init__()
        self.count = nn.Embedding(max_atoms + 1, size.latent)
        self.n_atoms_head = _head(size.latent, max_atoms + 1)
        self.lattice_head = _head(size.latent, 6)
        self.composition_head = _head(size.latent, N_ELEMENTS)

    def n_atoms(self, latent: Float[Tensor, "b k"]) -> Float[Tensor, "b m"]:
        """Return logits of 0, 1, … atoms."""
        return self.n_atoms_head(latent).float()

    def lattice(
        self, latent: Float[Tensor, "b k"], n_atoms: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 6"]:
        """Return standardised lattice numbers for cells of so many atoms."""
        return self.lattice_head(latent + self.count(n_atoms)).float()

    def composition(self, latent: Float[Tensor, "b k"]) -> Float[Tensor, "b e"]:
        """Return log-probabilities of the elements Z = 1 to 100 for any one atom."""
        return self.composition_head(latent).float().log_softmax(-1)


class PropertyHeads(nn.Module):
    """Predict the conditions from the latent, which orders the latent space by them.

    Args:
        learnt: The columns.
        size: Width of the latent.
    """

    def __init__(self, learnt: Sequence[AddedProperty], size: CdvaeSize) -> None:
        super().__init__()
        self.learnt = tuple(learnt)
        self.heads = nn.ModuleList(_head(size.latent, 1) for _ in learnt)

    def forward(self, latent: Float[Tensor, "b k"]) -> Float[Tensor, "b p"]:
        """Return values scaled to [0, 1] over six standard deviations, see `scaled`."""
        if not len(self.heads):
            return latent.new_zeros(len(latent), 0).float()
        return torch.cat([head(latent) for head in self.heads], dim=1).float()

    def scaled(self, values: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Return values in their units as the heads predict them; NaN stays NaN."""
        return (standard(values, self.learnt).clamp(-2 * _REACH, 2 * _REACH) + _REACH) / (
            2 * _REACH
        )

    def in_units(self, scaled: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Return predictions in the units of the columns."""
        x = scaled.double() * 2 * _REACH - _REACH
        columns = [p.value(x[:, i]) for i, p in enumerate(self.learnt)]
        return torch.stack(columns, dim=1) if columns else x
