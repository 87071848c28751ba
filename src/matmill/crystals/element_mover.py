"""Element mover's distance: how far atoms travel along a line of the elements between formulas.

The line is the modified Pettifor scale, on which elements that replace each other in known
crystals stand side by side, one step apart.

Source:
    Hargreaves et al., The Earth Mover's Distance as a Metric for the Space of Inorganic
    Compositions (2020), for the distance; Glawe et al., The optimal one dimensional periodic
    table: a modified Pettifor chemical scale from data mining (2016), for the order.
"""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number

# fmt: off
MODIFIED_PETTIFOR: tuple[str, ...] = (
    "He", "Ne", "Ar", "Kr", "Xe", "Rn", "Fr", "Cs", "Rb", "K", "Na", "Li", "Ra", "Ba", "Sr", "Ca",
    "Eu", "Yb", "Lu", "Tm", "Y", "Er", "Ho", "Dy", "Tb", "Gd", "Sm", "Pm", "Nd", "Pr", "Ce", "La",
    "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Sc",
    "Zr", "Hf", "Ti", "Ta", "Nb", "V", "Cr", "Mo", "W", "Re", "Tc", "Os", "Ru", "Ir", "Rh", "Pt",
    "Pd", "Au", "Ag", "Cu", "Ni", "Co", "Fe", "Mn", "Mg", "Zn", "Cd", "Hg", "Be", "Al", "Ga", "In",
    "Tl", "Pb", "Sn", "Ge", "Si", "B", "C", "N", "P", "As", "Sb", "Bi", "Po", "Te", "Se", "S", "O",
    "At", "I", "Br", "Cl", "F", "H",
)
# fmt: on
"""The 103 elements up to lawrencium in the order of Glawe et al. (2016), table 1."""

N_PLACES = len(MODIFIED_PETTIFOR)


@cache
def places() -> Int[Tensor, " 119"]:
    """Return the place of each element on the scale, 0 to 102, by atomic number; −1 where none."""
    found = torch.full((len(SYMBOLS),), -1)
    found[_order()] = torch.arange(N_PLACES)
    return found


def composition_vectors(amounts: Tensor) -> Float[Tensor, "n 102"]:
    """Return the share of the atoms up to each place of the scale but the last, where it is 1.

    The sum of absolute differences of two such vectors is the element mover's distance of the two
    compositions, so that any search in the Manhattan metric finds the nearest formula.

    Args:
        amounts: Atoms of each element, whole or fractional; column = atomic number, ``(n, 119)``.

    Returns:
        float64 in [0, 1], ascending along each row; NaN rows where the composition is empty or has
        an element that is not on the scale (masked, or beyond lawrencium).
    """
    ordered = amounts.double()[:, _order().to(amounts.device)]
    found = (ordered / ordered.sum(1, keepdim=True)).cumsum(1)[:, :-1]
    strange = amounts[:, (places() < 0).to(amounts.device)].ne(0).any(1)
    return found.masked_fill(strange[:, None], torch.nan)


def element_mover_distances(a: Tensor, b: Tensor) -> Float[Tensor, "n m"]:
    """Return the element mover's distance between each composition of one set and of another.

    One-dimensional optimal transport of atomic fractions: ``Σ_p |C(p) − C'(p)|``, C the share of
    the atoms up to place p. NaCl and Na₂Cl₂ are the same; NaCl and KCl are half a step apart.

    Args:
        a: Amounts by atomic number, ``(n, 119)``, as `composition.element_counts` gives them.
        b: The same of another set, ``(m, 119)``.

    Returns:
        float64, steps on the scale, 0 to 102; NaN where an element is not on it.

    Source:
        Hargreaves et al. (2020), equations 3 and 4, closed form in one dimension.
    """
    return torch.cdist(composition_vectors(a), composition_vectors(b), p=1.0)


@cache
def _order() -> Int[Tensor, " 103"]:
    return torch.tensor([number(symbol) for symbol in MODIFIED_PETTIFOR])
