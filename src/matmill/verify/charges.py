"""Charge neutrality of compositions under a named table of oxidation states, exact and fast.

SMACT enumerates every product of oxidation states. Here the sums that can be reached are built
element by element, so neither the number of elements nor mixed valence needs a cut-off.
"""

from functools import lru_cache
from math import gcd, isnan, prod
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import SYMBOLS, number, oxidation_states
from matmill.crystals.elements import table as element_table

# fmt: off
MIXED_VALENCE = frozenset({
    "Fe", "Mn", "Co", "Cu", "Ni", "V", "Ti", "Cr", "Nb", "Mo", "W", "Re", "Ru", "Os", "Pd", "Ag",
    "Au", "Sn", "Sb", "Bi", "Ce", "Eu", "Yb", "U",
})
# fmt: on
"""Elements whose atoms may differ in charge within one compound, the list of SMACT 4.0."""

_NAN = float("nan")
_ELECTRONEGATIVITY = element_table("electronegativity").tolist()
# Where SMACT 4.0 uses another Pauling value than the element table, or none: its verdicts need it.
# fmt: off
for _symbol, _value in {
    "Tc": 2.1, "Pm": _NAN, "Tb": 1.2, "Lu": 1.0, "W": 1.7, "Pt": 2.2, "Au": 2.4, "Hg": 1.9,
    "Tl": 1.8, "Pb": 1.8, "Bi": 1.9, "Rn": _NAN, "U": 1.7, "Np": 1.3, "Pu": 1.3, "Lr": _NAN,
}.items():
    _ELECTRONEGATIVITY[number(_symbol)] = _value
# fmt: on
_IS_METAL = element_table("is_metal").tolist()


def charge_neutral(
    batch: CrystalBatch, table: str = "icsd24", *, mixed_valence: bool = False
) -> Bool[Tensor, " n_crystals"]:
    """Tell whether some choice of one oxidation state per element sums to zero.

    Elements alone are neutral. Metals and alloys get no shortcut here; see `smact_valid`.

    Args:
        batch: The crystals; counts are reduced first.
        table: Name of an oxidation table of `crystals.elements`.
        mixed_valence: Let atoms of the elements in `MIXED_VALENCE` differ in charge.
    """
    verdicts = [_neutral(c, table, mixed_valence, False) for c in _compositions(batch)]
    return torch.tensor(verdicts, dtype=torch.bool)


def smact_valid(
    batch: CrystalBatch,
    table: str = "icsd24",
    *,
    mixed_valence: bool = False,
    alloys: bool = True,
    missing_passes: bool = False,
    combination_limit: int | None = None,
) -> Bool[Tensor, " n_crystals"]:
    """Tell whether a composition is valid by SMACT's rule.

    One element, or metals only, or one oxidation state per element that sums to zero with every
    cation less electronegative than every anion. With the default table the verdicts are those of
    ``smact.screening.smact_validity`` of SMACT 4.0.

    Args:
        batch: The crystals; counts are reduced first.
        table: Name of an oxidation table of `crystals.elements`.
        mixed_valence: Let atoms of the elements in `MIXED_VALENCE` differ in charge.
        alloys: Metals alone are valid without a test.
        missing_passes: A neutral choice with an unknown electronegativity passes, as in CDVAE and
            what came from it; SMACT fails it.
        combination_limit: More combinations of states than this are invalid untested, as in DiffCSP
            (10,000,000).

    Source:
        Davies et al., SMACT: Semiconducting Materials by Analogy and Chemical Theory (2019).
    """
    rules = _Rules(table, mixed_valence, alloys, missing_passes, combination_limit)
    verdicts = [_smact(c, rules) for c in _compositions(batch)]
    return torch.tensor(verdicts, dtype=torch.bool)


def composition_kinds(
    batch: CrystalBatch, table: str = "icsd24", *, mixed_valence: bool = False
) -> list[str]:
    """Return ``"element"``, ``"metals"``, ``"neutral"`` or ``"invalid"`` for each crystal.

    The shares of the four say what a single "valid" hides: most alloys pass without any test.
    """
    kinds = []
    for composition in _compositions(batch):
        if len(composition) == 1:
            kinds.append("element")
        elif all(_IS_METAL[z] == 1.0 for z, _ in composition):
            kinds.append("metals")
        else:
            rules = _Rules(table, mixed_valence)
            kinds.append("neutral" if _smact(composition, rules) else "invalid")
    return kinds


Composition = tuple[tuple[int, int], ...]
"""Pairs of atomic number and reduced count, by atomic number."""


class _Rules(NamedTuple):
    """The switches of `smact_valid`, a key of the cache."""

    table: str
    mixed_valence: bool
    alloys: bool = True
    missing_passes: bool = False
    combination_limit: int | None = None


def _compositions(batch: CrystalBatch) -> list[Composition]:
    counts = element_counts(batch)
    found = torch.nonzero(counts)
    pairs: list[list[tuple[int, int]]] = [[] for _ in range(len(batch))]
    amounts = counts[found[:, 0], found[:, 1]].tolist()
    for (crystal, z), amount in zip(found.tolist(), amounts, strict=True):
        pairs[crystal].append((z, amount))
    reduced = []
    for pair in pairs:
        divisor = gcd(*(n for _, n in pair))
        reduced.append(tuple((z, n // divisor) for z, n in pair))
    return reduced


@lru_cache(maxsize=200_000)
def _smact(composition: Composition, rules: _Rules) -> bool:
    metals = all(_IS_METAL[z] == 1.0 for z, _ in composition)
    if len(composition) == 1 or (rules.alloys and metals):
        return True
    if rules.combination_limit is not None:
        sizes = [len(oxidation_states(SYMBOLS[z], rules.table)) for z, _ in composition]
        if prod(sizes) > rules.combination_limit:
            return False
    if rules.missing_passes and any(isnan(_ELECTRONEGATIVITY[z]) for z, _ in composition):
        return _neutral(composition, rules.table, rules.mixed_valence, False)
    return _neutral(composition, rules.table, rules.mixed_valence, True)


@lru_cache(maxsize=200_000)
def _neutral(composition: Composition, table: str, mixed_valence: bool, pauling: bool) -> bool:
    """Tell whether a sum of zero can be reached, under Pauling's rule if asked."""
    if len(composition) == 1:
        return True
    choices = []
    for z, n in composition:
        states = oxidation_states(SYMBOLS[z], table)
        if not states:
            return False
        free = mixed_valence and SYMBOLS[z] in MIXED_VALENCE
        choices.append((_ELECTRONEGATIVITY[z], states, n, free))
    if not pauling:
        return 0 in _sums(choices, None)
    levels = sorted({level for level, *_ in choices})
    if any(level != level for level in levels):  # not a number: SMACT fails the test
        return False
    # Cations must lie strictly below anions, so some level separates the two.
    return any(0 in _sums(choices, level) for level in [*levels, levels[-1] + 1.0])


def _sums(
    choices: list[tuple[float, tuple[int, ...], int, bool]], first_anion: float | None
) -> set[int]:
    """Return all charges that can be reached with cations below and anions from a level on."""
    sums = {0}
    for level, states, n, free in choices:
        if first_anion is not None:
            anion = level >= first_anion
            states = tuple(q for q in states if q == 0 or (q < 0) == anion)
        if free:
            for _ in range(n):
                sums = {s + q for s in sums for q in states}
        else:
            sums = {s + n * q for s in sums for q in states}
    return sums
