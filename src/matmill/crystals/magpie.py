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

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number

N_MAGPIE = 132
"""22 properties, six statistics each."""

_ROWS_AT_ONCE = 500  # 10 MB for each statistic


def magpie_vectors(amounts: Tensor) -> Float[Tensor, "n 132"]:
    """Return least, largest, range, mean, mean deviation and mode of each property.

    Mean and deviation are weighted by the share of the atoms; the mode is the value of the most
    frequent element, the least of them at a tie.

    Args:
        amounts: Atoms of each element, whole or fractional; column = atomic number, ``(n, 119)``.

    Returns:
        float64, property by property, in the units of the table; NaN rows where the composition is
        empty or has an element that the table lacks.
    """
    parts = [_vectors(part) for part in amounts.double().split(_ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0, N_MAGPIE, dtype=torch.float64)


def _vectors(amounts: Float[Tensor, "n 119"]) -> Float[Tensor, "n 132"]:
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
    found = torch.stack([low, high, high - low, middle, deviation, mode], dim=2).flatten(1)
    strange = (amounts[:, ~known] > 0).any(1) | ~(amounts > 0).any(1)
    return found.masked_fill(strange[:, None], torch.nan)


@cache
def _table() -> Float[Tensor, "119 22"]:
    path = files("matmill").joinpath("assets", "magpie.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    table = torch.full((len(SYMBOLS), N_MAGPIE // 6), torch.nan, dtype=torch.float64)
    for row in rows:
        z = number(row.pop("symbol"))
        table[z] = torch.tensor([float(value) for value in row.values()], dtype=torch.float64)
    return table
