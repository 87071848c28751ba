"""Many pairs of reduced crystals: compiled search, on several threads, and pymatgen as last resort.

Pairs that rounding could decide come back as `MatchStatus.UNSURE` from `compare_all`; whoever has
the crystals asks pymatgen about them.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from matmill.crystals.elements import SYMBOLS
from matmill.crystals.match_reduction import ReducedCrystals

if TYPE_CHECKING:
    from pymatgen.core import Structure

EFFORT_PER_SECOND = 2e8
"""Site comparisons per second, about; limits are counted in these so that every machine agrees."""

_PIECE = 2000  # pairs a thread takes at once


class MatchStatus(IntEnum):
    """What is known of a pair."""

    DIFFERENT = 0
    SAME = 1
    UNSURE = 2
    """A comparison was too close to call: pymatgen must decide."""
    TIMEOUT = 3
    """Given up: more work than the limit allows, or a crystal with too many sites."""


@dataclass(frozen=True, kw_only=True)
class MatchTolerance:
    """Tolerances of a match; the defaults are those of the SUN metrics.

    Attributes:
        ltol: Relative tolerance on cell edges.
        stol: Tolerance on sites, in units of (volume / atom)^(1/3).
        angle_tol: Tolerance on cell angles in degrees.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0


CSP_TOLERANCE = MatchTolerance(ltol=0.3, stol=0.5, angle_tol=10.0)
"""The tolerances of crystal-structure-prediction benchmarks."""


def compare_all(
    first: ReducedCrystals,
    second: ReducedCrystals,
    pairs: Int[np.ndarray, "n_pairs 2"],
    tolerance: MatchTolerance,
    *,
    use_rms: bool = False,
    max_seconds: float = 60.0,
    n_threads: int = 1,
) -> tuple[Int[np.ndarray, " n_pairs"], Float[np.ndarray, " n_pairs"]]:
    """Compare crystals of one set with crystals of another.

    Args:
        first: Crystals whose cells are mapped; the order matters for strained cells.
        second: Crystals that they are mapped on.
        pairs: Position in ``first``, position in ``second``.
        tolerance: How far they may differ.
        use_rms: Find the smallest rms, not any assignment without a large displacement.
        max_seconds: Limit of one pair, about, counted in work and not by the clock.
        n_threads: Threads; the compiled part runs without Python's lock.

    Returns:
        `MatchStatus` of each pair, and the rms (or the largest displacement) in units of
        (volume / site)^(1/3), the smallest that was seen, infinite where there is none.
    """
    from matmill.crystals.match_search import compare_pairs

    pairs = np.ascontiguousarray(pairs, dtype=np.int64).reshape(-1, 2)
    status, values = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs))
    limits = np.array([tolerance.ltol, tolerance.stol, np.radians(tolerance.angle_tol)])

    def run(begin: int, end: int) -> int:
        return compare_pairs(
            first.arrays(),
            second.arrays(),
            pairs[begin:end],
            limits,
            use_rms,
            max_seconds * EFFORT_PER_SECOND,
            False,
            status[begin:end],
            values[begin:end],
        )

    pieces = [(k, min(k + _PIECE, len(pairs))) for k in range(0, len(pairs), _PIECE)]
    if n_threads > 1 and len(pieces) > 1:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(run, *zip(*pieces, strict=True)))
    else:
        for begin, end in pieces:
            run(begin, end)
    large = (first.status[pairs[:, 0]] == 2) | (second.status[pairs[:, 1]] == 2)
    status[large] = MatchStatus.TIMEOUT
    return status, values


def next_hit(
    first: ReducedCrystals,
    second: ReducedCrystals,
    pairs: Int[np.ndarray, "n_pairs 2"],
    tolerance: MatchTolerance,
    *,
    max_seconds: float = 60.0,
) -> tuple[int, MatchStatus]:
    """Return the position of the first pair that is not different, and what it is.

    Returns:
        ``len(pairs)`` and `MatchStatus.DIFFERENT` if all are.
    """
    from matmill.crystals.match_search import compare_pairs

    status, values = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs))
    limits = np.array([tolerance.ltol, tolerance.stol, np.radians(tolerance.angle_tol)])
    n = compare_pairs(
        first.arrays(),
        second.arrays(),
        pairs,
        limits,
        False,
        max_seconds * EFFORT_PER_SECOND,
        True,
        status,
        values,
    )
    if n and status[n - 1] != MatchStatus.DIFFERENT:
        return n - 1, MatchStatus(int(status[n - 1]))
    return len(pairs), MatchStatus.DIFFERENT


def pymatgen_matcher(tolerance: MatchTolerance) -> Any:  # noqa: ANN401 - imported late
    """Return pymatgen's matcher with these tolerances."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=tolerance.ltol, stol=tolerance.stol, angle_tol=tolerance.angle_tol)


def to_reduced_structure(crystals: ReducedCrystals, i: int) -> "Structure":
    """Return a reduced crystal as a pymatgen structure, in Å again."""
    from pymatgen.core import Structure

    sites = slice(int(crystals.start[i]), int(crystals.start[i + 1]))
    return Structure(
        crystals.lattice[i] * crystals.length[i],
        [SYMBOLS[z] for z in crystals.numbers[sites].tolist()],
        crystals.frac[sites],
    )


def ask_pymatgen(
    matcher: Any,  # noqa: ANN401 - pymatgen's
    first: "Structure",
    second: "Structure",
    *,
    is_reduced: bool = False,
) -> bool:
    """Return pymatgen's own verdict; where it fails, crystals do not match."""
    try:
        return bool(matcher.fit(first, second, skip_structure_reduction=is_reduced))
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return False


def ask_pymatgen_rms(
    matcher: Any,  # noqa: ANN401 - pymatgen's
    first: "Structure",
    second: "Structure",
) -> float:
    """Return pymatgen's own rms; infinite where there is no match or it fails."""
    try:
        found = matcher.get_rms_dist(first, second)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):
        return np.inf
    return np.inf if found is None else float(found[0])
