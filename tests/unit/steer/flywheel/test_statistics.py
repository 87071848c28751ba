"""Paired statistics against SciPy, simulation and closed forms."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel, wilcoxon

from matmill.steer.flywheel.statistics import detectable, paired


def test_a_clear_difference_is_told_and_equal_arms_are_not():
    rng = np.random.default_rng(0)
    base = rng.normal(60.0, 12.0, 20)
    better = base - 3.0 + rng.normal(0.0, 2.0, 20)
    found = paired(better, base)
    assert found.high < 0
    assert found.p_value == pytest.approx(wilcoxon(better - base).pvalue)
    assert found.n == 20
    assert found.n_better == int((better < base).sum())
    same = paired(base + rng.normal(0.0, 2.0, 20), base)
    assert same.low < 0 < same.high


def test_the_interval_holds_the_mean_of_the_differences():
    found = paired(np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 0.0]))
    assert found.mean == pytest.approx(7 / 3)
    expected = ttest_rel([1.0, 2.0, 4.0], [0.0, 0.0, 0.0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(found.p_value)  # three runs cannot tell
    alone = paired(np.array([1.0]), np.array([2.0]))
    assert (alone.n, alone.mean) == (1, -1.0)
    assert math.isnan(alone.low)


def test_an_interval_of_few_runs_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [paired(rng.normal(3.0, 2.0, 5), np.zeros(5)) for _ in range(3000)]
    held = np.mean([each.low <= 3.0 <= each.high for each in found])
    assert held == pytest.approx(0.95, abs=0.015)


def test_the_detectable_difference_is_found_four_times_in_five():
    effect = detectable(2.0, 12)
    rng = np.random.default_rng(1)
    found = [
        ttest_rel(effect + rng.normal(0.0, 2.0, 12), np.zeros(12)).pvalue < 0.05
        for _ in range(3000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.025)
    assert detectable(2.0, 48) < 0.55 * effect
    assert detectable(0.0, 5) == 0.0
