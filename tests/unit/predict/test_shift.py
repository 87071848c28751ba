import math

import pytest
import torch
from sklearn import linear_model as linear

from matmill.predict.calibrate import conformal_quantile
from matmill.predict.conformal import FEW, effective_size, weighted_factors
from matmill.predict.shift import density_ratio


def _rng(seed):
    return torch.Generator().manual_seed(seed)


def _normal(n, d, rng, mean=0.0):
    rows = torch.randn(n, d, generator=rng).double()
    rows[:, 0] += mean
    return rows


def test_alike_sets_get_ratios_near_one():
    rng = _rng(0)
    shift = density_ratio(_normal(2000, 16, rng), _normal(500, 16, rng))
    assert float((shift.known.log()).abs().mean()) < 0.1
    assert effective_size(shift.known) > 1900
    assert shift.separability == pytest.approx(0.5, abs=0.06)


def test_the_ratio_of_two_normals_is_found():
    rng = _rng(1)
    known, asked = _normal(4000, 4, rng), _normal(2000, 4, rng, mean=1.0)
    shift = density_ratio(known, asked)
    exact = known[:, 0] - 0.5  # log of N(1, 1) / N(0, 1)
    assert float((shift.known.log() - exact).abs().mean()) < 0.15
    assert float(shift.known.mean()) == pytest.approx(1.0, abs=0.1)
    # P(a > b) for b ~ N(0, 1), a ~ N(1, 1), from the difference N(1, 2).
    assert shift.separability == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=0.02)
    assert torch.equal(density_ratio(known, asked).known, shift.known)


def test_weights_cover_under_a_known_shift_where_the_plain_quantile_does_not():
    rng = _rng(2)
    plain, weighted, alike = [], [], []
    for _ in range(25):
        known, asked = _normal(800, 8, rng), _normal(300, 8, rng, mean=1.2)
        scores, truth = (
            torch.randn(len(x), generator=rng).double().abs() * (0.3 + torch.exp(x[:, 0]))
            for x in (known, asked)
        )
        shift = density_ratio(known, asked)
        factors = weighted_factors(scores, shift.known, shift.asked, 0.9)
        weighted.append(float((truth <= factors).double().mean()))
        plain.append(float((truth <= conformal_quantile(scores, 0.9)).double().mean()))
        shift = density_ratio(known[:500], known[500:])
        factors = weighted_factors(scores[:500], shift.known, shift.asked, 0.9)
        alike.append(float((scores[500:] <= factors).double().mean()))
    assert sum(plain) / 25 < 0.75
    assert sum(weighted) / 25 == pytest.approx(0.9, abs=0.03)
    assert sum(alike) / 25 == pytest.approx(0.9, abs=0.02)


def test_sets_without_overlap_leave_few_effective_rows():
    rng = _rng(3)
    shift = density_ratio(_normal(1000, 8, rng), _normal(200, 8, rng, mean=6.0))
    assert shift.separability > 0.99
    assert effective_size(shift.known) < FEW


def test_of_many_rows_the_fit_takes_some_of_every_kind(monkeypatch):
    monkeypatch.setattr("matmill.predict.shift._MOST_ROWS", 200)
    rng = torch.Generator().manual_seed(3)
    # Sorted by kind, as tables often are: the first half is one kind, the second another.
    kind = torch.arange(1000) >= 500
    known = 0.3 * torch.randn(1000, 2, generator=rng) + torch.where(kind, 2.0, -2.0)[:, None]
    asked = 0.3 * torch.randn(300, 2, generator=rng) + 2.0
    found = density_ratio(known, asked)
    assert float(found.known[kind].mean()) == pytest.approx(2.0, abs=0.3)
    assert float(found.known[~kind].mean()) < 0.1
    assert float(found.asked.mean()) == pytest.approx(2.0, abs=0.3)


def test_one_crystal_says_nothing_about_a_shift():
    shift = density_ratio(torch.zeros(30, 3), torch.full((1, 3), 5.0))
    assert shift.known.tolist() == [1.0] * 30
    assert shift.asked.tolist() == [1.0]


def test_logistic_fit_equals_scikit_learn():
    from matmill.predict.shift import _PENALTIES, _fits

    rng = _rng(4)
    design = torch.cat([_normal(150, 3, rng), _normal(50, 3, rng, mean=0.8)])
    is_asked = torch.arange(200) >= 150
    found = _fits(design, is_asked)[_PENALTIES.index(0.01)]
    # Both sides weigh 1/2 in all here, and C multiplies the summed loss there.
    model = linear.LogisticRegression(C=1 / 0.01, tol=1e-10, max_iter=1000)
    weights = torch.where(is_asked, 0.5 / 50, 0.5 / 150).numpy()
    model.fit(design.numpy(), is_asked.numpy(), sample_weight=weights)
    assert found[1:].tolist() == pytest.approx(model.coef_[0].tolist(), abs=1e-4)
    assert float(found[0]) == pytest.approx(float(model.intercept_[0]), abs=1e-4)
