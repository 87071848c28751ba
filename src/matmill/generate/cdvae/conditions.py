"""Conditions of Con-CDVAE: numbers as bumps on a grid, classes as embeddings, one vector of all.

Grids span the training values in standard deviations (straightened where they are skewed), not
fixed ranges in eV, so that any column of any table can be a condition. Embeddings are summed where
the paper concatenates them: a sum is a concatenation and a linear layer, and a new condition can
be added to trained weights without changing their shapes.

Source:
    Ye et al., Con-CDVAE: A method for the conditional generation of crystal structures (2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from matmill.generate.adapters import AddedProperty

_N_BUMPS = 25
_REACH = 3.0
_HIDDEN = 64
N_SYSTEMS, N_GROUPS = 7, 230


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What crystals are asked for, or what is known of them; NaN and 0 are "nothing".

    Attributes:
        values: One column per condition, in its unit, ``(b, n_columns)``.
        crystal_system: 1..7, ``(b,)``.
        space_group: 1..230, ``(b,)``.
        n_atoms: 1.., ``(b,)``.
    """

    values: Float[Tensor, "b k"]
    crystal_system: Int[Tensor, " b"]
    space_group: Int[Tensor, " b"]
    n_atoms: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.values)

    def select(self, index: Tensor) -> "Wishes":
        """Return these rows."""
        return Wishes(**{name: t[index] for name, t in vars(self).items()})

    def to(self, device: str | torch.device) -> "Wishes":
        """Return a copy on another device."""
        return Wishes(**{name: t.to(device) for name, t in vars(self).items()})

    def without_extras(self, hidden: Tensor | None = None) -> "Wishes":
        """Return the same without symmetry and size, everywhere or where ``hidden`` is True."""
        if hidden is None:
            hidden = torch.ones(len(self), dtype=torch.bool, device=self.values.device)
        extras = ("crystal_system", "space_group", "n_atoms")
        return replace(
            self, **{name: getattr(self, name).masked_fill(hidden, 0) for name in extras}
        )

    def with_hidden(self, chance: float, rng: torch.Generator) -> "Wishes":
        """Return the same with each value hidden at this chance."""
        u = torch.rand(self.values.shape, generator=rng, device=self.values.device)
        return replace(self, values=self.values.masked_fill(u < chance, torch.nan))


class NumberEmbedding(nn.Module):
    """Bumps of a standardised number, then three layers; a learnt vector where it is unknown."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_N_BUMPS + 1, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, width),
        )
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return vectors for numbers in standard deviations, NaN where unknown."""
        known = torch.isfinite(x)
        x = x.nan_to_num(0.0).clamp(-2 * _REACH, 2 * _REACH)[:, None]
        centres = torch.linspace(-_REACH, _REACH, _N_BUMPS, device=x.device)
        width = 2 * _REACH / (_N_BUMPS - 1)
        bumps = torch.exp(-0.5 * ((x - centres) / width).square())
        vectors = self.layers(torch.cat([bumps, x], dim=1))
        return torch.where(known[:, None], vectors, self.unknown.to(vectors.dtype))


class ConditionEmbedding(nn.Module):
    """Turns `Wishes` into one vector, ``(b, width)``.

    Args:
        learnt: Statistics of the columns, in the order of `Wishes.values`.
        width: Of the vector.
        max_atoms: Largest cell; with it symmetry and size are read too, as the prior does.
    """

    def __init__(
        self, learnt: Sequence[AddedProperty], width: int, *, max_atoms: int | None = None
    ) -> None:
        super().__init__()
        self.learnt = tuple(learnt)
        self.numbers = nn.ModuleList(NumberEmbedding(width) for _ in learnt)
        self.reads_extras = max_atoms is not None
        if max_atoms is not None:
            self.crystal_system = nn.Embedding(N_SYSTEMS + 1, width)
            self.space_group = nn.Embedding(N_GROUPS + 1, width)
            self.n_atoms = nn.Embedding(max_atoms + 1, width)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, wishes: Wishes) -> Float[Tensor, "b d"]:
        """Return the vector of everything that is asked for."""
        first = self.mix[0]
        assert isinstance(first, nn.Linear)
        total = first.weight.new_zeros(len(wishes), first.in_features)
        x = standard(wishes.values, self.learnt)
        for i, embed in enumerate(self.numbers):
            total = total + embed(x[:, i])
        if self.reads_extras:
            total = total + self.crystal_system(wishes.crystal_system)
            total = total + self.space_group(wishes.space_group) + self.n_atoms(wishes.n_atoms)
        return self.mix(total)


def standard(values: Float[Tensor, "b k"], learnt: Sequence[AddedProperty]) -> Float[Tensor, "b k"]:
    """Return values in standard deviations from the mean of each column; NaN stays."""
    if not learnt:
        return values.float()
    columns = [p.standard(values[:, i].double()) for i, p in enumerate(learnt)]
    # The straightening clamps, and would make a number of an unknown value.
    x = torch.stack(columns, dim=1).float()
    return torch.where(torch.isfinite(values), x, torch.nan)
