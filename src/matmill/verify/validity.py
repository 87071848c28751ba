"""Is it a crystal at all? Geometry with periodic self-images, and charge balance."""

import itertools
from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from matmill.config import Settings
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import MAX_NUMBER
from matmill.crystals.elements import table as element_table
from matmill.crystals.lattice import minkowski_reduce
from matmill.verify.charges import charge_neutral, composition_kinds, smact_valid
from matmill.verify.verdict import Fate

__all__ = [
    "Limits",
    "charge_neutral",
    "check",
    "composition_kinds",
    "roomy_by_radii",
    "smact_valid",
    "smallest_distance",
    "smallest_distance_ratio",
]


class Limits(Settings):
    """What a candidate must satisfy before anything expensive is spent on it.

    Attributes:
        min_distance_a: Smallest distance between atoms, self-images included, in Å; equality is
            allowed. The field's rule is 0.5.
        min_distance_ratio: Smallest distance over the sum of the covalent radii; 0 turns it off.
        min_volume_a3: Smallest cell volume, in Å³.
        min_volume_per_atom_a3: Smallest volume per atom, in Å³.
        max_volume_per_atom_a3: Largest volume per atom, in Å³.
        max_length_a: Longest cell vector, in Å.
        max_atomic_number: Heaviest element that can be treated; CHGNet ends at plutonium.
        charge_table: Oxidation table of the charge test, or None to skip the test.
        mixed_valence: Let some elements differ in charge within one compound.
    """

    min_distance_a: Annotated[float, Field(ge=0)] = 0.5
    min_distance_ratio: Annotated[float, Field(ge=0)] = 0.0
    min_volume_a3: Annotated[float, Field(ge=0)] = 0.1
    min_volume_per_atom_a3: Annotated[float, Field(ge=0)] = 2.0
    max_volume_per_atom_a3: Annotated[float, Field(gt=0)] = 200.0
    max_length_a: Annotated[float, Field(gt=0)] = 200.0
    max_atomic_number: Annotated[int, Field(ge=1, le=MAX_NUMBER)] = 94
    charge_table: str | None = None
    mixed_valence: bool = True


def check(batch: CrystalBatch, limits: Limits | None = None) -> list[Fate | None]:
    """Return the first objection to each crystal, or None.

    The order is: finite numbers, a possible cell, known elements, volume per atom, distances,
    charges. Nothing that fails an early test is fed to a later one.
    """
    limits = limits or Limits()
    fates: list[Fate | None] = [None] * len(batch)

    def object_to(bad: Tensor, fate: Fate) -> None:
        for i in torch.nonzero(bad).flatten().tolist():
            fates[i] = fates[i] or fate

    owner = batch.crystal_index
    bad_atom = ~torch.isfinite(batch.frac_coords).all(1)
    object_to(
        _any_atom(bad_atom, owner, len(batch)) | ~torch.isfinite(batch.lattice).flatten(1).all(1),
        Fate.NOT_FINITE,
    )
    lengths = batch.lattice.norm(dim=-1)
    object_to(
        ~(batch.volume >= limits.min_volume_a3)
        | (lengths <= 0).any(1)
        | (lengths > limits.max_length_a).any(1),
        Fate.CELL_IMPOSSIBLE,
    )
    numbers = batch.atomic_numbers
    strange = (numbers < 1) | (numbers > limits.max_atomic_number)
    object_to(_any_atom(strange, owner, len(batch)), Fate.UNKNOWN_ELEMENT)
    per_atom = batch.volume / batch.n_atoms
    object_to(
        (per_atom < limits.min_volume_per_atom_a3) | (per_atom > limits.max_volume_per_atom_a3),
        Fate.VOLUME_IMPLAUSIBLE,
    )
    left = torch.tensor([i for i, fate in enumerate(fates) if fate is None], dtype=torch.int64)
    rest = batch.select(left)
    close = smallest_distance(rest) < limits.min_distance_a
    if limits.min_distance_ratio > 0:
        close |= smallest_distance_ratio(rest) < limits.min_distance_ratio
    for i in left[close].tolist():
        fates[i] = Fate.ATOMS_TOO_CLOSE
    if limits.charge_table is not None:
        valid = smact_valid(rest, limits.charge_table, mixed_valence=limits.mixed_valence)
        for i in left[~valid & ~close].tolist():
            fates[i] = Fate.NOT_CHARGE_NEUTRAL
    return fates


