"""Trees as flat arrays: grown by scikit-learn, stored and predicted without it.

Nodes lie in preorder, so the left child of a node is the next one and only the right child needs a
number. All trees and rows go down together, one level a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.errors import InputError, MissingExtraError

_STATES = 1_000_000  # (row, tree) pairs that go down at once
_MOST_COLUMNS = 2**14  # the number of a column and one bit share an int16


@dataclass(frozen=True, eq=False)
class Forest:
    """Many binary trees whose leaf values are added up.

    Attributes:
        code: At an inner node twice the number of its column, plus 1 when rows without a value go
            left; -1 at a leaf, ``(n_nodes,)`` int16.
        number: Threshold of an inner node (rows at or below it go left) or value of a leaf,
            ``(n_nodes,)`` float32.
        right: How many nodes on the right child is, ``(n_nodes,)`` int16 or int32.
        starts: Node of each tree's root, ``(n_trees,)`` int64.
        base: Added to the sum of the leaf values.
        scale: Factor on the sum of the leaf values: 1 / n_trees for a mean.
        is_median: Take the median of the trees instead of their mean.
    """

    code: Int[Tensor, " n_nodes"]
    number: Float[Tensor, " n_nodes"]
    right: Int[Tensor, " n_nodes"]
    starts: Int[Tensor, " n_trees"]
    base: float
    scale: float
    is_median: bool = False

    def predict(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, " n"]:
        """Return the value of each row, float64; NaN in a column means unknown."""
        columns = columns.float()
        step = max(1, _STATES // max(1, len(self.starts)))
        parts = [self._leaves(rows) for rows in columns.split(step)]
        sums = torch.cat([self._sum(self.number[leaf].double()) for leaf in parts])
        return self.base + self.scale * sums

    def _sum(self, values: Float[Tensor, "n n_trees"]) -> Float[Tensor, " n"]:
        if self.is_median and len(values):
            return len(self.starts) * values.quantile(0.5, dim=1)
        return values.sum(1)

    def _leaves(self, columns: Float[Tensor, "n n_columns"]) -> Int[Tensor, "n n_trees"]:
        """Return the leaf that each row reaches in each tree."""
        place = self.starts.expand(len(columns), -1)
        while True:
            code = self.code[place]
            is_leaf = code < 0
            if bool(is_leaf.all()):
                return place
            value = columns.gather(1, (code.clamp_min(0) >> 1).long())
            goes_left = torch.where(value.isnan(), (code & 1).bool(), value <= self.number[place])
            child = torch.where(goes_left, place + 1, place + self.right[place])
            place = torch.where(is_leaf, place, child)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored."""
        numbers = torch.tensor([self.base, self.scale, self.is_median], dtype=torch.float64)
        return {
            "code": self.code,
            "number": self.number,
            "right": self.right,
            "starts": self.starts,
            "base_scale_median": numbers,
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Forest":
        """Return the forest that was stored."""
        base, scale, is_median = tensors["base_scale_median"].tolist()
        parts = [tensors[name] for name in ("code", "number", "right", "starts")]
        return cls(*parts, base=base, scale=scale, is_median=bool(is_median))


def grow_extra_trees(
    columns: Float[Tensor, "n n_columns"],
    target: Float[Tensor, " n"],
    *,
    seed: int,
    n_trees: int = 300,
    max_features: float = 0.33,
    min_leaf: int = 1,
    classify: bool = False,
    weights: Float[Tensor, " n"] | None = None,
) -> Forest:
    """Return extremely randomised trees.

    Args:
        columns: NaN where unknown.
        target: Values, or classes 0 and 1 (weighted to equal shares, so that the mean is a
            probability under balanced classes).
        seed: Of the trees.
        n_trees: Trees in the forest.
        max_features: Share of the columns that each split may choose from.
        min_leaf: Fewest rows in a leaf.
        classify: The target is a class.
        weights: How much each row counts; None for all alike.

    Raises:
        MissingExtraError: If scikit-learn is not installed.

    Source:
        Geurts et al., Extremely randomized trees (2006).
    """
    ensemble = load_sklearn("ensemble")
    settings: dict[str, Any] = {
        "n_estimators": n_trees,
        "max_features": max_features,
        "min_samples_leaf": min_leaf,
        "random_state": seed % 2**32,
    }
    x, y = _checked(columns).numpy(), target.numpy()
    counts = None if weights is None else weights.double().numpy()
    if classify:
        model = ensemble.ExtraTreesClassifier(class_weight="balanced", **settings)
        model.fit(x, y.astype(int), sample_weight=counts)
    else:
        model = ensemble.ExtraTreesRegressor(**settings).fit(x, y, sample_weight=counts)
    return _from_trees([estimator.tree_ for estimator in model.estimators_])


def grow_boosted(
    columns: Float[Tensor, "n n_columns"],
    target: Float[Tensor, " n"],
    *,
    seed: int,
    n_trees: int = 300,
    learning_rate: float = 0.06,
    max_leaves: int = 15,
    min_leaf: int = 10,
    ridge: float = 1.0,
    max_features: float = 0.3,
    classify: bool = False,
    weights: Float[Tensor, " n"] | None = None,
) -> Forest:
    """Return gradient-boosted trees on the absolute error, or on the log loss of two classes.

    The prediction for classes is the logarithm of the odds.

    Args:
        columns: NaN where unknown.
        target: Values, or classes 0 and 1.
        seed: Of the trees.
        n_trees: Boosting steps.
        learning_rate: Share of each step's tree that is added.
        max_leaves: Leaves of a tree at most.
        min_leaf: Fewest rows in a leaf.
        ridge: Penalty on squared leaf values.
        max_features: Share of the columns that each split may choose from.
        classify: The target is a class.
        weights: How much each row counts; None for all alike.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    ensemble = load_sklearn("ensemble")
    settings: dict[str, Any] = {
        "max_iter": n_trees,
        "learning_rate": learning_rate,
        "max_leaf_nodes": max_leaves,
        "min_samples_leaf": min_leaf,
        "l2_regularization": ridge,
        "max_features": max_features,
        "early_stopping": False,
        "random_state": seed % 2**32,
    }
    x, y = _checked(columns).numpy(), target.numpy()
    counts = None if weights is None else weights.double().numpy()
    if classify:
        model = ensemble.HistGradientBoostingClassifier(class_weight="balanced", **settings)
        model.fit(x, y.astype(int), sample_weight=counts)
    else:
        model = ensemble.HistGradientBoostingRegressor(loss="absolute_error", **settings)
        model.fit(x, y, sample_weight=counts)
    base = float(np.asarray(model._baseline_prediction).reshape(-1)[0])
    return _from_boosting([step[0].nodes for step in model._predictors], base)


def _from_trees(trees: Sequence[Any]) -> Forest:
    """Return a forest that averages trees of scikit-learn."""
    parts = []
    for tree in trees:
        is_leaf = tree.children_left < 0
        # A classifier's node holds the share of each class; the last one is that of class 1.
        parts.append(
            _packed(
                is_leaf=is_leaf,
                left=tree.children_left,
                right=tree.children_right,
                feature=tree.feature,
                missing_left=tree.missing_go_to_left.astype(bool),
                threshold=tree.threshold,
                value=tree.value[:, 0, -1],
            )
        )
    return _joined(parts, base=0.0, scale=1.0 / len(trees))


def _from_boosting(trees: Sequence[Any], base: float) -> Forest:
    """Return a forest that adds up the steps of scikit-learn's histogram boosting."""
    parts = [
        _packed(
            is_leaf=nodes["is_leaf"].astype(bool),
            left=nodes["left"].astype(np.int64),
            right=nodes["right"].astype(np.int64),
            feature=nodes["feature_idx"],
            missing_left=nodes["missing_go_to_left"].astype(bool),
            threshold=nodes["num_threshold"],
            value=nodes["value"],
        )
        for nodes in trees
    ]
    return _joined(parts, base=base, scale=1.0)


_Packed = tuple[np.ndarray, np.ndarray, np.ndarray]


def _packed(
    *,
    is_leaf: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    feature: np.ndarray,
    missing_left: np.ndarray,
    threshold: np.ndarray,
    value: np.ndarray,
) -> _Packed:
    """Return code, number and right offset of the nodes of one tree."""
    own = np.arange(len(is_leaf))
    assert bool((left[~is_leaf] == own[~is_leaf] + 1).all()), "nodes are not in preorder"
    code = np.where(is_leaf, -1, 2 * feature + missing_left).astype(np.int16)
    number = np.where(is_leaf, value, _rounded_down(threshold)).astype(np.float32)
    return code, number, np.where(is_leaf, 0, right - own)


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """Return the largest float32 not above each threshold: float32 rows then part as before."""
    with np.errstate(over="ignore"):
        near = threshold.astype(np.float32)
    too_high = near.astype(np.float64) > threshold
    return np.where(too_high, np.nextafter(near, np.float32(-np.inf)), near)


def _joined(parts: Sequence[_Packed], *, base: float, scale: float) -> Forest:
    sizes = np.array([len(code) for code, _, _ in parts])
    right = np.concatenate([part[2] for part in parts])
    kind: Literal["i2", "i4"] = "i2" if right.max(initial=0) < 2**15 else "i4"
    return Forest(
        code=torch.from_numpy(np.concatenate([part[0] for part in parts])),
        number=torch.from_numpy(np.concatenate([part[1] for part in parts])),
        right=torch.from_numpy(right.astype(kind)),
        starts=torch.from_numpy(np.cumsum(sizes) - sizes),
        base=base,
        scale=scale,
    )


def _checked(columns: Tensor) -> Tensor:
    if columns.shape[1] >= _MOST_COLUMNS:
        raise InputError(
            f"{columns.shape[1]} columns are too many for trees; at most {_MOST_COLUMNS - 1} fit."
        )
    return columns.float()


def load_sklearn(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of scikit-learn, which only training needs."""
    try:
        return import_module(f"sklearn.{name}")
    except ImportError as error:
        raise MissingExtraError("Training this needs: pip install 'matmill[train]'") from error
