"""Training crystals in the symmetric mode: standard primitive cells, the group acting on them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.generate.conditions import Conditions
from matmill.generate.dataset import SizedBatches, TrainingBatch
from matmill.generate.orbits import Orbits
from matmill.generate.state import DenseCrystals, LatticeScale, to_dense


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
    """Crystals by size in the symmetric mode.

    Args:
        batch: Crystals with the scalars of `SCALARS` in their properties, any cells; those whose
            primitive cell has more than ``max_atoms`` atoms are left out.
        scale: Lattice scale of the network.
        max_atoms: Largest primitive cell.
    """

    def __init__(self, batch: CrystalBatch, scale: LatticeScale, *, max_atoms: int) -> None:
        primitive = symmetry.primitive(batch, symprec=symmetry.SYMPREC)
        number = symmetry.find(batch, symprec=symmetry.SYMPREC)
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


class WithSymmetric(SizedBatches):
    """General batches, and in between batches of the symmetric mode.

    Args:
        general: What serves the general mode; its facts are those of the whole.
        symmetric: The crystals in the symmetric mode.
        passes: How often each of these is seen while the general ones are seen once.
    """

    def __init__(self, general: SizedBatches, symmetric: SymmetricSet, *, passes: int) -> None:
        for name in ("n_tokens", "scale", "schema", "shapes", "shape_counts", "elements"):
            setattr(self, name, getattr(general, name))
        self.counts = general.counts
        self.general, self.symmetric, self.passes = general, symmetric, passes

    def rows(self, n: int, index: Tensor) -> TrainingBatch:
        """Return general crystals of one size by their positions."""
        return self.general.rows(n, index)

    def __len__(self) -> int:
        return len(self.general) + self.passes * len(self.symmetric)

    def n_batches(self) -> int:
        """Return how many batches of both modes an epoch has."""
        sizes = {n: len(group) for n, group in self.symmetric.groups.items()}
        symmetric = sum(-(-count // self._size(n)) for n, count in sizes.items())
        return self.general.n_batches() + self.passes * symmetric

    def epoch(  # pyright: ignore[reportIncompatibleMethodOverride] - two kinds of batches
        self, number: int, rng: torch.Generator
    ) -> Iterator[TrainingBatch | SymmetricBatch]:
        """Yield general crystals once and symmetric ones ``passes`` times, in random order."""
        del number  # the order comes from the generator alone
        plan: list[tuple[bool, int, Tensor]] = []
        for n, count in self.counts.items():
            order = torch.randperm(count, generator=rng)
            plan += [(False, n, part) for part in order.split(self._size(n))]
        for n, group in list(self.symmetric.groups.items()) * self.passes:
            order = torch.randperm(len(group), generator=rng)
            plan += [(True, n, part) for part in order.split(self._size(n))]
        for i in torch.randperm(len(plan), generator=rng).tolist():
            is_symmetric, n, part = plan[i]
            yield self.symmetric.groups[n].select(part) if is_symmetric else self.rows(n, part)

    def _size(self, n: int) -> int:
        return max(1, self.n_tokens // (n + 1))
