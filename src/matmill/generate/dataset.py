"""Training crystals of the flow: which are used, in which cell, with which conditions known."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.reduction import niggli
from matmill.errors import DataError
from matmill.generate.conditions import SCALARS, Conditions, ScalarSchema
from matmill.generate.state import N_ELEMENTS, DenseCrystals, LatticeScale, to_dense

NOBLE_GASES = (2, 10, 18, 36, 54, 86)


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Clean crystals of one size with everything known about them."""

    crystals: DenseCrystals
    conditions: Conditions

    def to(self, device: str | torch.device) -> "TrainingBatch":
        """Return a copy on another device."""
        return TrainingBatch(
            crystals=self.crystals.to(device), conditions=self.conditions.to(device)
        )


def usable(batch: CrystalBatch, *, max_atoms: int) -> CrystalBatch:
    """Return the crystals that the flow is trained on, in Niggli cells.

    Left out: more than ``max_atoms`` atoms, noble gases, elements beyond Z = 100, cells that
    cannot be reduced.

    Raises:
        DataError: If nothing is left.
    """
    odd = torch.isin(batch.atomic_numbers, torch.tensor(NOBLE_GASES))
    odd |= (batch.atomic_numbers < 1) | (batch.atomic_numbers > N_ELEMENTS)
    n_odd = torch.zeros(len(batch), dtype=torch.int64).index_add_(
        0, batch.crystal_index, odd.long()
    )
    kept = batch.select((n_odd == 0) & (batch.n_atoms <= max_atoms))
    kept, reduced = niggli(kept)
    kept = kept.select(reduced)
    if not len(kept):
        raise DataError(
            f"None of {len(batch)} crystals can be trained on: at most {max_atoms} atoms, "
            "no noble gases, a cell that can be reduced."
        )
    return kept


class TrainingSet:
    """Crystals by size, served as shuffled batches of one size each.

    Args:
        batch: Crystals as `usable` returns them; scalars of `SCALARS` in their properties.
        space_group: Numbers 1..230, 0 where unknown, ``(n_crystals,)``.
        scale: Lattice scale; measured on these crystals when None.
        n_tokens: Tokens (atoms + 1) a batch.
    """

    def __init__(
        self,
        batch: CrystalBatch,
        space_group: Int[Tensor, " n"],
        *,
        scale: LatticeScale | None = None,
        n_tokens: int = 1660,
    ) -> None:
        self.scale = scale or LatticeScale.fit(batch)
        self.n_tokens = n_tokens
        conditions = Conditions.of(batch, space_group)
        self.schema = {
            name: ScalarSchema.fit(name, conditions.scalars[:, i]) for i, name in enumerate(SCALARS)
        }
        self.groups = {
            n: TrainingBatch(crystals=crystals, conditions=conditions.select(index))
            for n, (index, crystals) in to_dense(batch, self.scale).items()
        }
        # How often each (size, space group) occurs: what unconditional sampling draws from.
        pairs = torch.stack([batch.n_atoms, space_group], dim=1)
        self.shapes, self.shape_counts = torch.unique(pairs, dim=0, return_counts=True)
        self.elements = torch.unique(batch.atomic_numbers)

    def __len__(self) -> int:
        return sum(len(group.crystals) for group in self.groups.values())

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[TrainingBatch]:
        """Yield every crystal once, in batches of one size, in random order."""
        del number  # the order comes from the generator alone
        plan = []
        for n, group in self.groups.items():
            order = torch.randperm(len(group.crystals), generator=rng)
            plan += [(n, part) for part in order.split(max(1, self.n_tokens // (n + 1)))]
        for i in torch.randperm(len(plan), generator=rng).tolist():
            n, part = plan[i]
            group = self.groups[n]
            crystals = group.crystals
            yield TrainingBatch(
                crystals=DenseCrystals(z=crystals.z[part], f=crystals.f[part], y=crystals.y[part]),
                conditions=group.conditions.select(part),
            )

    def n_batches(self) -> int:
        """Return how many batches an epoch has."""
        return sum(
            -(-len(group.crystals) // max(1, self.n_tokens // (n + 1)))
            for n, group in self.groups.items()
        )
