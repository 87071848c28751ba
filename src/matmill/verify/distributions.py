"""How far the make-up of one set is from that of another: groups, elements, density, volume.

Two identical sets give 0. Two finite draws of one population do not: print beside each number what
another part of the reference gives.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from math import log2, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.facts import density, volume_per_atom
from matmill.crystals.symmetry import crystal_system, find
from matmill.errors import InputError
from matmill.verify.metrics import Metric

MOST_COMPARED = 5000
"""Crystals of each side that a kernel compares; more make nothing sharper and cost the square."""

_ROWS_AT_ONCE = 1000


def jensen_shannon(a: Mapping[Any, float], b: Mapping[Any, float]) -> float:
    """Return the Jensen-Shannon distance of two distributions of kinds, 0 to 1.

    The root of the divergence ``H((p + q)/2) − (H(p) + H(q))/2`` in bits: a metric, 1 for two that
    share nothing.

    Args:
        a: How often each kind occurs, in counts or shares.
        b: The same of the other.

    Returns:
        NaN when one of them is empty.

    Source:
        Lin, Divergence measures based on the Shannon entropy (1991); Endres and Schindelin (2003).
    """
    total_a, total_b = sum(a.values()), sum(b.values())
    if not total_a or not total_b:
        return float("nan")
    divergence = 0.0
    for kind in {*a, *b}:
        p, q = a.get(kind, 0.0) / total_a, b.get(kind, 0.0) / total_b
        middle = (p + q) / 2
        divergence += sum(x * log2(x / middle) for x in (p, q) if x > 0) / 2
    return sqrt(max(divergence, 0.0))


def mmd(
    a: Float[Tensor, " n"], b: Float[Tensor, " m"], *, width: float | None = None
) -> tuple[float, float]:
    """Return the maximum mean discrepancy of two samples of one number, and the width used.

    ``MMD² = mean k(a,a') + mean k(b,b') − 2 mean k(a,b)`` over all pairs, a number with itself
    included, with the Gaussian ``k(x, y) = exp(−(x − y)²/(2 width²))``. It lies in [0, √2).

    Args:
        a: Values; those that are not finite are left out.
        b: The same of the reference.
        width: In the unit of the values; the median distance between values of the reference
            unless given.

    Returns:
        NaN when a side is empty.

    Raises:
        InputError: If the width is not positive.

    Source:
        Gretton et al., A Kernel Two-Sample Test (2012), equation 5 and section 8.
    """
    x, y = (values[torch.isfinite(values)].double() for values in (a, b))
    if width is not None and not width > 0:
        raise InputError(f"The width is {width}, but must be positive.")
    if not len(x) or not len(y):
        return float("nan"), float("nan") if width is None else width
    if width is None:
        some = y[:: max(1, len(y) // 1000)]
        width = float(torch.pdist(some[:, None]).median()) if len(some) > 1 else 0.0
        width = width or 1.0  # a reference of one value has no width
    square = _mean_kernel(x, x, width) + _mean_kernel(y, y, width) - 2 * _mean_kernel(x, y, width)
    return sqrt(max(square, 0.0)), width


def space_group_distance(
    batch: CrystalBatch, reference: CrystalBatch, *, symprec: float = 0.1
) -> list[Metric]:
    """Return the Jensen-Shannon distances of space groups and of crystal systems, 0 to 1.

    Args:
        batch: The crystals.
        reference: Crystals whose distribution is wanted.
        symprec: Tolerance in Å, of moyopy; a failed search counts as P1.
    """
    groups = [find(side, symprec=symprec).number.tolist() for side in (batch, reference)]
    systems = [[crystal_system(number) for number in side] for side in groups]
    return [
        _js(f"space groups at symprec {symprec:g}", *groups),
        _js(f"crystal systems at symprec {symprec:g}", *systems),
    ]


def element_distance(batch: CrystalBatch, reference: CrystalBatch) -> Metric:
    """Return the Jensen-Shannon distance of the elements, each crystal counting the same, 0 to 1.

    The share of an element is the mean over the crystals of its atomic fraction.
    """
    shares: list[dict[Hashable, float]] = []
    for side in (batch, reference):
        counts = element_counts(side).double()
        total = (counts / counts.sum(1, keepdim=True)).sum(0).tolist()
        shares.append({SYMBOLS[z]: x for z, x in enumerate(total) if x > 0})
    value = jensen_shannon(*shares)
    return _metric("elements, Jensen-Shannon distance", value, len(batch))


def kernel_distances(
    batch: CrystalBatch, reference: CrystalBatch, rng: torch.Generator
) -> list[Metric]:
    """Return the maximum mean discrepancies of mass density and of volume an atom, 0 to √2.

    Args:
        batch: The crystals.
        reference: Crystals whose distribution is wanted; their median distance is the width.
        rng: Draws `MOST_COMPARED` of a larger set.
    """
    found = []
    for name, of, unit in (
        ("density", density, "g/cm³"),
        ("volume per atom", volume_per_atom, "Å³"),
    ):
        sides = []
        for side in (batch, reference):
            values = of(side)
            drawn = torch.randperm(len(values), generator=rng)[:MOST_COMPARED]
            sides.append(values[drawn])
        value, width = mmd(sides[0], sides[1])
        found.append(_metric(f"{name} MMD, width {width:.3g} {unit}", value, len(batch)))
    return found


def _js(name: str, mine: Sequence[Hashable], theirs: Sequence[Hashable]) -> Metric:
    a, b = ({kind: float(n) for kind, n in Counter(kinds).items()} for kinds in (mine, theirs))
    return _metric(f"{name}, Jensen-Shannon distance", jensen_shannon(a, b), len(mine))


def _mean_kernel(a: Tensor, b: Tensor, width: float) -> float:
    total = 0.0
    for start in range(0, len(a), _ROWS_AT_ONCE):
        gap = (a[start : start + _ROWS_AT_ONCE, None] - b) / width
        total += float(torch.exp(-gap.square() / 2).sum())
    return total / (len(a) * len(b))


def _metric(name: str, value: float, n: int) -> Metric:
    return Metric(name=name, value=value, numerator=value, denominator=n)
