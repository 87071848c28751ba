"""The `composition` block: what follows from the formula alone, for crystals and compositions."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.elements import SYMBOLS
from matmill.predict.descriptors.properties import (
    FAMILIES,
    element_property,
    property_names,
    property_table,
)
from matmill.predict.descriptors.table import Features, from_columns

STATISTICS = ("mean", "deviation", "min", "max", "range", "mode")
_NORMS = (2, 3, 5, 7, 10)
_TIE = 1e-9  # amounts within this share of each other are equal: rounding of fractions


@dataclass(frozen=True, eq=False)
class Shares:
    """The elements of each row, most abundant first, padded to the longest row.

    Attributes:
        number: Atomic number, 0 in the padding, ``(n, most_elements)``.
        share: Share of the atoms, 0 in the padding, ``(n, most_elements)``.
    """

    number: Int[Tensor, "n most_elements"]
    share: Float[Tensor, "n most_elements"]

    @classmethod
    def of(cls, batch: CrystalBatch | CompositionBatch) -> "Shares":
        """Return the elements of a batch of either kind."""
        if isinstance(batch, CrystalBatch):
            batch = CompositionBatch.of(batch)
        fractions = batch.fractions.double()
        most = int((fractions > 0).sum(1).amax()) if len(fractions) else 1
        # Exact ties are resolved by atomic number, so that equal formulas give equal bits.
        order = torch.sort(fractions, dim=1, descending=True, stable=True)
        share = order.values[:, :most]
        return cls(torch.where(share > 0, order.indices[:, :most], 0), share)

    @property
    def present(self) -> Bool[Tensor, "n most_elements"]:
        """False in the padding."""
        return self.number > 0

    def values(self, name: str) -> Float[Tensor, "n most_elements"]:
        """Return a property of the elements, NaN where unknown and in the padding."""
        return element_property(name)[self.number]

    def mean(self, name: str) -> Float[Tensor, " n"]:
        """Return the mean of a property over the atoms whose element has one."""
        values = self.values(name)
        return weighted_mean(values, self.share * torch.isfinite(values))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over dim 1, NaN where all weights are 0. NaN values need weight 0."""
    total = weights.sum(1)
    mean = (values.nan_to_num(0.0) * weights).sum(1) / total
    return mean.masked_fill(total == 0, torch.nan)


def composition_block(batch: CrystalBatch | CompositionBatch) -> Features:
    """Return statistics of element properties and other functions of the formula.

    Args:
        batch: Crystals or compositions, any number.

    Returns:
        One row a formula. Elements whose property is unknown are left out of a statistic; NaN
        where all of them are. `describe` tells what each column is.

    Source:
        Ward et al., A general-purpose machine learning framework for predicting properties of
        inorganic materials (2016), for the statistics.
    """
    shares = Shares.of(batch)
    columns = statistics(shares)
    columns |= _stoichiometry(shares)
    columns |= _bonding(shares)
    columns |= _alloy(shares)
    return from_columns(columns)


def element_block(batch: CrystalBatch | CompositionBatch) -> Features:
    """Return the share of the atoms that each element has, H to Og."""
    if isinstance(batch, CrystalBatch):
        batch = CompositionBatch.of(batch)
    return Features(batch.fractions.double()[:, 1:], tuple(SYMBOLS[1:]))


def statistics(shares: Shares) -> dict[str, Float[Tensor, " n"]]:
    """Return mean, average deviation, min, max, range and mode of every element property.

    The mode is the property of the most abundant element, the lowest where several are.
    """
    values = property_table()[shares.number]  # (n, most_elements, n_properties)
    is_known = torch.isfinite(values)
    weights = shares.share[:, :, None] * is_known
    total = weights.sum(1)
    filled = values.nan_to_num(0.0)
    mean = (filled * weights).sum(1) / total
    deviation = ((filled - mean[:, None].nan_to_num(0.0)).abs() * weights).sum(1) / total
    lowest = torch.where(is_known, values, torch.inf).amin(1)
    highest = torch.where(is_known, values, -torch.inf).amax(1)
    is_top = weights >= weights.amax(1, keepdim=True) * (1 - _TIE)
    mode = torch.where(is_known & is_top, values, torch.inf).amin(1)
    parts = (mean, deviation, lowest, highest, highest - lowest, mode)
    columns = {}
    for place, name in enumerate(property_names()):
        for statistic, part in zip(STATISTICS, parts, strict=True):
            column = part[:, place]
            columns[f"{name}_{statistic}"] = column.masked_fill(total[:, place] == 0, torch.nan)
    return columns


