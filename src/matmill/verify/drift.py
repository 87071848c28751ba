"""The panel that shows a flywheel drifting: what the crystals of a round are made of.

A loop that keeps what is stable by one potential, whatever the elements, moves round by round to
those that the potential likes. In a published loop the share of crystals with a lanthanide rose
from 35.5 to 55.8 % in three rounds, that of radioactive ones from 6.6 to 14.0 %, and the supply
risk of production from 3,530 to 3,940; a single round of the same size did not drift. One panel a
round, side by side, shows it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import number
from matmill.crystals.facts import density, n_elements
from matmill.crystals.supply import supply_risk
from matmill.crystals.symmetry import find
from matmill.verify.metrics import Metric, mean, share
from matmill.verify.spread import effective_number

LANTHANIDES = tuple(range(57, 72))
"""Atomic numbers of La to Lu."""

NO_STABLE_ISOTOPE = (43, 61, *range(84, 119))
"""Tc, Pm, and everything from Po on. Bismuth's half-life is beyond any use; it counts as stable."""


def has_any(batch: CrystalBatch, elements: Sequence[int]) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals hold at least one of these elements, by atomic number."""
    return (element_counts(batch)[:, list(elements)] > 0).any(1)


def lanthanide_share(batch: CrystalBatch) -> Metric:
    """Return the share of crystals with a lanthanide, La to Lu."""
    return share("with a lanthanide", has_any(batch, LANTHANIDES))


def radioactive_share(batch: CrystalBatch, *, allowed: Sequence[str] = ()) -> Metric:
    """Return the share of crystals with an element that has no stable isotope.

    Args:
        batch: The crystals.
        allowed: Symbols that do not count, such as Th and U, which can be bought.
    """
    accepted = {number(symbol) for symbol in allowed}
    counted = [z for z in NO_STABLE_ISOTOPE if z not in accepted]
    name = "with an element without stable isotope"
    if allowed:
        name += f" (but {', '.join(allowed)})"
    return share(name, has_any(batch, counted))


def supply_risks(batch: CrystalBatch) -> list[Metric]:
    """Return the mean Herfindahl-Hirschman indices of production and reserves, 0 to 10,000.

    The denominator is the number of crystals whose elements are all listed; see
    `crystals.supply.supply_risk`.
    """
    risk = supply_risk(element_counts(batch))
    return [mean(f"supply risk, {name}", risk[:, i]) for i, name in enumerate(_SIDES)]


def combined_supply_risk(batch: CrystalBatch) -> Metric:
    """Return the mean of 0.25 production + 0.75 reserves, divided by 1,000: 0 to 10.

    Source:
        LeMat-GenBench (2025), family "HHI"; its weights and scale.
    """
    risk = supply_risk(element_counts(batch))
    return mean("supply risk, 0 to 10", (0.25 * risk[:, 0] + 0.75 * risk[:, 1]) / 1000)


def formula_repetition(batch: CrystalBatch) -> Metric:
    """Return the share of crystals whose reduced formula came before."""
    seen: set[str] = set()
    again = []
    for formula in batch.formula:
        again.append(formula in seen)
        seen.add(formula)
    return share("formula came before", torch.tensor(again, dtype=torch.bool))


def drift_panel(
    batch: CrystalBatch, *, symprec: float = 0.1, allowed: Sequence[str] = ()
) -> list[Metric]:
    """Return what to compare between the rounds of a flywheel.

    Args:
        batch: The crystals that a round kept.
        symprec: Tolerance of the space groups, Å (moyopy).
        allowed: Symbols without a stable isotope that do not count as radioactive.
    """
    groups = find(batch, symprec=symprec).number
    kinds = effective_number(groups.tolist()) if len(batch) else float("nan")
    return [
        lanthanide_share(batch),
        radioactive_share(batch, allowed=allowed),
        share("with promethium", has_any(batch, (61,))),
        *supply_risks(batch),
        mean("number of elements", n_elements(batch)),
        mean("atoms per cell", batch.n_atoms.double()),
        mean("density (g/cm³)", density(batch)),
        share(f"P1 at symprec {symprec:g}", groups == 1),
        Metric(
            name=f"effective number of space groups at symprec {symprec:g}",
            value=kinds,
            numerator=kinds,
            denominator=len(batch),
        ),
        formula_repetition(batch),
    ]


_SIDES = ("production", "reserves")
