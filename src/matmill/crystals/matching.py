"""Whether two crystals are the same, as pymatgen's StructureMatcher decides it.

Its verdicts are what published tables are made with, so they are what is given here. Cells are
reduced once; the search is compiled. Where rounding could turn a verdict, pymatgen is asked, and
`Matcher.n_asked` counts how often. So it is for a handful of pairs, before anything is compiled.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.match_pairs import (
    CSP_TOLERANCE,
    MatchStatus,
    MatchTolerance,
    ask_pymatgen,
    ask_pymatgen_rms,
    compare_all,
    next_hit,
    pymatgen_matcher,
)
from matmill.crystals.match_reduction import ReducedCrystals, ReductionStatus, reduce_crystals

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = ["CSP_TOLERANCE", "MatchStatus", "MatchTolerance", "Matcher", "rms", "same"]

_FEW, _SMALL = 30, 20
"""Pairs, and atoms in a cell, for which loading or compiling the search takes longer than asking
pymatgen."""

Pairs = Iterable[tuple[int, int]] | Int[np.ndarray, "n_pairs 2"]


class Matcher:
    """Compares crystals of one batch with each other and with those of other batches.

    Args:
        batch: The crystals; they are reduced when first asked for, and kept.
        tolerance: How far crystals may differ and still count as the same.
        max_seconds: Limit of one pair, about; counted in work, so that every machine agrees. Pairs
            that exceed it are not the same, and are in `timeouts`.
        max_sites: Crystals with more sites are not compared; their pairs are in `timeouts` too.
        n_threads: Threads for many pairs.
        n_processes: Processes that reduce many crystals.

    Attributes:
        n_asked: Pairs that pymatgen itself decided so far: close calls, and a handful of small
            pairs as long as the search is not compiled or loaded.
        timeouts: Pairs given up so far: crystal of this batch, crystal of the other.
    """

    def __init__(
        self,
        batch: CrystalBatch,
        tolerance: MatchTolerance | None = None,
        *,
        max_seconds: float = 60.0,
        max_sites: int = 1000,
        n_threads: int = 1,
        n_processes: int = 1,
    ) -> None:
        self.batch = batch
        self.tolerance = tolerance or MatchTolerance()
        self.max_seconds, self.max_sites = max_seconds, max_sites
        self.n_threads, self.n_processes = n_threads, n_processes
        self.n_asked = 0
        self.timeouts: list[tuple[int, int]] = []
        self.formulas = batch.formula
        self._structures: dict[int, Structure] = {}
        self._parts: list[ReducedCrystals] = []
        self._place: dict[int, tuple[int, int]] = {}

    @cached_property
    def _matcher(self) -> Any:  # noqa: ANN401 - imported late
        return pymatgen_matcher(self.tolerance)

    def structure(self, i: int) -> "Structure":
        """Return crystal ``i`` as a pymatgen structure, built once."""
        if i not in self._structures:
            self._structures[i] = to_structure(self.batch, i)
        return self._structures[i]

    def reduced(self, rows: Iterable[int]) -> tuple[ReducedCrystals, Int[np.ndarray, " n_rows"]]:
        """Return reduced crystals that hold those at ``rows``, and where among them they are.

        Reducing many at once is faster than one by one as pairs ask for them.
        """
        rows = [int(i) for i in rows]
        missing = sorted({i for i in rows if i not in self._place})
        if missing:
            part = reduce_crystals(
                self.batch.select(missing),
                max_sites=self.max_sites,
                n_processes=self.n_processes if len(missing) > 1000 else 1,
            )
            self._place |= {i: (len(self._parts), k) for k, i in enumerate(missing)}
            self._parts.append(part)
        places = [self._place[i] for i in rows]
        used = sorted({part for part, _ in places})
        if not rows:
            return ReducedCrystals.concatenate([]), np.zeros(0, dtype=np.int64)
        if len(used) == 1:
            return self._parts[used[0]], np.array([k for _, k in places], dtype=np.int64)
        offset, total = {}, 0
        for part in used:
            offset[part] = total
            total += len(self._parts[part])
        whole = ReducedCrystals.concatenate([self._parts[part] for part in used])
        return whole, np.array([offset[part] + k for part, k in places], dtype=np.int64)

    def problems(self) -> dict[int, ReductionStatus]:
        """Return the crystals looked at so far that could not be reduced, and why: no match."""
        found = {i: ReductionStatus(self._parts[p].status[k]) for i, (p, k) in self._place.items()}
        return {i: status for i, status in found.items() if status != ReductionStatus.OK}

    def statuses(
        self, pairs: Pairs, *, other: "Matcher | None" = None, symmetric: bool = False
    ) -> Int[np.ndarray, " n_pairs"]:
        """Return `MatchStatus` of each pair: same, different or given up.

        Args:
            pairs: Crystal of this batch, whose cell is mapped; crystal of the other.
            other: Another matcher; its tolerance is not used.
            symmetric: Ask both ways round, as the mapping is not symmetric for strained cells.
        """
        other, pairs = other or self, _as_pairs(pairs)
        status = self._compared(self, other, pairs, use_rms=False)[0]
        if symmetric:
            hits = np.flatnonzero(status == MatchStatus.SAME)
            back = self._compared(other, self, pairs[hits][:, ::-1], use_rms=False)[0]
            status[hits] = back
        return status

    def distances(
        self, pairs: Pairs, *, other: "Matcher | None" = None
    ) -> Float[np.ndarray, " n_pairs"]:
        """Return `rms` of each pair, NaN where they do not match."""
        status, values = self._compared(self, other or self, _as_pairs(pairs), use_rms=True)
        return np.where(status == MatchStatus.SAME, values, np.nan)

    def same(
        self, i: int, j: int, *, other: "Matcher | None" = None, symmetric: bool = False
    ) -> bool:
        """Return whether crystal ``i`` matches crystal ``j`` of ``other`` (or of this batch).

        Args:
            i: Crystal of this batch; its cell is the one that is mapped.
            j: Crystal of the other batch.
            other: Another matcher; its tolerance is not used.
            symmetric: As for `statuses`.
        """
        status = self.statuses([(i, j)], other=other, symmetric=symmetric)
        return bool(status[0] == MatchStatus.SAME)

    def rms(self, i: int, j: int, *, other: "Matcher | None" = None) -> float | None:
        """Return the normalised root-mean-square displacement, or None when they do not match.

        In units of (volume / atom)^(1/3). Not None does not imply `same`, which stops at another
        measure (the largest displacement). Below 1e-5 the search ends, as pymatgen's does, so a
        smaller number may differ from its.
        """
        value = float(self.distances([(i, j)], other=other)[0])
        return None if np.isnan(value) else value

    def candidates(self, formula: str) -> Sequence[int]:
        """Return the crystals with this reduced formula, in order."""
        return self._by_formula.get(formula, [])

    def groups(self) -> list[list[int]]:
        """Return crystals that are the same as the first of their group, groups by first member.

        Matching is not transitive: a crystal joins the first group whose first member it matches.
        """
        found = [[i] for members in self._by_formula.values() if len(members) == 1 for i in members]
        several = [members for members in self._by_formula.values() if len(members) > 1]
        pairs = [(i, j) for members in several for i in members for j in members if i < j]
        if self._asks_directly(self, self, _as_pairs(pairs)):
            for members in several:
                found += self._first_wins_directly(members)
            return sorted(found)
        buckets, crystals, place = self._buckets()
        for groups in self._spread(lambda rows: self._first_wins(rows, crystals, place), buckets):
            found += groups
        return sorted(found)

    def components(self) -> list[list[int]]:
        """Return crystals joined by a chain of matches, in either order: input order is no matter.

        Groups by first member, never more of them than `groups` gives.
        """
        home = list(range(len(self.batch)))

        def root(i: int) -> int:
            while home[i] != i:
                home[i] = home[home[i]]
                i = home[i]
            return i

        for rows in self._buckets()[0]:
            for k, i in enumerate(rows):
                # Only crystals not joined yet need a look.
                asked = [(i, j) for j in rows[k + 1 :] if root(i) != root(j)]
                hits = self.statuses(asked) == MatchStatus.SAME
                missed = [(j, i) for (i, j), hit in zip(asked, hits, strict=True) if not hit]
                back = self.statuses(missed) == MatchStatus.SAME
                joined = [pair for pair, hit in zip(asked, hits, strict=True) if hit]
                joined += [pair for pair, hit in zip(missed, back, strict=True) if hit]
                for a, b in joined:
                    low, high = sorted((root(a), root(b)))
                    home[high] = low
        members: dict[int, list[int]] = {}
        for i in range(len(home)):
            members.setdefault(root(i), []).append(i)
        return sorted(members.values())

    @cached_property
    def _by_formula(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, formula in enumerate(self.formulas):
            found.setdefault(formula, []).append(i)
        return found

    def _buckets(self) -> tuple[list[list[int]], ReducedCrystals, dict[int, int]]:
        """Return crystals that may be the same, largest buckets first; and where they are."""
        rows = [i for members in self._by_formula.values() if len(members) > 1 for i in members]
        crystals, where = (
            self.reduced(rows) if rows else (reduce_crystals(CrystalBatch.empty()), [])
        )
        place = dict(zip(rows, np.asarray(where).tolist(), strict=True))
        buckets: dict[int, list[int]] = {}
        for i in rows:
            buckets.setdefault(int(crystals.keys[place[i]]), []).append(i)
        return sorted(buckets.values(), key=len, reverse=True), crystals, place

    def _first_wins(
        self, rows: list[int], crystals: ReducedCrystals, place: dict[int, int]
    ) -> list[list[int]]:
        groups: list[list[int]] = []
        for j in rows:
            firsts = np.array([place[group[0]] for group in groups], dtype=np.int64)
            pairs = np.stack([firsts, np.full(len(groups), place[j])], axis=1)
            k = 0
            while k < len(groups):
                step, status = next_hit(
                    crystals, crystals, pairs[k:], self.tolerance, max_seconds=self.max_seconds
                )
                k += step
                if k == len(groups) or self._decided(groups[k][0], j, status):
                    break
                k += 1
            if k < len(groups):
                groups[k].append(j)
            else:
                groups.append([j])
        return groups

    def _first_wins_directly(self, rows: list[int]) -> list[list[int]]:
        groups: list[list[int]] = []
        for j in rows:
            home = next((group for group in groups if self.same(group[0], j)), None)
            if home is None:
                groups.append([j])
            else:
                home.append(j)
        return groups

    def _asks_directly(self, first: "Matcher", second: "Matcher", pairs: np.ndarray) -> bool:
        if len(pairs) > _FEW or "matmill.crystals.match_search" in sys.modules:
            return False
        sides = ((first, pairs[:, 0]), (second, pairs[:, 1]))
        return all(_are_small_and_whole(side.batch, rows) for side, rows in sides)

    def _decided(self, i: int, j: int, status: MatchStatus) -> bool:
        if status == MatchStatus.UNSURE:
            self.n_asked += 1
            return ask_pymatgen(self._matcher, self.structure(i), self.structure(j))
        if status == MatchStatus.TIMEOUT:
            self.timeouts.append((i, j))
        return status == MatchStatus.SAME

    def _spread(
        self, run: Callable[[list[int]], list[list[int]]], buckets: list[list[int]]
    ) -> Iterable[list[list[int]]]:
        if self.n_threads == 1 or len(buckets) < 2:
            return map(run, buckets)
        with ThreadPoolExecutor(self.n_threads) as pool:
            return list(pool.map(run, buckets))

    def _compared(
        self, first: "Matcher", second: "Matcher", pairs: np.ndarray, *, use_rms: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compare crystals of two batches with this tolerance; count what had to be asked."""
        status = np.full(len(pairs), MatchStatus.DIFFERENT)
        values = np.full(len(pairs), np.inf)
        alike = [first.formulas[i] == second.formulas[j] for i, j in pairs.tolist()]
        live = np.flatnonzero(alike)
        if not len(live):
            return status, values
        if self._asks_directly(first, second, pairs[live]):
            status[live] = MatchStatus.UNSURE
        else:
            ours, mine = first.reduced(pairs[live, 0])
            theirs, yours = second.reduced(pairs[live, 1])
            status[live], values[live] = compare_all(
                ours,
                theirs,
                np.stack([mine, yours], axis=1),
                self.tolerance,
                use_rms=use_rms,
                max_seconds=self.max_seconds,
                n_threads=self.n_threads,
            )
        for p in np.flatnonzero(status == MatchStatus.UNSURE).tolist():
            self.n_asked += 1
            a, b = first.structure(int(pairs[p, 0])), second.structure(int(pairs[p, 1]))
            if use_rms:
                values[p] = ask_pymatgen_rms(self._matcher, a, b)
                status[p] = np.isfinite(values[p])
            else:
                status[p] = ask_pymatgen(self._matcher, a, b)
        self.timeouts += [
            (int(i), int(j)) for i, j in pairs[status == MatchStatus.TIMEOUT].tolist()
        ]
        return status, values


