"""Whether two crystals are the same, as pymatgen's StructureMatcher decides it.

Its verdicts are what published tables are made with, so it is wrapped and not replaced. What is
saved is the work around it: formulas are compared first, and structures are built once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure


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


class Matcher:
    """Compares crystals of one batch with each other and with those of other batches.

    Args:
        batch: The crystals; they are converted when first asked for, and kept.
        tolerance: How far crystals may differ and still count as the same.
    """

    def __init__(self, batch: CrystalBatch, tolerance: MatchTolerance | None = None) -> None:
        self.batch = batch
        self.tolerance = tolerance or MatchTolerance()
        self.formulas = batch.formula
        self._structures: dict[int, Structure] = {}

    @cached_property
    def _matcher(self) -> Any:  # noqa: ANN401 - imported late
        from pymatgen.analysis.structure_matcher import StructureMatcher

        tolerance = self.tolerance
        return StructureMatcher(
            ltol=tolerance.ltol, stol=tolerance.stol, angle_tol=tolerance.angle_tol
        )

    def structure(self, i: int) -> "Structure":
        """Return crystal ``i`` as a pymatgen structure, built once."""
        if i not in self._structures:
            self._structures[i] = to_structure(self.batch, i)
        return self._structures[i]

    def same(
        self, i: int, j: int, *, other: "Matcher | None" = None, symmetric: bool = False
    ) -> bool:
        """Return whether crystal ``i`` matches crystal ``j`` of ``other`` (or of this batch).

        Args:
            i: Crystal of this batch; its cell is the one that is mapped.
            j: Crystal of the other batch.
            other: Another matcher; its tolerance is not used.
            symmetric: Ask both ways round, as the mapping is not symmetric for strained cells.
        """
        other = other or self
        if self.formulas[i] != other.formulas[j]:
            return False
        first, second = self.structure(i), other.structure(j)
        return bool(self._matcher.fit(first, second, symmetric=symmetric))

    def rms(self, i: int, j: int, *, other: "Matcher | None" = None) -> float | None:
        """Return the normalised root-mean-square displacement, or None when they do not match.

        In units of (volume / atom)^(1/3). Not None does not imply `same`, which stops at another
        measure (the largest displacement).
        """
        other = other or self
        if self.formulas[i] != other.formulas[j]:
            return None
        found = self._matcher.get_rms_dist(self.structure(i), other.structure(j))
        return None if found is None else float(found[0])

    def candidates(self, formula: str) -> Sequence[int]:
        """Return the crystals with this reduced formula, in order."""
        return self._by_formula.get(formula, [])

    def groups(self) -> list[list[int]]:
        """Return crystals that are the same as the first of their group, groups by first member.

        Matching is not transitive: a crystal joins the first group whose first member it matches.
        """
        groups: list[list[int]] = []
        for members in self._by_formula.values():
            own: list[list[int]] = []
            for j in members:
                home = next((group for group in own if self.same(group[0], j)), None)
                if home is None:
                    own.append([j])
                else:
                    home.append(j)
            groups += own
        return sorted(groups)

    @cached_property
    def _by_formula(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, formula in enumerate(self.formulas):
            found.setdefault(formula, []).append(i)
        return found


def same(
    a: CrystalBatch, i: int, b: CrystalBatch, j: int, tolerance: MatchTolerance | None = None
) -> bool:
    """Return whether crystal ``i`` of ``a`` matches crystal ``j`` of ``b``.

    For many pairs use `Matcher`, which converts each crystal once.
    """
    first, second = Matcher(a.select([i]), tolerance), Matcher(b.select([j]), tolerance)
    return first.same(0, 0, other=second)


def rms(
    a: CrystalBatch, i: int, b: CrystalBatch, j: int, tolerance: MatchTolerance | None = None
) -> float | None:
    """Return the normalised RMS displacement between two crystals, or None without a match."""
    first, second = Matcher(a.select([i]), tolerance), Matcher(b.select([j]), tolerance)
    return first.rms(0, 0, other=second)
