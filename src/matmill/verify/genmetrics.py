"""The numbers of matbench-genmetrics, for those who compare with it.

They are kept as they are published, switches and all; two of them do not mean what their names
say. Differences of space-group *numbers* have no crystallographic meaning. Uniqueness is a density
of pairs, which tends to 1 for large sets whatever the duplicates, and coverage counts generated
crystals over the size of the test set, so it may exceed 1. `metrics` has the ones to judge by.

Source:
    Baird, Sayeed, Montoya and Sparks, matbench-genmetrics (2024).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import element_counts
from matmill.crystals.element_mover import composition_vectors
from matmill.crystals.matching import CSP_TOLERANCE, Matcher, MatchTolerance
from matmill.crystals.symmetry import Library, find
from matmill.verify.metrics import Metric, wasserstein

PLACE_OF_DUMMY = 1
"""Place on the modified Pettifor scale, counted from 0, of the one element of the dummy set."""


def space_group_validity(
    generated: Int[Tensor, " n"], known: Int[Tensor, " m"], *, dummy: int = 1
) -> Metric:
    """Return ``1 − W1(known, generated) / W1(known, [1])`` on space-group numbers.

    1 for the distribution of the known crystals, 0 for a set of P1; it can be negative.

    Args:
        generated: International numbers of the generated crystals.
        known: Those of training and test crystals together.
        dummy: The number that a worthless set has only.
    """
    far = wasserstein(known.double(), torch.tensor([float(dummy)]))
    return _validity(
        "space-group validity", wasserstein(known.double(), generated.double()), far, len(generated)
    )


def element_validity(generated: CrystalBatch, known: CrystalBatch) -> Metric:
    """Return ``1 − W1(known, generated) / W1(known, dummy)`` on modified Pettifor places.

    Each crystal spreads a weight of 1 over its elements by their atomic fractions; one with an
    element that is not on the scale has no weight.
    """
    mine, theirs = (_mean_line(side) for side in (generated, known))
    # Everything on one place: nothing below it, all of the weight from it on.
    dummy = (torch.arange(len(theirs)) >= PLACE_OF_DUMMY).double()
    distance, far = (float((theirs - line).abs().sum()) for line in (mine, dummy))
    return _validity("element validity", distance, far, len(generated))


def genmetrics(
    generated: CrystalBatch,
    train: CrystalBatch,
    test: CrystalBatch,
    *,
    symprec: float = 0.01,
    library: Library = "spglib",
    tolerance: MatchTolerance = CSP_TOLERANCE,
) -> list[Metric]:
    """Return validity and its two parts, coverage, novelty and uniqueness.

    Args:
        generated: The crystals.
        train: Crystals that the generator was trained on.
        test: Later ones that it should find.
        symprec: Tolerance of the space groups, Å.
        library: Which library finds them.
        tolerance: Of the matcher.
    """
    known = concatenate([train, test])
    groups = [find(side, symprec=symprec, library=library).number for side in (generated, known)]
    parts = [space_group_validity(*groups), element_validity(generated, known)]
    both = sum(part.value for part in parts) / 2
    n = len(generated)
    mine = Matcher(generated, tolerance)
    hits = [_n_matched(mine, Matcher(side, tolerance)) for side in (train, test)]
    repeats = sum(max(_n_same(mine, mine, i) - 1, 0) for i in range(n))
    return [
        Metric(name="validity", value=both, numerator=both * n, denominator=n),
        *parts,
        _ratio("coverage", hits[1], len(test), complement=False),
        _ratio("novelty", hits[0], n, complement=True),
        _ratio("uniqueness, of pairs", repeats, n * n - n, complement=True),
    ]


def _mean_line(batch: CrystalBatch) -> Float[Tensor, " 102"]:
    lines = composition_vectors(element_counts(batch))
    return lines[torch.isfinite(lines).all(1)].mean(0)


def _validity(name: str, distance: float, far: float, n: int) -> Metric:
    value = 1.0 - distance / far if far else float("nan")
    return Metric(name=name, value=value, numerator=value * n, denominator=n)


def _n_matched(mine: Matcher, theirs: Matcher) -> int:
    """Return how many generated crystals match any of the others."""
    return sum(_n_same(mine, theirs, i, most=1) for i in range(len(mine.batch)))


def _n_same(mine: Matcher, theirs: Matcher, i: int, most: int | None = None) -> int:
    """Return how many of the others crystal i matches, itself included, and stop at ``most``."""
    found = 0
    for j in theirs.candidates(mine.formulas[i]):
        # The other crystal is the first argument, as in the original: rows of its matrix.
        found += theirs.same(j, i, other=mine)
        if found == most:
            break
    return found


def _ratio(name: str, hits: int, out_of: int, *, complement: bool) -> Metric:
    numerator = out_of - hits if complement else hits
    value = numerator / out_of if out_of else float("nan")
    return Metric(name=name, value=value, numerator=numerator, denominator=out_of)
