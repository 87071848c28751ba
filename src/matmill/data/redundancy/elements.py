"""Elements on a line, and as vectors: what distances between compositions are made from."""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.elements import SYMBOLS, table
from matmill.errors import InputError, UnknownNameError

LAST = 103
"""The scales end with lawrencium."""

SCALES = ("mendeleev", "pettifor", "electronegativity", "radius", "atomic")
"""``mendeleev``: by group, then period, hydrogen before fluorine. ``pettifor``: Pettifor 1984.
``electronegativity`` and ``radius``: by rank (Pauling; covalent). ``atomic``: by Z."""

_FACTS = (
    "electronegativity",
    "covalent_radius",
    "atomic_radius",
    "first_ionization_energy",
    "electron_affinity",
    "melting_point",
    "molar_volume",
    "mass",
    "group",
    "period",
    "mendeleev_number",
    "n_valence_s",
    "n_valence_p",
    "n_valence_d",
    "n_valence_f",
)


@cache
def positions(scale: str) -> Int[Tensor, " 119"]:
    """Return the place of each element on a scale, 0 to 102, by atomic number; −1 where none.

    Raises:
        UnknownNameError: If there is no such scale.
    """
    if scale not in SCALES:
        raise UnknownNameError("scale of elements", scale, list(SCALES))
    numbers = torch.arange(1, LAST + 1)
    places = torch.full((len(SYMBOLS),), -1)
    order = sorted(numbers.tolist(), key=_keys(scale).__getitem__)
    places[torch.tensor(order)] = torch.arange(LAST)
    return places


def _keys(scale: str) -> list[tuple[float, ...]]:
    """Return what the elements are sorted by, by atomic number."""
    z = torch.arange(len(SYMBOLS)).double()
    if scale == "atomic":
        columns = [z]
    elif scale == "mendeleev":
        group, period = table("group"), table("period")
        group[1] = 17  # hydrogen stands with the halogens
        in_row = z.clone()
        # Lanthanides and actinides alternate: La Ac Ce Th Pr Pa …
        in_row[89:104] = in_row[57:72] + 0.5
        period[89:104] = period[57:72]
        columns = [group, period, in_row]
    elif scale == "pettifor":
        columns = [table("mendeleev_number")]
    else:
        name = {"electronegativity": "electronegativity", "radius": "covalent_radius"}[scale]
        # Noble gases have no electronegativity; they come last.
        columns = [table(name).nan_to_num(nan=torch.inf), z]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def cumulative(batch: CompositionBatch, scale: str) -> Float[Tensor, "n_compositions 102"]:
    """Return the share of atoms up to each place of a scale.

    The work to move one composition into another along a line, with unit steps, is the sum of the
    absolute differences of these: one-dimensional optimal transport.

    Raises:
        InputError: If an element is not on the scale.
    """
    places = positions(scale)
    _check(batch, places >= 0, f"the scale '{scale}'")
    order = torch.argsort(places)[-LAST:]
    # The last one is 1 for all.
    return batch.fractions[:, order].cumsum(1)[:, :-1]


def fact_vectors(batch: CompositionBatch) -> Float[Tensor, "n_compositions 30"]:
    """Return mean and average deviation of standardised facts about the elements, float64.

    A fact is standardised over the elements up to plutonium, and 0 where it is unknown. Divided by
    the root of the number of facts, so that compositions differ by about 1.

    Raises:
        InputError: If an element is beyond lawrencium.
    """
    facts = _facts()
    _check(batch, torch.arange(len(SYMBOLS)) <= LAST, "the table of facts")
    means = batch.fractions @ facts
    deviations = torch.empty_like(means)
    for column in range(facts.shape[1]):
        away = (facts[:, column] - means[:, column, None]).abs()
        deviations[:, column] = (batch.fractions * away).sum(1)
    return torch.cat([means, deviations], dim=1) / len(_FACTS) ** 0.5


@cache
def _facts() -> Float[Tensor, "119 15"]:
    columns = torch.stack([table(name) for name in _FACTS], dim=1)
    common = columns[1:95]
    mean = common.nanmean(0)
    spread = (common - mean).square().nanmean(0).sqrt()
    return ((columns - mean) / spread).nan_to_num(nan=0.0)


def _check(batch: CompositionBatch, known: Tensor, where: str) -> None:
    has_unknown = (batch.amounts[:, ~known] > 0).any(1)
    if has_unknown.any():
        row = int(has_unknown.long().argmax())
        name = batch.ids[row] if batch.ids else f"row {row}"
        raise InputError(
            f"{batch.select([row]).formulas[0]} ({name}) has an element beyond {SYMBOLS[LAST]}, "
            f"which {where} does not reach. Leave it out."
        )
