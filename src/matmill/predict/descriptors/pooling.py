"""Statistics of numbers that come in groups: atoms of a crystal, bonds of an atom."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOUR = ("mean", "std", "min", "max")


def group_sum(
    values: Float[Tensor, "n_items ..."], group: Int[Tensor, " n_items"], n_groups: int
) -> Float[Tensor, "n_groups ..."]:
    """Return the sum of the items of each group, 0 for an empty one."""
    total = values.new_zeros(n_groups, *values.shape[1:])
    return total.index_add(0, group, values)


def group_mean(
    values: Float[Tensor, "n_items ..."], group: Int[Tensor, " n_items"], n_groups: int
) -> Float[Tensor, "n_groups ..."]:
    """Return the mean of each group, NaN for an empty one."""
    count = torch.bincount(group, minlength=n_groups).double()
    count = count.reshape(-1, *(1,) * (values.ndim - 1))
    return group_sum(values, group, n_groups) / count.masked_fill(count == 0, torch.nan)


def group_max(
    values: Float[Tensor, " n_items"], group: Int[Tensor, " n_items"], n_groups: int
) -> Float[Tensor, " n_groups"]:
    """Return the largest item of each group, NaN for an empty one."""
    empty = torch.full((n_groups,), -torch.inf, dtype=values.dtype)
    top = empty.scatter_reduce(0, group, values, "amax")
    return top.masked_fill(top == -torch.inf, torch.nan)


def group_min(
    values: Float[Tensor, " n_items"], group: Int[Tensor, " n_items"], n_groups: int
) -> Float[Tensor, " n_groups"]:
    """Return the smallest item of each group, NaN for an empty one."""
    return -group_max(-values, group, n_groups)


def pooled(
    values: Float[Tensor, " n_items"],
    group: Int[Tensor, " n_items"],
    n_groups: int,
    name: str,
    statistics: tuple[str, ...] = FOUR,
) -> dict[str, Float[Tensor, " n_groups"]]:
    """Return statistics of each group, named ``name_statistic``.

    Args:
        values: One number an item; items that are NaN are left out.
        group: The group of each item.
        n_groups: Number of groups.
        name: Start of the names.
        statistics: Some of ``"mean"``, ``"std"``, ``"min"``, ``"max"``.

    Returns:
        NaN for groups without items.
    """
    is_known = torch.isfinite(values)
    if not bool(is_known.all()):
        values, group = values[is_known], group[is_known]
    mean = group_mean(values, group, n_groups)
    found = {}
    for statistic in statistics:
        if statistic == "mean":
            column = mean
        elif statistic == "std":
            # Two passes: the difference of squares would leave noise where all items are equal.
            column = group_mean((values - mean[group]) ** 2, group, n_groups).sqrt()
        elif statistic == "min":
            column = group_min(values, group, n_groups)
        else:
            column = group_max(values, group, n_groups)
        found[f"{name}_{statistic}"] = column
    return found
