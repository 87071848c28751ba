"""A proxy for whether a crystal could be made: three simple signs, and what they cannot tell.

Nothing here is a model of synthesis. The proxy is made of three numbers in [0, 1] that anyone can
check by hand: how near the crystal is to the hull, whether its charges can balance, and how near
the elements of a known crystal of its prototype are. It knows neither precursors nor temperature,
pressure or kinetics. That a crystal was never reported does not mean that it cannot be made, so it
can only be tested as a ranking of reported above unreported crystals. There
(``benchmarks/synthesis_proxy.py``) nearly all comes from the hull: the other two signs help among
crystals of a known prototype, and do harm where the prototype is new.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.element_mover import composition_vectors
from matmill.crystals.prototype import prototype_labels
from matmill.verify.charges import composition_kinds
from matmill.verify.distances import normalised
from matmill.verify.metrics import Metric, mean, share

METASTABLE_EV_PER_ATOM = 0.067
"""Distance to the hull that 90 % of the metastable crystals that were made stay below.

Source: Sun et al., The thermodynamic scale of inorganic crystalline metastability (2016).
"""


def hull_sign(above_hull: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return ``exp(−E/0.067)``: 1 on the hull or below it, 1/e at 0.067 eV/atom.

    Args:
        above_hull: eV/atom; NaN stays NaN.
    """
    return torch.exp(-above_hull.double().clamp_min(0.0) / METASTABLE_EV_PER_ATOM)


def charge_sign(batch: CrystalBatch, table: str = "icsd24") -> Bool[Tensor, " n_crystals"]:
    """Return whether charges can balance, mixed valence allowed; elements and alloys pass.

    Args:
        batch: The crystals.
        table: Name of an oxidation table of `crystals.elements`.
    """
    kinds = composition_kinds(batch, table, mixed_valence=True)
    return torch.tensor([kind != "invalid" for kind in kinds], dtype=torch.bool)


def family_sign(
    batch: CrystalBatch, known: CrystalBatch, *, symprec: float = 0.1
) -> Float[Tensor, " n_crystals"]:
    """Return how near a known crystal of the same prototype is in its elements.

    ``1 − d/(1 + d)``, d the element mover's distance to the nearest formula among the known
    crystals with the same space group and sites; 0 when there is none, 1 for a known formula.

    Args:
        batch: The crystals.
        known: Crystals that were made.
        symprec: Tolerance of the prototypes, Å (moyopy).
    """
    known_lines = composition_vectors(element_counts(known))
    members: dict[str, list[int]] = {}
    for i, label in enumerate(prototype_labels(known, species="anonymous", symprec=symprec)):
        if label is not None and bool(torch.isfinite(known_lines[i]).all()):
            members.setdefault(label, []).append(i)
    mine = composition_vectors(element_counts(batch))
    found = torch.zeros(len(batch), dtype=torch.float64)
    labels = prototype_labels(batch, species="anonymous", symprec=symprec)
    for i, label in enumerate(labels):
        if label in members and bool(torch.isfinite(mine[i]).all()):
            nearest = (known_lines[members[label]] - mine[i]).abs().sum(1).min()
            found[i] = 1.0 - normalised(nearest)
    return found


def synthesis_proxy(
    above_hull: Float[Tensor, " n"], charges: Bool[Tensor, " n"], family: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return ``hull · (1 + charges)/2 · (1 + family)/2``, 0 to 1; a proxy, see the file's head.

    Far from the hull nothing helps; charges that cannot balance and a family without a similar
    member take half each.

    Args:
        above_hull: eV/atom; NaN makes the proxy NaN.
        charges: What `charge_sign` says.
        family: What `family_sign` says.
    """
    return hull_sign(above_hull) * (1 + charges.double()) / 2 * (1 + family.double()) / 2


def synthesizability(
    batch: CrystalBatch,
    known: CrystalBatch,
    above_hull: Float[Tensor, " n"],
    *,
    symprec: float = 0.1,
) -> list[Metric]:
    """Return the mean of the proxy and what it is made of.

    Args:
        batch: The crystals, relaxed.
        known: Crystals that were made.
        above_hull: Energies above the hull, eV/atom; those that are NaN are left out of the means.
        symprec: Tolerance of the prototypes, Å (moyopy).
    """
    charges, family = charge_sign(batch), family_sign(batch, known, symprec=symprec)
    return [
        mean("synthesis proxy, 0 to 1", synthesis_proxy(above_hull, charges, family)),
        mean("synthesis proxy: nearness to the hull", hull_sign(above_hull)),
        share("synthesis proxy: charges can balance", charges),
        share("synthesis proxy: of a known prototype", family > 0),
        mean("synthesis proxy: nearness to a known crystal of the prototype", family),
    ]


def ranking_share(made: Sequence[float] | Tensor, unmade: Sequence[float] | Tensor) -> float:
    """Return how often a made crystal scores above an unreported one, ties counting half.

    The area under the receiver operating characteristic: 0.5 when the score says nothing.

    Args:
        made: Scores of crystals that were made; what is not finite is left out.
        unmade: Scores of crystals that were never reported.

    Returns:
        NaN when a side is empty.
    """
    x, y = (torch.as_tensor(values).double() for values in (made, unmade))
    x, y = x[torch.isfinite(x)], y[torch.isfinite(y)].sort().values
    if not len(x) or not len(y):
        return float("nan")
    below = torch.searchsorted(y, x, right=False).double()
    not_above = torch.searchsorted(y, x, right=True).double()
    return float((below + not_above).mean() / 2 / len(y))
