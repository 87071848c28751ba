import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from matmill.predict.tabular.inner import fit_odds
from matmill.predict.tabular.stack import cross_fitted, greedy_weights, loss_of


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy(values, *spreads):
    draw = torch.randn(len(spreads), len(values), generator=rng(5), dtype=torch.float64)
    return values + torch.tensor(spreads).double()[:, None] * draw


def test_independent_errors_are_averaged_and_bad_candidates_left_out():
    values = torch.randn(400, generator=rng(), dtype=torch.float64)
    guesses = noisy(values, 1.0, 1.0, 6.0)
    weights = greedy_weights(guesses, values, rng())
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(weights[2]) < 0.05
    assert 0.3 < float(weights[0]) < 0.7
    stacked = loss_of(weights @ guesses, values, classify=False).mean()
    assert float(stacked) < 0.8 * float(loss_of(guesses[0], values, classify=False).mean())


def test_one_candidate_takes_all():
    values = torch.randn(50, generator=rng(), dtype=torch.float64)
    assert greedy_weights(noisy(values, 1.0), values, rng()).tolist() == [1.0]


def test_cross_fitted_weights_never_see_the_fold():
    values = torch.randn(90, generator=rng(), dtype=torch.float64)
    fold = torch.arange(90) % 3
    guesses = noisy(values, 1.0, 2.0)
    first = cross_fitted(guesses, values, fold, rng())
    changed = values.clone()
    changed[fold == 1] += 100.0
    again = cross_fitted(guesses, changed, fold, rng())
    assert torch.equal(first[fold == 1], again[fold == 1])
    assert not torch.equal(first[fold == 0], again[fold == 0])


def test_the_loss_of_classes_is_the_log_loss():
    classes = (torch.rand(100, generator=rng()) > 0.3).double()
    chance = torch.rand(100, generator=rng(1), dtype=torch.float64)
    ours = float(loss_of(chance, classes, classify=True).mean())
    assert ours == pytest.approx(log_loss(classes, chance))


def test_the_line_to_the_odds_equals_logistic_regression():
    scores = torch.randn(5000, generator=rng(), dtype=torch.float64)
    chance = torch.sigmoid(2.0 * scores - 0.7)
    classes = (torch.rand(5000, generator=rng(1), dtype=torch.float64) < chance).double()
    slope, offset = fit_odds(scores, classes)
    theirs = LogisticRegression(C=1e9).fit(scores[:, None], classes)
    # Soft targets and a hair of ridge keep it finite on separable data; they hardly move it here.
    assert slope == pytest.approx(float(theirs.coef_[0, 0]), rel=0.02)
    assert offset == pytest.approx(float(theirs.intercept_[0]), rel=0.02)


def test_the_line_stays_finite_and_never_turns_round():
    scores = torch.cat([torch.full((20,), -1.0), torch.full((20,), 1.0)]).double()
    classes = (scores > 0).double()
    slope, _ = fit_odds(scores, classes)
    assert 0 < slope < 100
    assert fit_odds(scores, 1 - classes)[0] == 0.0
