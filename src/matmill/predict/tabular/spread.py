"""How large an error to expect: learned from the errors that were made out of fold."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.predict.descriptors.table import Features
from matmill.predict.tabular.columns import Preparation, prepare
from matmill.predict.tabular.forest import Forest, grow_extra_trees
from matmill.predict.tabular.learners import seed_of

_TREES = 100
_LEAST_SHARE = 0.15  # of the median error; nobody is as sure as a tree that saw one lucky row
_MOST_COLUMNS = 100


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """Trees that tell the size of the error from the columns and from what the members say.

    Attributes:
        preparation: From features to the columns that the trees read.
        forest: Gives the square root of the expected absolute error.
        floor: Smallest error that is believed.
    """

    preparation: Preparation
    forest: Forest
    floor: float

    def predict(
        self, features: Features, mean: Float[Tensor, " n"], apart: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return the expected absolute error of each row.

        Args:
            features: Of the rows.
            mean: Stacked prediction.
            apart: Weighted standard deviation of the members.
        """
        columns = _with_members(self.preparation.apply(features), mean, apart)
        return self.forest.predict(columns).square().clamp_min(self.floor)


def fit_error_model(
    features: Features,
    mean: Float[Tensor, " n"],
    apart: Float[Tensor, " n"],
    error: Float[Tensor, " n"],
    fold: Int[Tensor, " n"],
    *,
    blocks: tuple[str, ...],
    seed: int,
) -> tuple[ErrorModel, Float[Tensor, " n"]]:
    """Return the model fitted to all rows, and what models without a row's fold say about it.

    The second is what intervals are calibrated on: there, too, σ never saw the error.

    Args:
        features: Of the training rows.
        mean: Stacked predictions out of fold.
        apart: How far the members are apart there.
        error: Absolute errors of these.
        fold: Fold of each row.
        blocks: Blocks to read.
        seed: Of the trees.
    """
    root = error.sqrt()
    preparation = prepare(features, root, blocks=blocks, view="ranked", most=_MOST_COLUMNS)
    columns = _with_members(preparation.apply(features), mean, apart)
    floor = _LEAST_SHARE * max(float(error.median()), 1e-12)

    def grown(rows: Tensor, name: int | str) -> ErrorModel:
        forest = grow_extra_trees(
            columns[rows],
            root[rows],
            seed=seed_of(seed, "error model", name),
            n_trees=_TREES,
            min_leaf=max(3, min(20, len(error) // 50)),
        )
        return ErrorModel(preparation, forest, floor)

    crossed = torch.zeros_like(error)
    for number in fold.unique().tolist():
        own = fold == number
        without = grown(torch.nonzero(~own).flatten(), number)
        crossed[own] = without.forest.predict(columns[own]).square().clamp_min(floor)
    return grown(torch.arange(len(error)), "all"), crossed


def members_apart(
    predictions: Float[Tensor, "k n"], weights: Float[Tensor, " k"]
) -> Float[Tensor, " n"]:
    """Return the weighted standard deviation of the members about their weighted mean."""
    mean = weights @ predictions
    return (weights @ (predictions - mean).square()).clamp_min(0.0).sqrt()


def _with_members(columns: Tensor, mean: Tensor, apart: Tensor) -> Tensor:
    return torch.cat([columns, mean[:, None].float(), apart[:, None].float()], dim=1)
