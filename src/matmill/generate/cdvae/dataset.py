"""Training crystals of a CDVAE with all that is known of them, in batches of all sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import DataError, InputError
from matmill.generate.adapters import AddedProperty, unit_of
from matmill.generate.cdvae.conditions import Wishes
from matmill.generate.cdvae.padded import PaddedCrystals, pad
from matmill.generate.conditions import crystal_system_of
from matmill.generate.state import LatticeScale

_RUNS = 3  # a batch is sorted by size and cut, so that small cells are not padded to large ones
_LEAST_PER_RUN = 16


@dataclass(frozen=True, kw_only=True)
class View:
    """Crystals of similar size and what is known of them."""

    crystals: PaddedCrystals
    known: Wishes

    def to(self, device: str | torch.device) -> "View":
        """Return a copy on another device."""
        return View(crystals=self.crystals.to(device), known=self.known.to(device))


class CdvaeSet:
    """Crystals in memory.

    Args:
        batch: Crystals in Niggli cells, as `generate.dataset.usable` returns them.
        space_group: Numbers 1..230, 0 where unknown, ``(n_crystals,)``.
        columns: Conditions, in order; NaN or absent where unknown.
        scale: Of the lattice numbers.
        batch_size: Crystals a batch.
    """

    def __init__(
        self,
        batch: CrystalBatch,
        space_group: Int[Tensor, " n"],
        columns: Sequence[str],
        *,
        scale: LatticeScale,
        batch_size: int,
    ) -> None:
        self.crystals = pad(batch, scale)
        self.known = wishes_of(batch, space_group, columns)
        self.batch_size = batch_size
        # Few crystals come several times an epoch: the loop has a cost of its own per epoch.
        self.repeats = max(1, -(-8 * batch_size // max(len(batch), 1)))

    def __len__(self) -> int:
        return len(self.crystals)

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[tuple[View, ...]]:
        """Yield every crystal equally often, in random order."""
        del number  # the order comes from the generator alone
        order = torch.cat([torch.randperm(len(self), generator=rng) for _ in range(self.repeats)])
        for rows in order.split(self.batch_size):
            sized = rows[self.crystals.n_atoms[rows].argsort(stable=True)]
            n_runs = max(1, min(_RUNS, len(sized) // _LEAST_PER_RUN))
            yield tuple(self.view(part) for part in sized.tensor_split(n_runs))

    def view(self, rows: Int[Tensor, " k"]) -> View:
        """Return these crystals."""
        return View(crystals=self.crystals.select(rows), known=self.known.select(rows))


def wishes_of(
    batch: CrystalBatch, space_group: Int[Tensor, " n"], columns: Sequence[str]
) -> Wishes:
    """Return everything that is known about crystals."""
    nan = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    values = [batch.properties.get(name, nan).double() for name in columns]
    return Wishes(
        values=torch.stack(values, dim=1).float() if values else torch.zeros(len(batch), 0),
        crystal_system=crystal_system_of(space_group.long()),
        space_group=space_group.long(),
        n_atoms=batch.n_atoms.long(),
    )


def learnt_columns(
    batch: CrystalBatch, columns: Sequence[str], start: Sequence[AddedProperty] = ()
) -> tuple[AddedProperty, ...]:
    """Return the statistics of the conditions: those of the start, then of the new columns.

    Raises:
        InputError: If a column is not there, lists those that are; or is given twice.
        DataError: If a column has fewer than two different values.
    """
    if len(set(columns)) < len(columns):
        raise InputError(f"A condition is given twice: {', '.join(columns)}.")
    old = {p.name for p in start}
    added = []
    for name in columns:
        if name in old:
            continue
        if name not in batch.properties:
            known = ", ".join(sorted(batch.properties)) or "none"
            raise InputError(f"The table has no column '{name}' to condition on. It has: {known}.")
        values = batch.properties[name]
        values = values[torch.isfinite(values)]
        if len(values) < 2:
            raise DataError(
                f"'{name}' is known for {len(values)} crystals that can be trained on; give more."
            )
        added.append(AddedProperty.fit(name, values, unit=unit_of(name)))
    return (*start, *added)
