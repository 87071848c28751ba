"""Several potentials, one verdict: each places a crystal above its own hull, and they vote.

The spread between them tells how far a verdict can be trusted; it is a lower bound, because most
universal potentials learned from the same calculations and share their errors.

Source:
    Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep
    ensembles (2017), for the idea of spread as uncertainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What several potentials say of each crystal.

    Attributes:
        names: Of the potentials, in the order of the columns.
        above_ev_per_atom: Distance of each crystal to the hull of each potential, NaN where that
            one has no answer, ``(n_crystals, n_potentials)``.
        mean_ev_per_atom: Over those that answered; NaN if none did, ``(n_crystals,)``.
        std_ev_per_atom: Their spread, with one degree of freedom less than answers; NaN below two
            answers, ``(n_crystals,)``.
        n_answers: How many answered, ``(n_crystals,)``.
        n_votes: How many put the crystal at or below the limit, ``(n_crystals,)``.
        is_robust: Whether all potentials answered and all put it at or below the limit.
        limit_ev_per_atom: The limit.
    """

    names: tuple[str, ...]
    above_ev_per_atom: Float[Tensor, "n_crystals n_potentials"]
    mean_ev_per_atom: Float[Tensor, " n_crystals"]
    std_ev_per_atom: Float[Tensor, " n_crystals"]
    n_answers: Int[Tensor, " n_crystals"]
    n_votes: Int[Tensor, " n_crystals"]
    is_robust: Bool[Tensor, " n_crystals"]
    limit_ev_per_atom: float


def vote(
    above_ev_per_atom: Sequence[Float[Tensor, " n_crystals"]],
    *,
    names: Sequence[str],
    limit_ev_per_atom: float = 0.1,
) -> Votes:
    """Return mean, spread and votes from the distances to the hulls of several potentials.

    Args:
        above_ev_per_atom: Of each potential, against its own hull, one value a crystal.
        names: Of the potentials.
        limit_ev_per_atom: At or below it a crystal counts as stable.

    Raises:
        InputError: If there is no potential, or the lengths do not fit.
    """
    if not above_ev_per_atom or len(names) != len(above_ev_per_atom):
        raise InputError("Votes need at least one potential, and a name for each.")
    if len({len(column) for column in above_ev_per_atom}) != 1:
        raise InputError("Every potential must say something of every crystal, NaN if nothing.")
    above = torch.stack([column.double() for column in above_ev_per_atom], dim=1)
    answered = torch.isfinite(above)
    n = answered.sum(1)
    values = torch.where(answered, above, torch.zeros_like(above))
    mean = torch.where(n > 0, values.sum(1) / n.clamp_min(1), torch.nan)
    off = torch.where(answered, above - mean[:, None], torch.zeros_like(above))
    variance = (off * off).sum(1) / (n - 1).clamp_min(1)
    votes = (answered & (above <= limit_ev_per_atom)).sum(1)
    return Votes(
        names=tuple(names),
        above_ev_per_atom=above,
        mean_ev_per_atom=mean,
        std_ev_per_atom=torch.where(n > 1, variance.sqrt(), torch.nan),
        n_answers=n,
        n_votes=votes,
        is_robust=votes == above.shape[1],
        limit_ev_per_atom=limit_ev_per_atom,
    )
