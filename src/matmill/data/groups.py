"""Rows that belong together: same formula, same prototype, same cluster of near-copies."""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.symmetry import SYMPREC
from matmill.errors import InputError

if TYPE_CHECKING:
    from matmill.data.redundancy.reduce import Reduced

"""Å, the tolerance of the Materials Project's space groups."""


def groups_of(
    batch: CrystalBatch | CompositionBatch, kind: str, symprec: float = SYMPREC
) -> Int[Tensor, " n"]:
    """Return a group number for each row.

    Args:
        batch: The rows.
        kind: ``random`` (each row its own), ``formula`` or ``prototype``.
        symprec: Tolerance in Å for space groups that the data do not have.

    Raises:
        InputError: If prototypes are wanted and there are only compositions.
    """
    if kind == "random":
        return torch.arange(len(batch))
    if kind == "formula":
        return _numbered(batch.formula)
    if not isinstance(batch, CrystalBatch):
        raise InputError(
            "A split by prototype needs structures, and this table has compositions only. Split "
            "by formula, element, cluster, or at random."
        )
    return _numbered(prototypes(batch, symprec))


def prototypes(batch: CrystalBatch, symprec: float = SYMPREC) -> tuple[tuple[str, int], ...]:
    """Return anonymous formula and space group of each crystal."""
    from matmill.crystals.composition import anonymous_formulas

    numbers = space_groups(batch, symprec).tolist()
    return tuple(zip(anonymous_formulas(batch), numbers, strict=True))


def space_groups(batch: CrystalBatch, symprec: float = SYMPREC) -> Int[Tensor, " n"]:
    """Return the space group of each row: the property ``spacegroup``, else found with symprec."""
    from matmill.crystals import symmetry

    known = batch.properties.get("spacegroup")
    numbers = torch.zeros(len(batch)) if known is None else known.nan_to_num(nan=0.0)
    numbers = numbers.round().long()
    missing = torch.nonzero((numbers < 1) | (numbers > 230)).flatten()
    if len(missing):
        found = symmetry.find(batch.select(missing), symprec=symprec)
        numbers[missing] = found.number.to(numbers)
    return numbers


@lru_cache(maxsize=2)
def reduced(
    batch: CrystalBatch | CompositionBatch, by: str, threshold: float | None, metric: str | None
) -> "Reduced":
    """Return the batch without its near-copies.

    The folds of a cross-validation ask for the same one again and again; the last are remembered,
    by the identity of the batch.
    """
    from matmill.data.redundancy.reduce import reduce

    return reduce(batch, by, threshold, metric)


def _numbered(keys: Sequence[Hashable]) -> Int[Tensor, " n"]:
    """Return a number for each key, equal for equal keys, in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])
