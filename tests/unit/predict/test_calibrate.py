import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from matmill.predict import calibrate


def _normal(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


@given(st.integers(1, 60), st.floats(0.05, 0.95))
def test_quantile_is_the_score_that_theory_names(n, wanted):
    scores = _normal(n, n).abs()
    found = calibrate.conformal_quantile(scores, wanted)
    place = math.ceil((n + 1) * wanted)
    if place > n:
        assert math.isinf(found)
    else:
        assert int((scores <= found).sum()) == place


def test_conformal_intervals_cover_what_they_promise_on_average():
    # Heavy tails and wrong error bars: the promise must hold all the same.
    rng = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(300):
        std = torch.rand(250, generator=rng).double() + 0.1
        error = torch.randn(250, generator=rng).double() ** 3 * std.sqrt()
        scores = calibrate.residual_scores(error, std)
        factor = calibrate.conformal_quantile(scores[:200], 0.8)
        covered.append(float((scores[200:] <= factor).double().mean()))
    assert sum(covered) / len(covered) == pytest.approx(0.8, abs=0.015)


def test_factors_grow_with_the_coverage_and_missing_ones_are_infinite():
    table = calibrate.quantile_table(_normal(50, 1).abs())
    factors = [table[key] for key in sorted(table)]
    assert factors == sorted(factors)
    assert calibrate.factor_for(table, 0.905) == table["0.91"]
    assert calibrate.factor_for(table, 0.5) == table["0.50"]
    assert math.isinf(calibrate.factor_for(table, 0.99))


def test_honest_gaussians_have_no_miscalibration_and_wrong_ones_do():
    mean, std = torch.zeros(20000).double(), torch.ones(20000).double()
    truth = _normal(20000, 2)
    assert calibrate.miscalibration_area(truth, mean, std) < 0.01
    # Error bars 10 times too small: almost nothing is covered.
    assert calibrate.miscalibration_area(truth, mean, std / 10) > 0.3
    normal = NormalDist()
    expected = [
        abs(2 * normal.cdf(normal.inv_cdf(0.5 + p / 200) / 2) - 1 - p / 100) for p in range(1, 100)
    ]
    found = calibrate.miscalibration_area(truth, mean, std / 2)
    assert found == pytest.approx(sum(expected) / 99, abs=0.01)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 3))
def test_crps_equals_its_integral(truth, mean, std):
    grid = torch.linspace(-30, 30, 60001).double()
    cumulative = torch.distributions.Normal(mean, std).cdf(grid)
    expected = float(torch.trapezoid((cumulative - (grid >= truth).double()) ** 2, grid))
    found = calibrate.crps(*(torch.tensor([v]).double() for v in (truth, mean, std)))
    assert found == pytest.approx(expected, abs=2e-3)


def test_nll_equals_torch():
    truth, mean, std = _normal(50, 1), _normal(50, 2), _normal(50, 3).abs() + 0.1
    expected = -torch.distributions.Normal(mean, std).log_prob(truth).mean()
    assert calibrate.gaussian_nll(truth, mean, std) == pytest.approx(float(expected))


def test_std_factor_makes_one_sigma_hold_two_thirds():
    error, std = 3.0 * _normal(5000, 4), torch.ones(5000).double()
    factor = calibrate.std_factor(error, std)
    assert factor == pytest.approx(3.0, rel=0.05)
    assert float((error.abs() <= factor).double().mean()) == pytest.approx(0.683, abs=0.001)


def test_rank_correlation_equals_scipy():
    from scipy.stats import spearmanr

    a, b = _normal(100, 5), _normal(100, 6)
    assert calibrate.rank_correlation(a, a + b) == pytest.approx(spearmanr(a, a + b).statistic)


def test_coverage_counts_ends():
    low, high = torch.zeros(4), torch.ones(4)
    assert calibrate.coverage(torch.tensor([0.0, 1.0, 0.5, 1.1]), low, high) == 0.75


def test_ranks_of_ties_are_shared_and_a_constant_ranks_nothing():
    from scipy.stats import spearmanr

    a, b = _normal(200, 5), _normal(200, 6).round()
    assert calibrate.rank_correlation(a, a + b) == pytest.approx(spearmanr(a, a + b).statistic)
    assert calibrate.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert math.isnan(calibrate.rank_correlation(a.sort().values, torch.ones(200)))


def test_rank_auc_equals_scikit_learn():
    upper, lower = _normal(40, 7).round(decimals=1) + 0.3, _normal(60, 8).round(decimals=1)
    truth = [1] * 40 + [0] * 60
    expected = metrics.roc_auc_score(truth, torch.cat([upper, lower]).numpy())
    assert calibrate.rank_auc(upper, lower) == pytest.approx(expected)


def test_sparsification_keeps_the_surest_first():
    error = torch.tensor([4.0, 1.0, 3.0, 2.0])
    set_aside, own, ideal = calibrate.sparsification(error, error.flip(0), n_points=4)
    assert set_aside.tolist() == [0.0, 0.25, 0.5, 0.75]
    # Mean of all is 2.5; by error the kept means are 2.5, 2, 1.5, 1.
    assert (2.5 * ideal).tolist() == pytest.approx([2.5, 2.0, 1.5, 1.0])
    # By the given σ = (2, 3, 1, 4) the order of staying is rows 2, 0, 1, 3.
    assert (2.5 * own).tolist() == pytest.approx([2.5, 8 / 3, 3.5, 3.0])


def test_sparsification_error_is_zero_for_a_perfect_order_and_worse_at_random():
    error = _normal(2000, 9).abs()
    assert calibrate.sparsification_error(error, 3 * error) == pytest.approx(0.0, abs=1e-12)
    at_random = calibrate.sparsification_error(error, _normal(2000, 10).abs())
    assert at_random > 0.3
    assert calibrate.sparsification_error(error, -error) > at_random
