import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.predict import conformal
from matmill.predict.calibrate import conformal_quantile


def _rng(seed):
    return torch.Generator().manual_seed(seed)


@given(st.integers(2, 80), st.floats(0.05, 0.95))
def test_equal_weights_give_the_plain_quantile(n, wanted):
    scores = torch.rand(n, generator=_rng(n)).double()
    found = conformal.weighted_factors(scores, torch.ones(n), torch.ones(3), wanted)
    plain = conformal_quantile(scores, wanted)
    assert all(value == plain for value in found.tolist())


@given(st.lists(st.integers(1, 4), min_size=2, max_size=30), st.floats(0.1, 0.9))
def test_whole_weights_are_repeated_rows(weights, wanted):
    scores = torch.rand(len(weights), generator=_rng(len(weights))).double()
    counts = torch.tensor(weights)
    found = conformal.weighted_factors(scores, counts.double(), torch.ones(1), wanted)
    plain = conformal_quantile(scores.repeat_interleave(counts), wanted)
    assert float(found) == plain


def test_weight_beyond_the_calibration_rows_means_no_interval():
    found = conformal.weighted_factors(torch.rand(20), torch.ones(20), torch.tensor([1e3]), 0.9)
    assert math.isinf(float(found))


def test_effective_size_counts_equal_rows():
    assert conformal.effective_size(torch.full((40,), 0.3)) == pytest.approx(40)
    assert conformal.effective_size(torch.tensor([1.0, 0, 0, 0])) == pytest.approx(1)
    assert conformal.effective_size(torch.zeros(3)) == 0.0


def test_groups_each_keep_the_promise_where_one_factor_does_not():
    rng = _rng(0)
    kept, mixed = [], []
    for _ in range(60):
        groups = torch.randint(2, (1200,), generator=rng)
        scores = torch.randn(1200, generator=rng).double().abs() * (1 + 4 * groups)
        here, asked = groups[:600], groups[600:]
        factors, sizes, is_own = conformal.group_factors(scores[:600], here, asked, 0.9)
        plain = conformal_quantile(scores[:600], 0.9)
        truth = scores[600:]
        kept.append([float((truth <= factors)[asked == g].double().mean()) for g in (0, 1)])
        mixed.append([float((truth <= plain)[asked == g].double().mean()) for g in (0, 1)])
        assert bool(is_own.all())
        assert set(sizes.tolist()) == {float((here == 0).sum()), float((here == 1).sum())}
    assert torch.tensor(kept).mean(0).tolist() == pytest.approx([0.9, 0.9], abs=0.015)
    easy, hard = torch.tensor(mixed).mean(0).tolist()
    assert easy > 0.97
    assert hard < 0.85


def test_a_small_group_borrows_all_rows():
    scores = torch.rand(100, generator=_rng(1)).double()
    groups = torch.zeros(100).long()
    groups[:10] = 1
    factors, sizes, is_own = conformal.group_factors(scores, groups, torch.tensor([1, 2, 0]), 0.8)
    assert is_own.tolist() == [False, False, True]
    assert sizes.tolist() == [100.0, 100.0, 90.0]
    assert factors[:2].tolist() == [conformal_quantile(scores, 0.8)] * 2


def _ridge(x, y):
    return torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]).double(), x.T @ y)


def _folded(x, y, n_folds, asked):
    """Return scores, folds and the folds' guesses about asked rows, for a linear model."""
    folds = torch.arange(len(x)) % n_folds
    scores = torch.empty(len(x)).double()
    means = []
    for fold in range(n_folds):
        weights = _ridge(x[folds != fold], y[folds != fold])
        scores[folds == fold] = (y - x @ weights).abs()[folds == fold]
        means.append(asked @ weights)
    return scores, folds, torch.stack(means)


@pytest.mark.parametrize("n_folds", [5, 60])
def test_folds_cover_what_they_promise_with_few_rows(n_folds):
    rng = _rng(2)
    covered, naive = [], []
    for _ in range(80):
        x = torch.randn(160, 20, generator=rng).double()
        y = x[:, 0] + torch.randn(160, generator=rng).double()
        scores, folds, means = _folded(x[:60], y[:60], n_folds, x[60:])
        low, high = conformal.cross_interval(scores, folds, means, torch.ones_like(means), 0.9)
        covered.append(float(((y[60:] >= low) & (y[60:] <= high)).double().mean()))
        weights = _ridge(x[:60], y[:60])
        reach = conformal_quantile((y[:60] - x[:60] @ weights).abs(), 0.9)
        naive.append(float(((y[60:] - x[60:] @ weights).abs() <= reach).double().mean()))
    assert 0.88 <= sum(covered) / len(covered) <= 0.94
    assert sum(naive) / len(naive) < 0.8  # residuals of training rows promise too much


def test_one_fold_is_split_conformal_and_too_few_rows_have_no_end():
    scores = torch.rand(30, generator=_rng(3)).double()
    mean, std = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[0.5, 3.0]]).double()
    zeros = torch.zeros(30).long()
    low, high = conformal.cross_interval(scores, zeros, mean, std, 0.8)
    factor = conformal_quantile(scores, 0.8)
    assert torch.allclose(low, mean[0] - factor * std[0])
    assert torch.allclose(high, mean[0] + factor * std[0])
    low, high = conformal.cross_interval(scores[:5], zeros[:5], mean, std, 0.9)
    assert torch.isinf(low).all()
    assert torch.isinf(high).all()
