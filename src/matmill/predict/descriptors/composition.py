"""The `composition` block: what follows from the formula alone, for crystals and compositions."""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.elements import SYMBOLS, oxidation_states
from matmill.predict.descriptors.alloys import alloy_columns
from matmill.predict.descriptors.properties import (
    FAMILIES,
    property_names,
    property_table,
)
from matmill.predict.descriptors.shares import Shares, weighted_mean
from matmill.predict.descriptors.table import Features, from_columns

STATISTICS = ("mean", "deviation", "min", "max", "range", "mode")
_NORMS = (2, 3, 5, 7, 10)
_TIE = 1e-9  # amounts within this share of each other are equal: rounding of fractions


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
    columns |= alloy_columns(shares)
    columns |= _oxidation(shares)
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


def _oxidation(shares: Shares) -> dict[str, Tensor]:
    """Return the charges per atom that the oxidation states seen in the ICSD allow.

    A compound whose range of charges does not hold zero cannot be ionic.
    """
    states = [oxidation_states(symbol, "icsd24") if symbol != "X" else () for symbol in SYMBOLS]
    known = [s or (0,) for s in states]
    least = torch.tensor([min(0, *s) for s in known]).double()[shares.number]
    most = torch.tensor([max(0, *s) for s in known]).double()[shares.number]
    lowest = torch.tensor([min(s) for s in known]).double()[shares.number]
    highest = torch.tensor([max(s) for s in known]).double()[shares.number]
    bottom = (shares.share * lowest).sum(1)
    top = (shares.share * highest).sum(1)
    return {
        "oxidation_charge_least": bottom,
        "oxidation_charge_most": top,
        "oxidation_imbalance": bottom.clamp_min(0.0) + (-top).clamp_min(0.0),
        "oxidation_negative": (shares.share * least).sum(1),
        "oxidation_positive": (shares.share * most).sum(1),
    }


def _orbital_gap(shares: Shares) -> Tensor:
    """Return how far the highest atomic level lies above the lowest one."""
    level = shares.values("highest_orbital_energy")
    known = torch.isfinite(level)
    top = torch.where(known, level, -torch.inf).amax(1)
    bottom = torch.where(known, level, torch.inf).amin(1)
    return torch.where(known.any(1), top - bottom, torch.nan)
