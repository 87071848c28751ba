"""Batches of rows bounded by atoms: similar sizes together, the same order for the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.errors import InputError
from matmill.randomness import child

_POOL_BATCHES = 32  # sizes are sorted within about this many batches, so batches still differ


@dataclass(frozen=True, slots=True)
class Position:
    """Where a loader stands: the next batch is number ``batch`` of epoch ``epoch``."""

    epoch: int = 0
    batch: int = 0


class AtomBudgetLoader:
    """Deals out index tensors, epoch after epoch, at most ``max_atoms`` atoms each.

    An epoch has every row exactly once. The order depends on ``seed`` and the number of the
    epoch alone, so a run that stops can go on at any `Position` without replaying the past.

    Args:
        n_atoms: Atoms of each crystal, ``(n_crystals,)``.
        max_atoms: Most atoms in one batch.
        seed: Of the shuffling.
        max_crystals: Most crystals in one batch, if that should be bounded too.
        is_padded: Count a batch as its number of crystals times its largest one, the cost of a
            network that pads.
        is_shuffled: Off for evaluation: rows then come by size, in the same order every epoch.

    Raises:
        InputError: If one crystal alone is larger than ``max_atoms``.
    """

    def __init__(
        self,
        n_atoms: Int[Tensor, " n_crystals"],
        max_atoms: int,
        *,
        seed: int = 0,
        max_crystals: int | None = None,
        is_padded: bool = False,
        is_shuffled: bool = True,
    ) -> None:
        self.n_atoms = n_atoms.detach().cpu().long()
        self.max_atoms = max_atoms
        self.max_crystals = max_crystals
        self.seed = seed
        self.is_padded = is_padded
        self.is_shuffled = is_shuffled
        if max_crystals is not None and max_crystals < 1:
            raise InputError(f"max_crystals is {max_crystals}; at least 1 is needed.")
        if len(self.n_atoms) and int(self.n_atoms.max()) > max_atoms:
            row = int(self.n_atoms.argmax())
            raise InputError(
                f"Crystal {row} has {int(self.n_atoms[row])} atoms, more than fit in a batch "
                f"(max_atoms={max_atoms}). Raise max_atoms, or leave out larger crystals."
            )

    def epoch(
        self, number: int, rng: torch.Generator | None = None, *, start: int = 0
    ) -> list[Int[Tensor, " n_batch"]]:
        """Return the batches of one epoch as row indices, from batch ``start`` on.

        Args:
            number: Of the epoch, from 0.
            rng: Shuffles instead of the loader's own seed, where a fit loop brings one.
            start: First batch that is wanted.
        """
        if not len(self.n_atoms):
            return []
        if not self.is_shuffled:
            return self._cut(torch.argsort(self.n_atoms, stable=True))[start:]
        rng = rng or child(self.seed, "loader", number)
        order = self._bucket(torch.randperm(len(self.n_atoms), generator=rng))
        batches = self._cut(order)
        ranks = torch.randperm(len(batches), generator=rng).tolist()
        return [batches[rank] for rank in ranks[start:]]

    def batches(
        self, start: Position | None = None
    ) -> Iterator[tuple[Position, Int[Tensor, " n_batch"]]]:
        """Yield (position, rows) without end, from ``start`` on."""
        if not len(self.n_atoms):
            return
        epoch, first = (start.epoch, start.batch) if start else (0, 0)
        while True:
            for offset, rows in enumerate(self.epoch(epoch, start=first)):
                yield Position(epoch, first + offset), rows
            epoch, first = epoch + 1, 0

    def _bucket(self, order: Int[Tensor, " n_crystals"]) -> Int[Tensor, " n_crystals"]:
        """Sort by size inside pools, up and down in turn so that sizes also meet at the seams."""
        mean_size = float(self.n_atoms.float().mean())
        pool = max(1, int(_POOL_BATCHES * self.max_atoms / mean_size))
        if self.max_crystals is not None:
            pool = min(pool, _POOL_BATCHES * self.max_crystals)
        pieces = []
        for turn, rows in enumerate(order.split(pool)):
            ranks = torch.argsort(self.n_atoms[rows], stable=True, descending=turn % 2 == 1)
            pieces.append(rows[ranks])
        return torch.cat(pieces)

    def _cut(self, order: Int[Tensor, " n_crystals"]) -> list[Int[Tensor, " n_batch"]]:
        """Cut an order into runs that keep the bounds."""
        limit = self.max_crystals or len(order)
        cuts, first, used, largest = [], 0, 0, 0
        for place, size in enumerate(self.n_atoms[order].tolist()):
            largest = max(largest, size)
            cost = largest * (place - first + 1) if self.is_padded else used + size
            if place > first and (cost > self.max_atoms or place - first >= limit):
                cuts.append(place - first)
                first, used, largest = place, 0, size
            used += size
        cuts.append(len(order) - first)
        return list(order.split(cuts))
