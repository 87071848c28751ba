from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from matmill.errors import InputError
from matmill.predict.tabular.forest import Forest, grow_boosted, grow_extra_trees


def make(n=300, c=12, missing=0.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, generator=rng, dtype=torch.float64)
    y = x[:, 0] * x[:, 1] + x[:, 2].abs() + 0.1 * torch.randn(n, generator=rng)
    x[torch.rand(n, c, generator=rng) < missing] = torch.nan
    return x, y


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_extra_trees_equal_sklearn(missing):
    x, y = make(missing=missing)
    new, _ = make(500, missing=0.3 if missing else 0.0, seed=1)
    theirs = ExtraTreesRegressor(40, max_features=0.33, random_state=7).fit(x.float(), y)
    ours = grow_extra_trees(x, y, seed=7, n_trees=40)
    expected = theirs.predict(new.float().numpy())
    assert np.abs(ours.predict(new).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_boosted_trees_equal_sklearn(missing):
    x, y = make(missing=missing)
    new, _ = make(500, missing=0.3 if missing else 0.0, seed=1)
    theirs = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=50,
        learning_rate=0.1,
        max_leaf_nodes=15,
        min_samples_leaf=10,
        l2_regularization=1.0,
        max_features=0.3,
        early_stopping=False,
        random_state=3,
    ).fit(x.float().numpy(), y.numpy())
    ours = grow_boosted(x, y, seed=3, n_trees=50, learning_rate=0.1)
    expected = theirs.predict(new.float().numpy())
    assert np.abs(ours.predict(new).numpy() - expected).max() < 1e-6


def test_classes_equal_sklearn():
    x, y = make()
    classes = (y > 0.8).double()
    new, _ = make(200, seed=1)
    trees = ExtraTreesClassifier(30, max_features=0.33, class_weight="balanced", random_state=1)
    expected = trees.fit(x.float(), classes.int()).predict_proba(new.float().numpy())[:, 1]
    ours = grow_extra_trees(x, classes, seed=1, n_trees=30, classify=True).predict(new)
    assert np.abs(ours.numpy() - expected).max() < 1e-6
    boosted = HistGradientBoostingClassifier(
        max_iter=30,
        learning_rate=0.06,
        max_leaf_nodes=15,
        min_samples_leaf=10,
        l2_regularization=1.0,
        max_features=0.3,
        class_weight="balanced",
        early_stopping=False,
        random_state=1,
    )
    expected = boosted.fit(x.float(), classes.int()).decision_function(new.float().numpy())
    ours = grow_boosted(x, classes, seed=1, n_trees=30, classify=True).predict(new)
    assert np.abs(ours.numpy() - expected).max() < 1e-6


def test_thresholds_between_two_floats_part_rows_as_before():
    # Rows differ in the last bit of float32; a threshold rounded up would send both left.
    low = torch.tensor(8.0)
    high = torch.nextafter(low, torch.tensor(9.0))
    x = torch.stack([low, high]).double().repeat(20)[:, None]
    y = torch.tensor([0.0, 1.0]).double().repeat(20)
    forest = grow_extra_trees(x, y, seed=0, n_trees=5, max_features=1.0)
    assert torch.allclose(forest.predict(x), y)


def test_rows_do_not_see_each_other_and_order_of_chunks_is_kept(monkeypatch):
    x, y = make()
    forest = grow_extra_trees(x, y, seed=0, n_trees=20)
    whole = forest.predict(x)
    monkeypatch.setattr("matmill.predict.tabular.forest._STATES", 100)
    assert torch.equal(whole, forest.predict(x))
    assert torch.equal(whole[:3], forest.predict(x[:3]))
    assert forest.predict(x[:0]).shape == (0,)


def test_stored_trees_are_the_same_and_small():
    x, y = make()
    forest = grow_extra_trees(x, y, seed=0, n_trees=20)
    tensors = forest.tensors()
    assert torch.equal(Forest.of(tensors).predict(x), forest.predict(x))
    bytes_per_node = sum(tensors[n].element_size() for n in ("code", "number", "right"))
    assert bytes_per_node == 8


def test_the_median_of_the_trees_equals_that_of_sklearn():
    x, y = make()
    theirs = ExtraTreesRegressor(31, max_features=0.33, random_state=2).fit(x.float(), y)
    each = np.stack([tree.predict(x.float().numpy()) for tree in theirs.estimators_])
    ours = replace(grow_extra_trees(x, y, seed=2, n_trees=31), is_median=True)
    assert np.abs(ours.predict(x).numpy() - np.median(each, axis=0)).max() < 1e-6
    assert torch.equal(Forest.of(ours.tensors()).predict(x), ours.predict(x))
    assert ours.predict(x[:0]).shape == (0,)


def test_too_many_columns_are_refused():
    with pytest.raises(InputError, match="too many"):
        grow_extra_trees(torch.zeros(2, 2**14), torch.tensor([0.0, 1.0]), seed=0)
