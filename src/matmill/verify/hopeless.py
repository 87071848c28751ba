"""Early verdicts: crystals whose energy will not come down to where they would be of use.

Near a minimum of curvature h, an energy lies |force|²/2h above it, so the present forces say about
how much there is still to gain. Generated crystals do find long ways down, so the factor and the
margin that stand for this are wide. They were chosen on 200 relaxations, where none of the 105
crystals that end within 0.1 eV/atom of the hull was given up; of 49 in the next 100 one was. Over
all 300, 18 % of the work is saved (benchmarks/early_verdicts.py).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.verify.moving import Gradient, dot

MIN_STEPS = 3
"""Nothing is given up before so many steps: the first ones undo what is merely unrelaxed."""

GAIN_A2_PER_EV = 1.0
"""Energy per atom still to gain, eV, by the squared forces per atom, eV²/Å²."""

MARGIN_EV_PER_ATOM = 0.3
"""Always granted on top."""


def is_hopeless(
    energy_ev: Float[Tensor, " n"],
    gradient: Gradient,
    owner: Int[Tensor, " n_atoms_total"],
    n_atoms: Int[Tensor, " n"],
    limit_ev_per_atom: Float[Tensor, " n"],
) -> Bool[Tensor, " n"]:
    """Return which crystals are not expected to come below their limit any more.

    Args:
        energy_ev: Of the cells, now.
        gradient: Forces on atoms and cells, now.
        owner: Crystal of each atom.
        n_atoms: Of each crystal.
        limit_ev_per_atom: Energies above which a relaxed crystal is of no use; NaN: no limit.
    """
    still = dot(owner, (gradient.force, gradient.cell_force)) / n_atoms
    least = energy_ev / n_atoms - GAIN_A2_PER_EV * still - MARGIN_EV_PER_ATOM
    return torch.nan_to_num(least - limit_ev_per_atom, nan=-1.0) > 0
