"""Labelled crystals as an adapter learns from them: by size, told a value or a range around it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.facts import density
from matmill.data.groups import space_groups
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError
from matmill.generate.adapters import AddedProperty
from matmill.generate.conditions import RANGE_HALF_WIDTHS, Conditions
from matmill.generate.dataset import TrainingBatch, usable
from matmill.generate.state import DenseCrystals, LatticeScale, to_dense

_VIEWS_PER_EPOCH = 2048
# In standard deviations: labels are nearly unique, and an exact one would name its crystal.
_BLUR = 0.15


class LabelledSet:
    """Labelled crystals by size, each shown many times with a value or a range around it.

    The property is shown in every view: where it is hidden the additions are zero and have no
    gradient, so that such a view would teach nothing.

    Args:
        table: Crystals as the base can be trained on, all with labels.
        column: Of the labels.
        learnt: Their statistics.
        scale: Of the base's lattice numbers.
        n_tokens: Atoms plus lattice tokens in a batch.
        point_share: Share of the views that show the value itself.
    """

    def __init__(
        self,
        table: LabelledCrystals,
        column: str,
        learnt: AddedProperty,
        scale: LatticeScale,
        *,
        n_tokens: int,
        point_share: float,
    ) -> None:
        self.groups = groups_of(table, column, scale)
        self.learnt, self.n_tokens, self.point_share = learnt, n_tokens, point_share
        # With few labels a batch of one size would be nearly empty: fill it with other noise.
        self.repeats = max(1, math.ceil(_VIEWS_PER_EPOCH / len(table)))

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[TrainingBatch]:
        """Yield every crystal equally often, in batches of one size, in random order."""
        del number  # the order comes from the generator alone
        plan = []
        for n, group in self.groups.items():
            size = max(1, self.n_tokens // (n + 1))
            order = torch.randperm(len(group.crystals) * self.repeats, generator=rng)
            plan += [(n, part % len(group.crystals)) for part in order.split(size)]
        for i in torch.randperm(len(plan), generator=rng).tolist():
            n, part = plan[i]
            c, conditions = self.groups[n].crystals, self.groups[n].conditions.select(part)
            spans = widened(conditions.added[:, 0, 0], self.learnt, self.point_share, rng)
            yield TrainingBatch(
                crystals=DenseCrystals(z=c.z[part], f=c.f[part], y=c.y[part]),
                conditions=replace(conditions, added=spans[:, None]),
            )


def widened(
    values: Float[Tensor, " b"], learnt: AddedProperty, point_share: float, rng: torch.Generator
) -> Float[Tensor, "b 2"]:
    """Return ranges that hold the values anywhere in them; some are the values, a little blurred.

    Args:
        values: Labels in their unit.
        learnt: Their statistics.
        point_share: Share of values; the others are ranges.
        rng: Source of randomness.
    """
    u = torch.rand(3, len(values), generator=rng)
    blurred = learnt.standard(values) + _BLUR * torch.randn(len(values), generator=rng)
    narrow, wide = RANGE_HALF_WIDTHS
    half = narrow + (wide - narrow) * u[1]
    middle = learnt.standard(values) + half * (2 * u[2] - 1)
    low, high = learnt.value(middle - half), learnt.value(middle + half)
    is_point, point = u[0] < point_share, learnt.value(blurred)
    return torch.stack(
        [torch.where(is_point, point, low), torch.where(is_point, point, high)], 1
    ).float()


def placeable(table: LabelledCrystals, card: dict[str, Any]) -> LabelledCrystals:
    """Return the rows that the base can place, in Niggli cells, with what it is told of them."""
    batch = table.crystals
    groups = space_groups(batch)
    batch = batch.with_properties(spacegroup=groups.double())
    if "density_g_cm3" not in batch.properties:
        batch = batch.with_properties(density_g_cm3=density(batch))
    unknown = ~torch.isin(batch.atomic_numbers, torch.tensor(card["elements"]))
    n_unknown = torch.zeros(len(batch), dtype=torch.int64).index_add_(
        0, batch.crystal_index, unknown.long()
    )
    batch = batch.select(n_unknown == 0)
    if len(batch):
        try:
            batch = usable(batch, max_atoms=card["max_atoms"])
        except DataError:
            batch = batch.select(torch.zeros(0, dtype=torch.int64))
    return LabelledCrystals(crystals=batch, source=table.source)


def groups_of(
    table: LabelledCrystals, column: str, scale: LatticeScale
) -> dict[int, TrainingBatch]:
    """Return the crystals of each size, told all that is known of them and their labels."""
    batch = table.crystals
    labels = batch.properties[column].float()
    known = Conditions.of(batch, batch.properties["spacegroup"].long())
    known = replace(known, added=labels[:, None, None].expand(-1, 1, 2).contiguous())
    return {
        n: TrainingBatch(crystals=crystals, conditions=known.select(index))
        for n, (index, crystals) in to_dense(batch, scale).items()
    }
