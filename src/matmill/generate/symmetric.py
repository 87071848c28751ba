"""Training crystals in the symmetric mode: standard primitive cells, the group acting on them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.generate.conditions import Conditions
from matmill.generate.orbits import Orbits
from matmill.generate.state import DenseCrystals, LatticeScale, to_dense

SYMPREC = 0.1  # Å; what counts as symmetric in the training data


@dataclass(frozen=True, kw_only=True)
class SymmetricBatch:
    """Clean crystals of one size in standard primitive cells, with their orbits.

    Their conditions always name the space group: in this mode it is part of the state.
    """

    crystals: DenseCrystals
    conditions: Conditions
    orbits: Orbits
    scale: LatticeScale

    def __len__(self) -> int:
        return len(self.crystals)

    def select(self, index: Tensor) -> "SymmetricBatch":
        """Return these rows."""
        c = self.crystals
        return replace(
            self,
            crystals=DenseCrystals(z=c.z[index], f=c.f[index], y=c.y[index]),
            conditions=self.conditions.select(index),
            orbits=self.orbits.select(index),
        )

    def to(self, device: str | torch.device) -> "SymmetricBatch":
        """Return a copy on another device."""
        return replace(
            self,
            crystals=self.crystals.to(device),
            conditions=self.conditions.to(device),
            orbits=self.orbits.to(device),
        )

    def shown(self, rng: torch.Generator) -> Conditions:
        """Hide conditions at random, as in training of the general mode, but never the group."""
        c = self.conditions
        return replace(c.dropped(rng), space_group=c.space_group, crystal_system=c.crystal_system)


class SymmetricSet:
    """Crystals by size in the symmetric mode, served as shuffled batches of one size each.

    Args:
        batch: Crystals with the scalars of `SCALARS` in their properties, any cells; those whose
            primitive cell has more than ``max_atoms`` atoms are left out.
        scale: Lattice scale of the network.
        max_atoms: Largest primitive cell.
        n_tokens: Tokens (atoms + 1) a batch.
    """

    def __init__(
        self, batch: CrystalBatch, scale: LatticeScale, *, max_atoms: int, n_tokens: int
    ) -> None:
        self.n_tokens = n_tokens
        primitive = symmetry.primitive(batch, symprec=SYMPREC)
        number = symmetry.find(batch, symprec=SYMPREC)
        usable = number.found & (primitive.n_atoms <= max_atoms)
        primitive, groups = primitive.select(usable), number.number[usable]
        self.groups: dict[int, SymmetricBatch] = {}
        for n, (index, crystals) in to_dense(primitive, scale).items():
            rows = primitive.select(index)
            orbits, fits = Orbits.of_crystals(rows, groups[index])
            kept = DenseCrystals(z=crystals.z[fits], f=crystals.f[fits], y=crystals.y[fits])
            if len(kept):
                self.groups[n] = SymmetricBatch(
                    crystals=kept,
                    conditions=Conditions.of(rows.select(fits), groups[index][fits]),
                    orbits=orbits,
                    scale=scale,
                )

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups.values())

    def n_batches(self) -> int:
        """Return how many batches an epoch has."""
        return sum(-(-len(group) // self._size(n)) for n, group in self.groups.items())

    def plan(self, rng: torch.Generator) -> list[tuple[int, Tensor]]:
        """Return (size, rows) of every batch of an epoch, in order of size."""
        found: list[tuple[int, Tensor]] = []
        for n, group in self.groups.items():
            order = torch.randperm(len(group), generator=rng)
            found += [(n, part) for part in order.split(self._size(n))]
        return found

    def batch(self, n: int, rows: Tensor) -> SymmetricBatch:
        """Return rows of one size."""
        return self.groups[n].select(rows)

    def epoch(self, rng: torch.Generator) -> Iterator[SymmetricBatch]:
        """Yield every crystal once, in batches of one size, in random order."""
        plan = self.plan(rng)
        for i in torch.randperm(len(plan), generator=rng).tolist():
            yield self.batch(*plan[i])

    def _size(self, n: int) -> int:
        return max(1, self.n_tokens // (n + 1))
