"""Which samples are the same, known, or in the training set, each within its time limit."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import Matcher, MatchTolerance
from matmill.verify.novelty import Known, KnownIndex, find_known, first_of_each
from matmill.verify.patience import SECONDS_EACH, TookTooLongError, limit, patiently

SMALL = 40
"""Cells up to this many atoms are compared all at once; larger ones one by one, timed."""

Failures = dict[int, str]
T = TypeVar("T")


def firsts(
    batch: CrystalBatch, rows: Sequence[int], tolerance: MatchTolerance
) -> tuple[dict[int, int], Failures]:
    """Return, for each of these crystals, the first of them that is the same crystal.

    Crystals that cannot be compared in time are their own failures, and first of nothing.
    """
    by_formula: dict[str, list[int]] = {}
    formulas = batch.formula
    for row in rows:
        by_formula.setdefault(formulas[row], []).append(row)
    found = {row: row for row in rows}
    groups = [group for group in by_formula.values() if len(group) > 1]
    small = [g for g in groups if all(int(batch.n_atoms[row]) <= SMALL for row in g)]
    crowd = sorted(row for group in small for row in group)
    try:
        with limit(SECONDS_EACH + 0.2 * len(crowd)):
            same = first_of_each(batch.select(crowd), tolerance) if crowd else []
        found.update({row: crowd[first] for row, first in zip(crowd, same, strict=True)})
        groups = [group for group in groups if group not in small]
    except (TookTooLongError, ValueError, RuntimeError, IndexError, ArithmeticError):
        pass  # one by one, then
    failed: Failures = {}
    matcher = Matcher(batch, tolerance)
    for group in groups:
        kept: list[int] = []
        for row in group:
            reason = _place(matcher, row, kept, found)
            if reason:
                failed[row] = reason
                del found[row]
    return found, failed


def _place(matcher: Matcher, row: int, kept: list[int], found: dict[int, int]) -> str:
    """Find the home of one crystal among those kept; return why that failed, if it did."""
    try:
        with limit(SECONDS_EACH):
            home = next((first for first in kept if matcher.same(first, row)), None)
    except TookTooLongError:
        return f"took longer than {SECONDS_EACH:g} s"
    except Exception as error:  # whatever the matcher throws at odd crystals
        return f"failed with {type(error).__name__}: {error}"[:200]
    if home is None:
        kept.append(row)
    found[row] = row if home is None else home
    return ""


def known(
    batch: CrystalBatch,
    rows: Sequence[int],
    index: KnownIndex,
    tolerance: MatchTolerance,
    on_done: Callable[[int], None] | None = None,
) -> tuple[dict[int, Known], Failures]:
    """Return which known crystal each of these is, None for a new one."""
    return _by_size(
        batch,
        rows,
        lambda part: find_known(batch.select(part), index, tolerance=tolerance),
        on_done,
    )


def in_set(
    batch: CrystalBatch,
    rows: Sequence[int],
    others: CrystalBatch,
    tolerance: MatchTolerance,
    on_done: Callable[[int], None] | None = None,
) -> tuple[dict[int, int | None], Failures]:
    """Return the first crystal of another set that each of these matches, None for none."""
    mine, theirs = Matcher(batch, tolerance), Matcher(others, tolerance)

    def search(part: list[int]) -> list[int | None]:
        return [
            next(
                (j for j in theirs.candidates(mine.formulas[i]) if mine.same(i, j, other=theirs)),
                None,
            )
            for i in part
        ]

    return _by_size(batch, rows, search, on_done)


def pair_density(
    batch: CrystalBatch, rows: Sequence[int], tolerance: MatchTolerance
) -> tuple[float, Failures]:
    """Return one minus the share of ordered pairs that match: [A, A, B] gives 2/3.

    Each crystal's row of pairs is timed; what takes too long matches nothing.

    Source:
        sparks-baird/matbench-genmetrics, core/metrics.py, uniqueness.
    """
    matcher = Matcher(batch, tolerance)
    chosen, n = set(rows), len(rows)

    def others(part: list[int]) -> list[int]:
        return [
            sum(
                matcher.same(i, j)
                for j in matcher.candidates(matcher.formulas[i])
                if j != i and j in chosen
            )
            for i in part
        ]

    counts, failed = patiently(others, rows)
    return (1.0 - sum(counts.values()) / (n * n - n) if n > 1 else float("nan")), failed


def _by_size(
    batch: CrystalBatch,
    rows: Sequence[int],
    work: Callable[[list[int]], Sequence[T]],
    on_done: Callable[[int], None] | None,
) -> tuple[dict[int, T], Failures]:
    """Work on small crystals in large parts, and on large ones one by one."""
    small = [row for row in rows if int(batch.n_atoms[row]) <= SMALL]
    large = [row for row in rows if int(batch.n_atoms[row]) > SMALL]
    found, failed = patiently(work, small, chunk=500, on_done=on_done)
    shift = len(small)
    more, worse = patiently(
        work, large, chunk=1, on_done=None if on_done is None else lambda n: on_done(shift + n)
    )
    return {**found, **more}, {**failed, **worse}
