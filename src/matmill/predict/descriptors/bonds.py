"""Neighbours and bonds of a batch, found once and shared by the blocks.

Two atoms are bonded when they are closer than `STRETCH` times the sum of their covalent radii
(Pyykkö and Atsumi 2009).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.neighbors import Neighbors, within
from matmill.errors import InputError
from matmill.predict.descriptors.properties import element_property

STRETCH = 1.25
"""A bond is at most this many times as long as the sum of the covalent radii."""

_SHORTEST = 0.1  # Å; closer atoms are one spot, and an inverse distance must stay finite


@dataclass(frozen=True, eq=False)
class Bonds:
    """Directed edges between atoms, every pair in both directions.

    Attributes:
        batch: The crystals.
        source: Atom that the edge leaves, ``(n_edges,)``.
        target: Atom that it reaches, ``(n_edges,)``.
        image: Cell of the target, in lattice vectors, ``(n_edges, 3)``.
        distance: Length in Å, ``(n_edges,)``.
        unit: Direction from source to target, ``(n_edges, 3)``.
    """

    batch: CrystalBatch
    source: Int[Tensor, " n_edges"]
    target: Int[Tensor, " n_edges"]
    image: Int[Tensor, "n_edges 3"]
    distance: Float[Tensor, " n_edges"]
    unit: Float[Tensor, "n_edges 3"]

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def crystal(self) -> Int[Tensor, " n_edges"]:
        """The crystal of each edge."""
        return self.batch.crystal_index[self.source]

    @cached_property
    def coordination(self) -> Float[Tensor, " n_atoms_total"]:
        """Number of edges that leave each atom."""
        n_atoms = len(self.batch.atomic_numbers)
        return torch.bincount(self.source, minlength=n_atoms).double()

    @cached_property
    def relative(self) -> Float[Tensor, " n_edges"]:
        """Length over the sum of the covalent radii."""
        return self.distance / self._radii

    def values(self, name: str) -> tuple[Float[Tensor, " n_edges"], Float[Tensor, " n_edges"]]:
        """Return an element property at the source and at the target of each edge."""
        values = element_property(name)[self.batch.atomic_numbers]
        return values[self.source], values[self.target]

    def bonded(self, stretch: float = STRETCH) -> "Bonds":
        """Return the edges that are bonds."""
        return self.keep(self.distance < stretch * self._radii)

    def keep(self, mask: Bool[Tensor, " n_edges"]) -> "Bonds":
        """Return the edges where the mask is True."""
        return Bonds(
            self.batch,
            self.source[mask],
            self.target[mask],
            self.image[mask],
            self.distance[mask],
            self.unit[mask],
        )

    @cached_property
    def _radii(self) -> Tensor:
        radius = element_property("pyykko_radius")[self.batch.atomic_numbers]
        return radius[self.source] + radius[self.target]


def edges_within(batch: CrystalBatch, cutoff: float) -> Bonds:
    """Return all edges up to a cutoff in Å.

    Raises:
        InputError: If a crystal has no volume, holds numbers that are not finite, or a masked atom.
    """
    check(batch)
    edges: Neighbors = within(batch, cutoff)
    distance = edges.distance.double().clamp_min(_SHORTEST)
    unit = edges.vector.double() / distance[:, None]
    return Bonds(batch, edges.source, edges.target, edges.image, distance, unit)


def find_bonds(batch: CrystalBatch, stretch: float = STRETCH) -> Bonds:
    """Return the bonds of a batch.

    Args:
        batch: Any number of crystals.
        stretch: A bond is at most this many times as long as the sum of the covalent radii.

    Raises:
        InputError: As `edges_within`.
    """
    check(batch)
    radius = element_property("pyykko_radius")[batch.atomic_numbers]
    longest = float(radius.max()) if len(radius) else 1.0
    return edges_within(batch, 2 * stretch * longest).bonded(stretch)


def check(batch: CrystalBatch) -> None:
    """Refuse crystals that have no geometry.

    Raises:
        InputError: If a crystal has no volume, holds numbers that are not finite, or a masked atom.
    """
    is_fine = torch.isfinite(batch.lattice).flatten(1).all(1) & (batch.volume > 1e-6)
    n_crystals = len(batch)
    is_bad_atom = ~torch.isfinite(batch.frac_coords).all(1) | (batch.atomic_numbers < 1)
    bad = torch.zeros(n_crystals, dtype=torch.int64)
    is_fine &= bad.index_add(0, batch.crystal_index, is_bad_atom.long()) == 0
    if bool(is_fine.all()):
        return
    row = int(torch.nonzero(~is_fine)[0])
    name = batch.ids[row] if batch.ids else f"number {row}"
    raise InputError(
        f"Crystal {name} has no volume, unknown coordinates or a masked atom: it cannot be "
        "described. Remove it."
    )
