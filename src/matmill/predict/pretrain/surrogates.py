"""Surrogate labels: broad classes that a table knows about its crystals, to pretrain on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system, find
from matmill.data.labels import match_column
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.pretrain.losses import UNKNOWN
from matmill.randomness import child

_GAP = ("band_gap",)
_MAGNETIZATION = ("total_magnetization",)
_DIRECT = ("is_gap_direct", "is_direct_gap", "gap_is_direct")
_SPACE_GROUP = ("spacegroup", "space_group", "spacegroup_number")
_SMALLEST_GAP = 1e-3  # eV; a computed gap below it is that of a metal
_SMALLEST_MOMENT = 0.1  # Bohr magnetons a cell; smaller ones are noise of the calculation
_GAP_EDGES = (1.0, 3.0)  # eV, between narrow, middle and wide gaps


@dataclass(frozen=True)
class Surrogate:
    """A class of every crystal.

    Attributes:
        name: Of the surrogate, such as ``"metal"``.
        classes: Names of the classes.
        labels: Class number of each crystal, -1 where unknown, ``(n_crystals,)``.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int[Tensor, " n_crystals"]

    @property
    def counts(self) -> dict[str, int]:
        """How many crystals each class has."""
        known = self.labels[self.labels >= 0]
        found = torch.bincount(known, minlength=len(self.classes))
        return dict(zip(self.classes, found.tolist(), strict=True))


def surrogate(table: LabelledCrystals, name: str) -> Surrogate:
    """Return the labels of one surrogate.

    Args:
        table: Crystals with the columns that the labels follow from.
        name: ``metal``, ``magnetic``, ``gap-type``, ``gap-class`` or ``crystal-system``.

    Raises:
        UnknownNameError: If there is no such surrogate.
        DataError: If its column is missing, or all crystals are of one class.
    """
    if name not in SURROGATES:
        raise UnknownNameError("surrogate", name, sorted(SURROGATES))
    classes, label = SURROGATES[name]
    found = Surrogate(name, classes, label(table).long())
    present = [kind for kind, count in found.counts.items() if count]
    if len(present) < 2:
        what = f"only '{present[0]}'" if present else "no known value"
        raise DataError(
            f"The surrogate '{name}' has {what} in {table.source or 'the table'}: two classes at "
            "least are needed. Choose another surrogate, or an objective without labels "
            "(simclr, barlow)."
        )
    return found


def with_wrong_labels(labels: Int[Tensor, " n"], share: float, seed: int) -> Int[Tensor, " n"]:
    """Return labels of which ``share`` of the known ones are another class, each as likely."""
    if not 0.0 <= share <= 1.0:
        raise InputError(f"The share of wrong labels is {share:g}; give 0 to 1.")
    rng = child(seed, "wrong labels")
    known = torch.nonzero(labels >= 0).flatten()
    n_classes = int(labels.max()) + 1
    chosen = known[torch.randperm(len(known), generator=rng)[: round(share * len(known))]]
    step = torch.randint(1, max(n_classes, 2), (len(chosen),), generator=rng)
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + step) % n_classes
    return wrong


def shuffled(labels: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """Return the known labels dealt out at random: same counts, no meaning."""
    rng = child(seed, "random labels")
    known = torch.nonzero(labels >= 0).flatten()
    dealt = labels.clone()
    dealt[known] = labels[known[torch.randperm(len(known), generator=rng)]]
    return dealt


def _metal(table: LabelledCrystals) -> Tensor:
    gap = _column(table, "metal", _GAP)
    return _known(gap, (gap >= _SMALLEST_GAP).long())


def _magnetic(table: LabelledCrystals) -> Tensor:
    moment = _column(table, "magnetic", _MAGNETIZATION)
    return _known(moment, (moment.abs() >= _SMALLEST_MOMENT).long())


def _gap_class(table: LabelledCrystals) -> Tensor:
    gap = _column(table, "gap-class", _GAP)
    kind = (gap >= _SMALLEST_GAP).long() + sum((gap >= edge).long() for edge in _GAP_EDGES)
    return _known(gap, kind)


def _gap_type(table: LabelledCrystals) -> Tensor:
    is_direct = _column(table, "gap-type", _DIRECT)
    gap = _column(table, "gap-type", _GAP)
    kind = torch.where(is_direct > 0.5, 1, 2)
    return _known(is_direct + gap, torch.where(gap < _SMALLEST_GAP, 0, kind))


def _crystal_system(table: LabelledCrystals) -> Tensor:
    column = next((c for n in _SPACE_GROUP if (c := match_column(n, table.columns))), None)
    if column is None:
        numbers = find(table.crystals, symprec=0.1).number.double()
    else:
        numbers = table.column(column).double()
    is_known = (numbers >= 1) & (numbers <= 230)
    place = {name: i for i, name in enumerate(CRYSTAL_SYSTEMS)}
    of_number = torch.tensor([UNKNOWN, *(place[crystal_system(n)] for n in range(1, 231))])
    return of_number[torch.where(is_known, numbers, 0.0).round().long()]


def _known(values: Tensor, labels: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values), labels, UNKNOWN)


def _column(table: LabelledCrystals, name: str, wanted: tuple[str, ...]) -> Tensor:
    for candidate in wanted:
        column = match_column(candidate, table.columns)
        if column is not None:
            return table.column(column)
    has = ", ".join(table.columns) or "no numeric columns"
    raise DataError(
        f"The surrogate '{name}' needs a column '{wanted[0]}', which {table.source or 'the table'} "
        f"lacks (it has {has}). Add it, or take --surrogate crystal-system, which needs none."
    )


# name -> (classes in the order of their numbers, function of a table)
SURROGATES: dict[str, tuple[tuple[str, ...], Callable[[LabelledCrystals], Tensor]]] = {
    "metal": (("metal", "non-metal"), _metal),
    "magnetic": (("non-magnetic", "magnetic"), _magnetic),
    "gap-type": (("metal", "direct gap", "indirect gap"), _gap_type),
    "gap-class": (("metal", "gap below 1 eV", "gap of 1-3 eV", "gap above 3 eV"), _gap_class),
    "crystal-system": (CRYSTAL_SYSTEMS, _crystal_system),
}
