"""Magpie vectors of compositions, with the published table in its own units.

Not standardised, so that published distances come out; columns with large numbers (melting point
in K, radius in pm, number of the space group of the element) decide them.

Source:
    Ward et al., A general-purpose machine learning framework for predicting properties of
    inorganic materials (2016).
"""

import csv
from functools import cache
from importlib.resources import files
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number

N_MAGPIE = 132
"""22 properties, six statistics each."""

_ROWS_AT_ONCE = 500  # 10 MB for each statistic

Missing = Literal["filled", "unknown"]
"""What stands for a property that was never measured: the table's filler, or NaN."""

_FILLED = {
    "MeltingT": ("He", "Fr"),
    "CovalentRadius": ("Bk",),
    "Electronegativity": ("He", "Ne", "Ar", "Rn"),
    "SpaceGroupNumber": ("At", "Rn", "Fr"),
}
# The cells that Magpie left empty, by column; the table that ships has a filler there.


def magpie_vectors(amounts: Tensor, *, missing: Missing = "filled") -> Float[Tensor, "n 132"]:
    """Return least, largest, range, mean, mean deviation and mode of each property.

    Mean and deviation are weighted by the share of the atoms; the mode is the value of the most
    frequent element, the least of them at a tie.

    Args:
        amounts: Atoms of each element, whole or fractional; column = atomic number, ``(n, 119)``.
        missing: What stands for the ten properties of elements that Magpie lacks.

    Returns:
        float64, property by property, in the units of the table; NaN rows where the composition is
        empty or has an element that the table lacks, and with ``"unknown"`` NaN statistics of a
        property that one of the elements lacks.
    """
    unknown = _unknown() if missing == "unknown" else None
    parts = [_vectors(part, unknown) for part in amounts.double().split(_ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0, N_MAGPIE, dtype=torch.float64)


def magpie_scaler() -> Float[Tensor, "2 132"]:
    """Return means and standard deviations of Magpie numbers, as published for COV.

    Source:
        Xie et al., Crystal Diffusion Variational Autoencoder (2022), its published constants.
    """
    rows = _rows("magpie_scaler.csv")
    columns = [[float(row[key]) for row in rows] for key in ("mean", "std")]
    return torch.tensor(columns, dtype=torch.float64)


def _vectors(
    amounts: Float[Tensor, "n 119"], unknown: Bool[Tensor, "119 22"] | None
) -> Float[Tensor, "n 132"]:
    share = amounts / amounts.sum(1, keepdim=True)
    values = _table().to(amounts.device)
    known = torch.isfinite(values).all(1)
    filled = values.nan_to_num(0.0)
    present = (amounts > 0)[:, :, None]
    most = amounts == amounts.amax(1, keepdim=True)
    low = torch.where(present, filled, torch.inf).amin(1)
    high = torch.where(present, filled, -torch.inf).amax(1)
    middle = share @ filled
    deviation = (share[:, :, None] * (filled - middle[:, None]).abs()).sum(1)
    mode = torch.where(most[:, :, None], filled, torch.inf).amin(1)
    found = torch.stack([low, high, high - low, middle, deviation, mode], dim=2)
    if unknown is not None:
        lacks = (present & unknown).any(1)
        found = found.masked_fill(lacks[:, :, None], torch.nan)
        # The most frequent element may have what another one lacks.
        lacks = (most[:, :, None] & unknown).any(1)
        found[:, :, 5] = mode.masked_fill(lacks, torch.nan)
    found = found.flatten(1)
    strange = (amounts[:, ~known] > 0).any(1) | ~(amounts > 0).any(1)
    return found.masked_fill(strange[:, None], torch.nan)


@cache
def _table() -> Float[Tensor, "119 22"]:
    table = torch.full((len(SYMBOLS), N_MAGPIE // 6), torch.nan, dtype=torch.float64)
    for row in _rows("magpie.csv"):
        z = number(row.pop("symbol"))
        table[z] = torch.tensor([float(value) for value in row.values()], dtype=torch.float64)
    return table


@cache
def _unknown() -> Bool[Tensor, "119 22"]:
    names = [name for name in _rows("magpie.csv")[0] if name != "symbol"]
    unknown = torch.zeros(len(SYMBOLS), len(names), dtype=torch.bool)
    for name, symbols in _FILLED.items():
        unknown[[number(symbol) for symbol in symbols], names.index(name)] = True
    return unknown


def _rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a table that ships."""
    text = files("matmill").joinpath("assets", name).read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return list(csv.DictReader(lines))
