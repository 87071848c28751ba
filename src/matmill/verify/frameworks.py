"""Is it more than a lanthanide swapped on a known framework? Novelty after elements are merged.

A generator that puts another lanthanide on a known structure makes a crystal that no database may
hold and that nobody would call new. Here lanthanides become one element on both sides before the
matcher is asked. What matches only when all elements may be renamed is counted beside it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import Matcher, MatchTolerance
from matmill.crystals.prototype import prototype_labels
from matmill.verify.drift import LANTHANIDES
from matmill.verify.metrics import Metric, share

ACTINIDES = tuple(range(89, 104))
"""Atomic numbers of Ac to Lr."""

_LANTHANUM = 57


def merge_lanthanides(batch: CrystalBatch, *, actinides: bool = False) -> CrystalBatch:
    """Return the crystals with every lanthanide made lanthanum; geometry is as it was.

    Args:
        batch: The crystals.
        actinides: Make the actinides lanthanum, too.
    """
    merged = [*LANTHANIDES, *(ACTINIDES if actinides else ())]
    is_merged = torch.isin(batch.atomic_numbers, torch.tensor(merged).to(batch.n_atoms.device))
    numbers = torch.where(is_merged, _LANTHANUM, batch.atomic_numbers)
    return replace(batch, atomic_numbers=numbers)


def find_frameworks(
    batch: CrystalBatch,
    reference: CrystalBatch,
    *,
    actinides: bool = False,
    tolerance: MatchTolerance | None = None,
) -> list[int | None]:
    """Return, for each crystal, the first reference that it matches once lanthanides are merged.

    Args:
        batch: The crystals.
        reference: Known crystals, and for a flywheel everything that the generator was trained on.
        actinides: Merge the actinides into the lanthanides.
        tolerance: Of the matcher, which scales volumes away, so that the size of the ion does not
            matter.

    Returns:
        Positions in the reference, None for a framework that is not there.
    """
    mine, theirs = (
        Matcher(merge_lanthanides(side, actinides=actinides), tolerance)
        for side in (batch, reference)
    )
    return [
        next((j for j in theirs.candidates(formula) if mine.same(i, j, other=theirs)), None)
        for i, formula in enumerate(mine.formulas)
    ]


def known_prototypes(
    batch: CrystalBatch, reference: CrystalBatch, *, symprec: float = 0.1
) -> list[bool]:
    """Return whether a reference has the same space group and sites, whatever the elements.

    By `crystals.prototype` without names of elements: a hint, not a verdict, since the free
    coordinates and the cell do not count. A crystal without a label is of no known prototype.
    """
    known = set(prototype_labels(reference, species="anonymous", symprec=symprec))
    mine = prototype_labels(batch, species="anonymous", symprec=symprec)
    return [label is not None and label in known for label in mine]


def framework_novelty(
    known: Sequence[object | None],
    frameworks: Sequence[int | None],
    prototypes: Sequence[bool] | None = None,
) -> list[Metric]:
    """Return how many crystals stay novel when lanthanide swaps do not count.

    Args:
        known: What `novelty.find_known` says, or any list with None for the novel ones.
        frameworks: What `find_frameworks` says.
        prototypes: What `known_prototypes` says, for the number of those that are novel as a
            framework and yet of a known prototype.

    Returns:
        The share that is novel as a framework, the share that is novel by swaps of lanthanides
        alone, and if asked the share that is a known prototype with other elements.
    """
    is_new = torch.tensor([match is None for match in known], dtype=torch.bool)
    is_framework = torch.tensor([match is None for match in frameworks], dtype=torch.bool)
    found = [
        share("framework-novel (lanthanides merged)", is_new & is_framework),
        share("novel by a swap of lanthanides alone", is_new & ~is_framework),
    ]
    if prototypes is not None:
        kept = torch.tensor(prototypes, dtype=torch.bool) & is_new & is_framework
        found.append(share("framework-novel, of a known prototype", kept))
    return found
