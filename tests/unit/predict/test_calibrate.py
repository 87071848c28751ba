import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
