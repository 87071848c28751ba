"""Folds inside training rows: each row is judged by a model that saw none of its formula."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.errors import DataError
from matmill.randomness import child


def formula_folds(
    formulas: tuple[str, ...],
    values: Float[Tensor, " n"],
    n_folds: int,
    *,
    classify: bool,
    seed: int,
) -> Int[Tensor, " n"]:
    """Return the fold of each row: rows of one formula together, folds of about equal size.

    Classes are spread over the folds alike.

    Raises:
        DataError: If there is only one formula.
    """
    numbers: dict[str, int] = {}
    group = torch.tensor([numbers.setdefault(f, len(numbers)) for f in formulas])
    if len(numbers) < 2:
        raise DataError(
            f"All training rows have the formula {formulas[0]}: what holds for other formulas "
            "cannot be learned from them."
        )
    n_folds = min(n_folds, len(numbers))
    sizes = torch.bincount(group).double()
    ones = torch.bincount(group, weights=values.double()) if classify else sizes
    order = torch.randperm(len(numbers), generator=child(seed, "inner folds")).tolist()
    fold_of = torch.zeros(len(numbers), dtype=torch.long)
    load = torch.zeros(2, n_folds, dtype=torch.float64)
    for number in order:
        # Of two classes the one that the group mostly has is spread; the other follows.
        kind = int(bool(classify and 2 * ones[number] > sizes[number]))
        fold = int(load[kind].argmin())
        fold_of[number] = fold
        load[kind, fold] += sizes[number]
    fold = fold_of[group]
    if classify:
        for number in range(n_folds):
            seen = values[fold != number]
            if float(seen.min()) == float(seen.max()):
                raise DataError(
                    f"All rows of class {int(1 - seen[0])} have formulas of one fold: at least "
                    "two formulas of each class are needed to compare models."
                )
    return fold