def same(
    a: CrystalBatch, i: int, b: CrystalBatch, j: int, tolerance: MatchTolerance | None = None
) -> bool:
    """Return whether crystal ``i`` of ``a`` matches crystal ``j`` of ``b``.

    For many pairs use `Matcher`, which reduces each crystal once.
    """
    first, second = Matcher(a.select([i]), tolerance), Matcher(b.select([j]), tolerance)
    return first.same(0, 0, other=second)


def rms(
    a: CrystalBatch, i: int, b: CrystalBatch, j: int, tolerance: MatchTolerance | None = None
) -> float | None:
    """Return the normalised RMS displacement between two crystals, or None without a match."""
    first, second = Matcher(a.select([i]), tolerance), Matcher(b.select([j]), tolerance)
    return first.rms(0, 0, other=second)


def _are_small_and_whole(batch: CrystalBatch, rows: np.ndarray) -> bool:
    if not len(rows):
        return True
    part = batch.select(sorted(set(rows.tolist())))
    cells = part.lattice.double()
    flat = part.volume <= 1e-6 * cells.norm(dim=-1).prod(-1)
    is_finite = bool(cells.isfinite().all() and part.frac_coords.isfinite().all())
    return is_finite and not bool(flat.any()) and int(part.n_atoms.max()) <= _SMALL


def _as_pairs(pairs: Pairs) -> np.ndarray:
    pairs = pairs if isinstance(pairs, np.ndarray) else list(pairs)
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
