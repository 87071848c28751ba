"""Training crystals of the flow: which are used, in which cell, with which conditions known."""

from abc import ABC, abstractmethod
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


class SizedBatches(ABC):
    """Crystals by size, served as shuffled batches of one size each.

    Subclasses say where the rows are; the plan of an epoch is the same wherever they are.

    Attributes:
        counts: How many crystals there are of each size, by size in ascending order.
        n_tokens: Tokens (atoms + 1) a batch.
        scale: Lattice scale of the rows.
        schema: What is known of each scalar.
        shapes: Sizes and space groups that occur, ``(n_shapes, 2)``: what unconditional sampling
            draws from.
        shape_counts: How often each occurs, ``(n_shapes,)``.
        elements: Atomic numbers that occur, ascending.
    """

    counts: dict[int, int]
    n_tokens: int
    scale: LatticeScale
    schema: dict[str, ScalarSchema]
    shapes: Int[Tensor, "s 2"]
    shape_counts: Int[Tensor, " s"]
    elements: Int[Tensor, " e"]

    @abstractmethod
    def rows(self, n: int, index: Int[Tensor, " b"]) -> TrainingBatch:
        """Return crystals of one size by their positions among those of that size."""

    def __len__(self) -> int:
        return sum(self.counts.values())

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[TrainingBatch]:
        """Yield every crystal once, in batches of one size, in random order."""
        del number  # the order comes from the generator alone
        plan = []
        for n, count in self.counts.items():
            order = torch.randperm(count, generator=rng)
            plan += [(n, part) for part in order.split(max(1, self.n_tokens // (n + 1)))]
        for i in torch.randperm(len(plan), generator=rng).tolist():
            yield self.rows(*plan[i])

    def n_batches(self) -> int:
        """Return how many batches an epoch has."""
        return sum(
            -(-count // max(1, self.n_tokens // (n + 1))) for n, count in self.counts.items()
        )


class TrainingSet(SizedBatches):
    """Crystals in memory.

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
        self.counts = {n: len(group.crystals) for n, group in self.groups.items()}
        pairs = torch.stack([batch.n_atoms, space_group], dim=1)
        self.shapes, self.shape_counts = torch.unique(pairs, dim=0, return_counts=True)
        self.elements = torch.unique(batch.atomic_numbers)

    def rows(self, n: int, index: Int[Tensor, " b"]) -> TrainingBatch:
        """Return crystals of one size by their positions among those of that size."""
        group = self.groups[n]
        c = group.crystals
        return TrainingBatch(
            crystals=DenseCrystals(z=c.z[index], f=c.f[index], y=c.y[index]),
            conditions=group.conditions.select(index),
        )
