"""`CrystalBatch`: the one crystal type. Everything between folders is one of these."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from matmill.crystals.periodic import wrap
from matmill.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True, eq=False)
class CrystalBatch:
    """Many crystals of different sizes, stored flat.

    The atoms of crystal 0 come first, then those of crystal 1, and so on.
    Lattice vectors are **rows**: ``cart_coords = frac_coords @ lattice``.

    Attributes:
        lattice: Row lattice vectors in Å, ``(n_crystals, 3, 3)``.
        frac_coords: Fractional coordinates in [0, 1), ``(n_atoms_total, 3)``.
        atomic_numbers: Z of each atom, ``(n_atoms_total,)``; 0 means "masked", in generators only.
        n_atoms: Number of atoms of each crystal, at least 1, ``(n_crystals,)``.
        properties: Values by name, NaN where unknown, each ``(n_crystals,)``.
            Names carry their unit: ``"band_gap_ev"``.
        ids: One stable id per crystal; may be empty when nobody named them.
    """

    lattice: Float[Tensor, "n_crystals 3 3"]
    frac_coords: Float[Tensor, "n_atoms_total 3"]
    atomic_numbers: Int[Tensor, " n_atoms_total"]
    n_atoms: Int[Tensor, " n_crystals"]
    properties: dict[str, Float[Tensor, " n_crystals"]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_rows = int(self.n_atoms.sum())
        if n_rows != len(self.frac_coords) or n_rows != len(self.atomic_numbers):
            raise InputError(
                f"n_atoms adds up to {n_rows}, but frac_coords has {len(self.frac_coords)} rows "
                f"and atomic_numbers {len(self.atomic_numbers)}."
            )
        if len(self.lattice) != len(self.n_atoms):
            raise InputError(
                f"There are {len(self.lattice)} lattices for {len(self.n_atoms)} crystals."
            )
        if self.ids and len(self.ids) != len(self.n_atoms):
            raise InputError(f"There are {len(self.ids)} ids for {len(self.n_atoms)} crystals.")
        for name, values in self.properties.items():
            if len(values) != len(self.n_atoms):
                raise InputError(
                    f"Property '{name}' has {len(values)} values for {len(self.n_atoms)} crystals."
                )

    def __len__(self) -> int:
        return len(self.n_atoms)

    @classmethod
    def empty(cls) -> "CrystalBatch":
        """Return a batch without crystals."""
        return cls(
            lattice=torch.zeros(0, 3, 3, dtype=torch.float64),
            frac_coords=torch.zeros(0, 3, dtype=torch.float64),
            atomic_numbers=torch.zeros(0, dtype=torch.int64),
            n_atoms=torch.zeros(0, dtype=torch.int64),
        )

    @classmethod
    def from_lists(
        cls,
        lattices: Sequence[ArrayLike],
        frac_coords: Sequence[ArrayLike],
        atomic_numbers: Sequence[ArrayLike],
        *,
        ids: Sequence[str] = (),
        properties: dict[str, Sequence[float]] | None = None,
    ) -> "CrystalBatch":
        """Return a float64 batch from nested lists or arrays, one entry per crystal."""
        if not len(lattices):
            return cls.empty()
        coords = [torch.as_tensor(x, dtype=torch.float64).reshape(-1, 3) for x in frac_coords]
        numbers = [torch.as_tensor(z, dtype=torch.int64).reshape(-1) for z in atomic_numbers]
        lattice = [torch.as_tensor(x, dtype=torch.float64).reshape(3, 3) for x in lattices]
        return cls(
            lattice=torch.stack(lattice),
            frac_coords=wrap(torch.cat(coords)),
            atomic_numbers=torch.cat(numbers),
            n_atoms=torch.tensor([len(z) for z in numbers]),
            ids=tuple(ids),
            properties={
                name: torch.as_tensor(values, dtype=torch.float64)
                for name, values in (properties or {}).items()
            },
        )

    @cached_property
    def offsets(self) -> Int[Tensor, " n_crystals"]:
        """Row of the first atom of each crystal."""
        return self.n_atoms.cumsum(0) - self.n_atoms

    @cached_property
    def crystal_index(self) -> Int[Tensor, " n_atoms_total"]:
        """The crystal that each atom belongs to."""
        crystals = torch.arange(len(self.n_atoms), device=self.n_atoms.device)
        return torch.repeat_interleave(crystals, self.n_atoms)

    @cached_property
    def cart_coords(self) -> Float[Tensor, "n_atoms_total 3"]:
        """Cartesian coordinates in Å."""
        return torch.einsum("ai,aij->aj", self.frac_coords, self.lattice[self.crystal_index])

    @cached_property
    def volume(self) -> Float[Tensor, " n_crystals"]:
        """Cell volume in Å³, positive whatever the handedness."""
        return torch.linalg.det(self.lattice).abs()

    @cached_property
    def formula(self) -> tuple[str, ...]:
        """Reduced formula of each crystal, elements by electronegativity, e.g. ``"TiO2"``."""
        from matmill.crystals.composition import reduced_formulas

        return reduced_formulas(self)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """Content hash of each crystal's canonical form: the key of tables, caches and resuming.

        Sites are sorted and rounded to 1e-4 (fractional, Å), so it is stable under reordering
        of atoms and round trips through files, not under a change of cell; `matching` decides that.
        """
        return tuple(_content_hash(self, i) for i in range(len(self)))

    def select(
        self, index: Int[Tensor, " n_wanted"] | Bool[Tensor, " n_crystals"] | Sequence[int]
    ) -> "CrystalBatch":
        """Return the crystals at these positions, in this order. A bool mask works too."""
        index = torch.as_tensor(index, device=self.n_atoms.device)
        index = torch.nonzero(index).flatten() if index.dtype == torch.bool else index.long()
        n_atoms = self.n_atoms[index]
        first = torch.repeat_interleave(self.offsets[index], n_atoms)
        step = torch.arange(len(first), device=first.device)
        step = step - torch.repeat_interleave(n_atoms.cumsum(0) - n_atoms, n_atoms)
        return CrystalBatch(
            lattice=self.lattice[index],
            frac_coords=self.frac_coords[first + step],
            atomic_numbers=self.atomic_numbers[first + step],
            n_atoms=n_atoms,
            properties={name: values[index] for name, values in self.properties.items()},
            ids=tuple(self.ids[i] for i in index.tolist()) if self.ids else (),
        )

    def atoms_of(self, crystal: int) -> slice:
        """Return the rows of one crystal's atoms."""
        start = int(self.offsets[crystal])
        return slice(start, start + int(self.n_atoms[crystal]))

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "CrystalBatch":
        """Return a copy on ``device``; ``dtype`` applies to the floating-point fields."""

        def move(values: Tensor) -> Tensor:
            return values.to(device, dtype if values.is_floating_point() else None)

        return CrystalBatch(
            lattice=move(self.lattice),
            frac_coords=move(self.frac_coords),
            atomic_numbers=move(self.atomic_numbers),
            n_atoms=move(self.n_atoms),
            properties={name: move(values) for name, values in self.properties.items()},
            ids=self.ids,
        )

    def with_properties(self, **values: Tensor) -> "CrystalBatch":
        """Return the same crystals with these properties added or replaced."""
        return replace(self, properties={**self.properties, **values})

    def with_ids(self, ids: Sequence[str]) -> "CrystalBatch":
        """Return the same crystals under these ids."""
        return replace(self, ids=tuple(ids))

    def chunks(self, max_atoms: int) -> "Iterator[CrystalBatch]":
        """Yield runs of consecutive crystals: one crystal, or up to ``max_atoms`` atoms, each."""
        start, used = 0, 0
        for i, n in enumerate(self.n_atoms.tolist()):
            if i > start and used + n > max_atoms:
                yield self.select(torch.arange(start, i))
                start, used = i, 0
            used += n
        if start < len(self):
            yield self.select(torch.arange(start, len(self)))


