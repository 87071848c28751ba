"""Classes made equally large: rows left out, or new rows between neighbours."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.errors import InputError


def balanced_rows(
    classes: Int[Tensor, " n"], rng: torch.Generator, *, replace: bool
) -> Int[Tensor, " n_drawn"]:
    """Return as many random rows of each class as the smaller class has.

    Args:
        classes: 0 or 1.
        rng: Source of the draw.
        replace: Draw with replacement, from both classes: a balanced bootstrap. Else the smaller
            class is taken whole: random under-sampling.
    """
    of = [torch.nonzero(classes == label).flatten() for label in (0, 1)]
    rare = min(len(rows) for rows in of)
    drawn = []
    for rows in of:
        if replace:
            places = torch.randint(0, len(rows), (rare,), generator=rng)
        else:
            places = torch.randperm(len(rows), generator=rng)[:rare]
        drawn.append(rows[places])
    return torch.cat(drawn)


def smote(
    columns: Float[Tensor, "n n_columns"],
    classes: Int[Tensor, " n"],
    rng: torch.Generator,
    n_neighbors: int = 5,
) -> tuple[Float[Tensor, "n_both n_columns"], Int[Tensor, " n_both"]]:
    """Return the rows with new ones of the smaller class below, until both are equally large.

    ``x_new = x + u (x_nn − x)`` with a random row x of the smaller class, one of its nearest
    neighbours in that class, and u uniform in [0, 1).

    Args:
        columns: Scaled, without NaN: distances are taken over all columns.
        classes: 0 or 1.
        rng: Source of the draws.
        n_neighbors: Neighbours to choose from.

    Raises:
        InputError: If the smaller class has not more rows than neighbours.

    Source:
        Chawla et al., SMOTE: synthetic minority over-sampling technique (2002).
    """
    counts = torch.bincount(classes, minlength=2)
    label = int(counts.argmin())
    rare = columns[classes == label]
    n_new = int(counts.max() - counts.min())
    if len(rare) <= n_neighbors:
        raise InputError(
            f"SMOTE with {n_neighbors} neighbours needs at least {n_neighbors + 1} training rows "
            f"of the rare class; a fold has {len(rare)}. Use fewer neighbours or folds, or the "
            "method weights."
        )
    near = _nearest(rare, n_neighbors)
    start = torch.randint(0, len(rare), (n_new,), generator=rng)
    choice = torch.randint(0, n_neighbors, (n_new,), generator=rng)
    share = torch.rand(n_new, 1, generator=rng, dtype=columns.dtype)
    new = rare[start] + share * (rare[near[start, choice]] - rare[start])
    labels = torch.full((n_new,), label, dtype=classes.dtype)
    return torch.cat([columns, new]), torch.cat([classes, labels])


def _nearest(rows: Tensor, k: int) -> Int[Tensor, "n k"]:
    """Return the k nearest other rows of each row."""
    found = []
    for part in torch.arange(len(rows)).split(1024):
        distance = torch.cdist(rows[part], rows)
        distance[torch.arange(len(part)), part] = torch.inf
        found.append(distance.topk(k, dim=1, largest=False).indices)
    return torch.cat(found)