def _stoichiometry(shares: Shares) -> dict[str, Tensor]:
    share = shares.share
    columns = {"n_elements": shares.present.sum(1).double()}
    for p in _NORMS:
        columns[f"norm_{p}"] = (share**p).sum(1) ** (1 / p)
    columns["largest_share"] = share.amax(1)
    columns["mixing_entropy"] = -torch.xlogy(share, share).sum(1) + 0.0
    for family, numbers in FAMILIES.items():
        is_member = torch.zeros(len(SYMBOLS), dtype=torch.float64)
        is_member[list(numbers)] = 1.0
        columns[f"share_{family}"] = (share * is_member[shares.number]).sum(1)
    for shell in "spdf":
        ratio = shares.mean(f"n_valence_{shell}") / shares.mean("n_valence")
        columns[f"valence_share_{shell}"] = ratio
    return columns


def _bonding(shares: Shares) -> dict[str, Tensor]:
    """Return differences of electronegativity and the ionic character that follows from them."""
    chi = shares.values("electronegativity")
    share = shares.share * torch.isfinite(chi)
    chi = chi.nan_to_num(0.0)
    pairs = share[:, :, None] * share[:, None, :]
    gap = (chi[:, :, None] - chi[:, None, :]).abs() * (pairs > 0)
    ionic = 1 - torch.exp(-0.25 * gap**2)
    total = pairs.sum((1, 2))
    mulliken = shares.values("mulliken_electronegativity").clamp_min(1e-3)
    known = shares.share * torch.isfinite(mulliken)
    centre = torch.exp(weighted_mean(mulliken.log(), known))
    return {
        "electronegativity_gap_max": gap.amax((1, 2)),
        "electronegativity_gap_mean": (gap * pairs).sum((1, 2)) / total,
        "ionic_character_max": ionic.amax((1, 2)),
        "ionic_character_mean": (ionic * pairs).sum((1, 2)) / total,
        "band_centre_ev": -centre,
        "orbital_gap_ev": _orbital_gap(shares),
    }


def _orbital_gap(shares: Shares) -> Tensor:
    """Return how far the highest atomic level lies above the lowest one."""
    level = shares.values("highest_orbital_energy")
    known = torch.isfinite(level)
    top = torch.where(known, level, -torch.inf).amax(1)
    bottom = torch.where(known, level, torch.inf).amin(1)
    return torch.where(known.any(1), top - bottom, torch.nan)


def _alloy(shares: Shares) -> dict[str, Tensor]:
    """Return the descriptors of metallurgy: mismatch of sizes, electronegativity and stiffness."""
    columns = {}
    for name, label in (
        ("atomic_radius", "size_mismatch"),
        ("covalent_radius", "covalent_mismatch"),
        ("molar_volume", "volume_mismatch"),
        ("bulk_modulus", "stiffness_mismatch"),
    ):
        columns[label] = _mismatch(shares, name, relative=True)
    columns["electronegativity_mismatch"] = _mismatch(shares, "electronegativity", relative=False)
    return columns


def _mismatch(shares: Shares, name: str, *, relative: bool) -> Tensor:
    """Return the root mean square deviation of a property from its mean."""
    values = shares.values(name)
    known = shares.share * torch.isfinite(values)
    mean = weighted_mean(values, known)[:, None]
    step = values / mean - 1 if relative else values - mean
    return weighted_mean(step**2, known).sqrt()