def concatenate(batches: Sequence[CrystalBatch]) -> CrystalBatch:
    """Return all crystals of these batches, in order.

    Properties that only some batches have are NaN for the others; ids are kept only when every
    non-empty batch has them.
    """
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        return CrystalBatch.empty()
    names = {name: None for batch in batches for name in batch.properties}
    properties = {
        name: torch.cat(
            [
                batch.properties.get(
                    name,
                    torch.full((len(batch),), torch.nan, dtype=batch.lattice.dtype),
                )
                for batch in batches
            ]
        )
        for name in names
    }
    has_ids = all(batch.ids for batch in batches)
    return CrystalBatch(
        lattice=torch.cat([batch.lattice for batch in batches]),
        frac_coords=torch.cat([batch.frac_coords for batch in batches]),
        atomic_numbers=torch.cat([batch.atomic_numbers for batch in batches]),
        n_atoms=torch.cat([batch.n_atoms for batch in batches]),
        properties=properties,
        ids=tuple(i for batch in batches for i in batch.ids) if has_ids else (),
    )


def _content_hash(batch: CrystalBatch, crystal: int) -> str:
    rows = batch.atoms_of(crystal)
    grid = 10_000
    coords = torch.round(batch.frac_coords[rows].double() * grid).long() % grid
    sites = torch.cat([batch.atomic_numbers[rows, None].long(), coords], dim=1).tolist()
    lattice = batch.lattice[crystal].double()
    gram = torch.round(lattice @ lattice.T * grid).long().tolist()
    return hashlib.sha256(repr((gram, sorted(sites))).encode()).hexdigest()[:32]
