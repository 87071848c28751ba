"""How much room a set of crystals fills: descriptors, variance, and effective numbers."""

from collections import Counter
from collections.abc import Sequence
from math import exp, log

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import table
from matmill.crystals.facts import volume_per_atom
from matmill.verify.novelty import fingerprint


def describe(batch: CrystalBatch) -> Float[Tensor, "n_crystals d"]:
    """Return descriptors of geometry and composition: what a collapse is looked for in.

    Average minimum distances in units of the mean spacing, the logarithm of the volume per atom,
    and mean and spread of electronegativity, covalent radius, group and period over the atoms.
    """
    counts = element_counts(batch).double()
    share = counts / counts.sum(1, keepdim=True)
    columns = [fingerprint(batch, 6).double(), volume_per_atom(batch).log()[:, None]]
    for name in ("electronegativity", "covalent_radius", "group", "period"):
        values = table(name).double().nan_to_num(0.0)
        middle = share @ values
        square = share @ values.square() - middle.square()
        columns.append(torch.stack([middle, square.clamp_min(0.0).sqrt()], dim=1))
    return torch.cat(columns, dim=1)


def effective_number(kinds: Sequence[object]) -> float:
    """Return how many kinds there are, each counted by its share: exp of their entropy."""
    shares = [count / len(kinds) for count in Counter(kinds).values()]
    return exp(-sum(share * log(share) for share in shares))


def spread(values: Float[Tensor, "n d"]) -> tuple[float, float]:
    """Return the total variance and the effective number of directions.

    The latter is the exponential of the entropy of the covariance's eigenvalues: 1 for a line, d
    for a ball, 1 for a point.
    """
    centred = values - values.mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / max(1, len(values) - 1))
    eigenvalues = eigenvalues.clamp_min(0.0)
    total = float(eigenvalues.sum())
    if total <= 1e-12:
        return 0.0, 1.0
    share = eigenvalues / total
    share = share[share > 0]
    return total, float(torch.exp(-(share * share.log()).sum()))
