"""Supply risk of compositions: how few countries the elements come from."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, table


def supply_risk(amounts: Tensor) -> Float[Tensor, "n 2"]:
    """Return the Herfindahl-Hirschman index of production and of reserves of each composition.

    The index of an element is the sum of the squared shares, in per cent, of the countries in its
    world production (or reserves): 10,000 if one country has it all. That of a composition is the
    mean over its elements by mass. Below 1,500 counts as spread out, above 2,500 as concentrated.

    Args:
        amounts: Atoms of each element, whole or fractional; column = atomic number, ``(n, 119)``.

    Returns:
        float64, 0 to 10,000: production, then reserves. NaN where an element has no index: it is
        not a mined commodity of the source (hydrogen, most noble gases, technetium, polonium and
        beyond).

    Source:
        Gaultois et al., Data-Driven Review of Thermoelectric Materials: Performance and Resource
        Considerations (2013), with the values that pymatgen carries.
    """
    mass = amounts.double() * table("mass").nan_to_num(0.0).to(amounts.device)
    share = mass / mass.sum(1, keepdim=True)
    values = _indices().to(amounts.device)
    known = torch.isfinite(values).all(1)
    found = share @ values.nan_to_num(0.0)
    return found.masked_fill((amounts[:, ~known] > 0).any(1)[:, None], torch.nan)


@cache
def _indices() -> Float[Tensor, "119 2"]:
    from pymatgen.analysis.hhi import HHIModel

    model = HHIModel()
    rows = [model.get_hhi(symbol) for symbol in SYMBOLS[1:]]
    none = (float("nan"), float("nan"))
    filled = [none, *(row if row[0] is not None else none for row in rows)]
    return torch.tensor(filled, dtype=torch.float64)