def smallest_distance(
    batch: CrystalBatch, *, self_images: bool = True
) -> Float[Tensor, " n_crystals"]:
    """Return the smallest distance in Å between two atoms, or an atom and its own image.

    Exact for any cell: pairs are measured in the Minkowski-reduced cell.

    Args:
        batch: Any number of crystals.
        self_images: Look at an atom's own images too; without them a crystal of one atom has an
            infinite distance.
    """
    smallest, _ = _smallest(batch, None, self_images=self_images)
    return smallest


def smallest_distance_ratio(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the smallest ratio of a distance to the sum of the two covalent radii (Cordero).

    Elements without a radius count as 1.5 Å.
    """
    radii = element_table("covalent_radius").nan_to_num(nan=1.5)
    _, smallest = _smallest(batch, radii)
    return smallest


def roomy_by_radii(batch: CrystalBatch, scale: float = 0.5) -> Bool[Tensor, " n_crystals"]:
    """Return where no two atoms are closer than ``scale`` times (0.7 Å + both atomic radii).

    Own images do not count, so a crystal of one atom always passes; elements without a radius
    count as 1 Å.

    Source:
        LeMaterial/lemat-genbench, metrics/validity_metrics.py.
    """
    # Half of 0.7 Å goes to each atom of a pair.
    reach = element_table("atomic_radius").nan_to_num(nan=1.0) + 0.35
    _, smallest = _smallest(batch, reach, self_images=False)
    return smallest >= scale


_PAIRS_AT_ONCE = 100_000
_IMAGES = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), dtype=torch.float64)


def _smallest(
    batch: CrystalBatch, radii: Tensor | None, *, self_images: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the smallest distance of each crystal, and the smallest ratio if radii are given."""
    distance = torch.full((len(batch),), torch.inf, dtype=torch.float64)
    ratio = distance.clone()
    if not len(batch):
        return distance, ratio
    reduced, change = minkowski_reduce(batch.lattice.double())
    if self_images:
        distance = reduced.norm(dim=-1).amin(-1)
    inverse = torch.linalg.inv(change.double())
    frac = torch.einsum("ai,aij->aj", batch.frac_coords.double(), inverse[batch.crystal_index])
    size = radii[batch.atomic_numbers] if radii is not None else None
    if size is not None and self_images:
        largest = torch.zeros(len(batch), dtype=torch.float64)
        largest = largest.scatter_reduce(0, batch.crystal_index, size, "amax")
        ratio = distance / (2 * largest)
    for first, second, crystal in _pairs(batch):
        step = frac[second] - frac[first]
        step = step - torch.round(step)
        cart = torch.einsum("psi,pij->psj", step[:, None] + _IMAGES, reduced[crystal])
        length = cart.norm(dim=-1).amin(-1)
        distance = distance.scatter_reduce(0, crystal, length, "amin")
        if size is not None:
            ratio = ratio.scatter_reduce(0, crystal, length / (size[first] + size[second]), "amin")
    return distance, ratio


def _pairs(batch: CrystalBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield all unordered pairs of different atoms of a crystal, and the crystal, in chunks."""
    n_pairs = batch.n_atoms * (batch.n_atoms - 1) // 2
    chunk = (n_pairs.cumsum(0) - 1).clamp_min(0) // _PAIRS_AT_ONCE
    for number in torch.unique(chunk).tolist():
        crystals = torch.nonzero(chunk == number).flatten()
        n_atoms = batch.n_atoms[crystals]
        last = torch.repeat_interleave(batch.offsets[crystals] + n_atoms, n_atoms)
        step = torch.arange(len(last)) - torch.repeat_interleave(
            n_atoms.cumsum(0) - n_atoms, n_atoms
        )
        atom = torch.repeat_interleave(batch.offsets[crystals], n_atoms) + step
        n_later = last - atom - 1
        first = torch.repeat_interleave(atom, n_later)
        begin = torch.repeat_interleave(n_later.cumsum(0) - n_later, n_later)
        second = first + 1 + torch.arange(len(first)) - begin
        yield first, second, batch.crystal_index[first]


def _any_atom(bad: Tensor, owner: Tensor, n_crystals: int) -> Tensor:
    return torch.zeros(n_crystals, dtype=torch.int64).index_add(0, owner, bad.long()) > 0
