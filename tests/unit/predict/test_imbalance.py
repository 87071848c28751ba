import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn import over_sampling
from sklearn import metrics

from matmill.errors import InputError, UnknownNameError
from matmill.predict.descriptors.table import Features
from matmill.predict.imbalance import classifiers
from matmill.predict.imbalance.classifiers import METHODS, make_classifier
from matmill.predict.imbalance.compare import SCORES, TUNED, compare
from matmill.predict.imbalance.models import BalancedEnsemble, FocalNetwork, focal_loss
from matmill.predict.imbalance.sampling import balanced_rows, smote
from matmill.predict.imbalance.scores import best_threshold, class_scores

seeds = st.integers(0, 10_000)


def rare(n=300, share=0.1, seed=0, n_columns=6):
    """Return columns and classes of which 1 is rare and only partly told by two columns."""
    rng = np.random.default_rng(seed)
    classes = (rng.random(n) < share).astype(float)
    classes[:12] = 1.0
    columns = rng.normal(size=(n, n_columns))
    columns[:, 0] += 1.6 * classes
    columns[:, 1] -= 1.2 * classes
    return torch.from_numpy(columns), torch.from_numpy(classes)


def draws(seed, n=80):
    """Return classes and probabilities with many ties."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.2).astype(float)
    truth[:2] = (0, 1)
    chance = np.round(np.clip(0.3 * truth + rng.normal(0.4, 0.2, n), 0, 1), int(rng.integers(1, 4)))
    return truth, chance


@given(seeds, st.sampled_from([0.0, 0.3, 0.5, 0.95, 1.1]))
@settings(max_examples=15)
def test_scores_equal_those_of_scikit_learn(seed, threshold):
    truth, chance = draws(seed)
    ours = class_scores(torch.from_numpy(truth), torch.from_numpy(chance), threshold)
    called = (chance >= threshold).astype(float)
    theirs = {
        "precision": metrics.precision_score(truth, called, zero_division=0),
        "recall": metrics.recall_score(truth, called),
        "f1": metrics.f1_score(truth, called),
        "roc_auc": metrics.roc_auc_score(truth, chance),
        "pr_auc": metrics.average_precision_score(truth, chance),
        "mcc": metrics.matthews_corrcoef(truth, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, called),
    }
    precision, recall, _ = metrics.precision_recall_curve(truth, chance)
    # The last point, recall 0 with precision 1, is no threshold.
    theirs["recall_at_precision"] = max([0.0, *recall[:-1][precision[:-1] >= 0.9]])
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-12), name


@given(seeds)
@settings(max_examples=15)
def test_best_threshold_is_the_best_of_all(seed):
    truth, chance = draws(seed)
    found = best_threshold(torch.from_numpy(truth), torch.from_numpy(chance))

    def f1(threshold):
        called = chance >= threshold
        return 2 * (called & (truth == 1)).sum() / (called.sum() + truth.sum())

    assert f1(found) == pytest.approx(metrics.f1_score(truth, chance >= found))
    assert f1(found) >= max(f1(t) for t in np.linspace(0, 1.0, 2001)) - 1e-12


@given(seeds)
@settings(max_examples=15)
def test_the_threshold_for_balanced_accuracy_is_the_best_of_all(seed):
    truth, chance = draws(seed)
    found = best_threshold(
        torch.from_numpy(truth), torch.from_numpy(chance), goal="balanced-accuracy"
    )

    def balanced(threshold):
        called = chance >= threshold
        return 0.5 * (called[truth == 1].mean() + (~called)[truth == 0].mean())

    assert balanced(found) == pytest.approx(metrics.balanced_accuracy_score(truth, chance >= found))
    assert balanced(found) >= max(balanced(t) for t in np.linspace(0, 1.0, 2001)) - 1e-12


@given(seeds, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
@settings(max_examples=15)
def test_best_threshold_by_cost_is_the_cheapest_of_all(seed, alarm, miss):
    truth, chance = draws(seed)

    def price(threshold):
        called = chance >= threshold
        return alarm * (called & (truth == 0)).sum() + miss * (~called & (truth == 1)).sum()

    found = best_threshold(torch.from_numpy(truth), torch.from_numpy(chance), (alarm, miss))
    assert price(found) <= min(price(t) for t in np.linspace(0, 1.01, 2002)) + 1e-9


def test_dear_misses_lower_the_threshold():
    truth, chance = (torch.from_numpy(x) for x in draws(4, 400))
    cheap, dear = best_threshold(truth, chance, (1, 1)), best_threshold(truth, chance, (1, 20))
    assert dear < cheap


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_rare_class(method):
    columns, classes = rare(400, seed=1)
    other, truth = rare(400, seed=2)
    columns[5, 3] = float("nan")
    other[7, 0] = float("nan")
    model = make_classifier(method, n_trees=40, seed=3, tune=False).fit(columns, classes)
    chance = model.probability(other)
    assert chance.shape == (400,)
    assert ((chance >= 0) & (chance <= 1)).all()
    assert class_scores(truth, chance).roc_auc > 0.85
    again = make_classifier(method, n_trees=40, seed=3, tune=False).fit(columns, classes)
    assert torch.equal(again.probability(other), chance)
    assert model.predict(other).tolist() == (chance >= 0.5).double().tolist()


@pytest.mark.parametrize("method", ["weights", "undersampling", "smote", "balanced-forest"])
def test_methods_raise_the_recall_over_doing_nothing(method):
    columns, classes = rare(500, share=0.06, seed=5)
    other, truth = rare(500, share=0.06, seed=6)
    recall = {}
    for name in ("none", method):
        # Boosted trees: a forest that is grown to single rows hardly feels weights.
        model = make_classifier(name, n_trees=30, tune=False, learner="boosted")
        recall[name] = class_scores(truth, model.fit(columns, classes).probability(other)).recall
    assert recall[method] > recall["none"]


def test_threshold_is_tuned_on_rows_that_the_model_did_not_see():
    columns, classes = rare(300, seed=7)
    model = make_classifier("weights", n_trees=30).fit(columns, classes)
    assert model.out_of_fold is not None
    assert model.threshold == best_threshold(classes, model.out_of_fold)
    # A forest knows its training rows by heart; out of fold it must not.
    assert class_scores(classes, model.probability(columns)).roc_auc > 0.999
    assert class_scores(classes, model.out_of_fold).roc_auc < 0.99


def test_sampling_and_scaling_see_the_training_rows_only(monkeypatch):
    seen = []

    def watched(columns, classes, rng, n_neighbors):
        seen.append((columns.numpy(), classes.numpy()))
        return smote(columns, classes, rng, n_neighbors)

    monkeypatch.setattr(classifiers, "smote", watched)
    columns, classes = rare(200, seed=8)
    columns[:, 4] = torch.arange(200)  # tells which row it is
    compare(columns, classes, ["smote"], folds=4, n_trees=5, tune=False)
    assert len(seen) == 4
    for rows, labels in seen:
        assert len(rows) == len(labels) == 150
        assert np.allclose(rows.mean(0), 0, atol=1e-9)
        assert np.allclose(rows.std(0), 1, atol=1e-9)


def test_smote_puts_rows_between_neighbours_of_the_rare_class():
    rng = torch.Generator().manual_seed(0)
    columns, classes = rare(120, seed=11)
    both, labels = smote(columns, classes.long(), rng, 3)
    assert torch.equal(both[:120], columns)
    assert torch.equal(labels[:120], classes.long())
    assert int((labels == 1).sum()) == int((labels == 0).sum())
    assert (labels[120:] == 1).all()
    rows = columns[classes == 1]
    distance = torch.cdist(rows, rows)
    for new in both[120:]:
        # On the segment from one row to one of its three nearest: lengths add up.
        detour = (rows - new).norm(dim=1)[:, None] + (rows - new).norm(dim=1) - distance
        i, j = torch.nonzero((detour < 1e-9) & (distance > 0), as_tuple=True)
        ranks = [int((distance[a] < distance[a, b]).sum()) for a, b in zip(i, j, strict=True)]
        assert min(ranks) <= 3


def test_smote_spreads_as_the_one_of_imbalanced_learn():
    columns, classes = rare(2000, share=0.05, seed=12)
    ours = smote(columns, classes.long(), torch.Generator().manual_seed(1))[0][2000:]
    theirs = over_sampling.SMOTE(random_state=1).fit_resample(columns.numpy(), classes.numpy())[0]
    theirs = torch.from_numpy(theirs[2000:])
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.1, rtol=0)


def test_balanced_samples_have_equally_many_of_both():
    classes = rare(200, seed=13)[1].long()
    n_rare = int(classes.sum())
    rng = torch.Generator().manual_seed(0)
    drawn = balanced_rows(classes, rng, replace=False)
    assert len(set(drawn.tolist())) == len(drawn) == 2 * n_rare
    assert int(classes[drawn].sum()) == n_rare
    again = balanced_rows(classes, rng, replace=True)
    assert int(classes[again].sum()) == n_rare
    assert len(set(again.tolist())) < len(again) == 2 * n_rare
    seen = []

    class Watched:
        def fit(self, rows, labels):
            seen.append((rows[:, 0].tolist(), labels.mean()))
            return self

        def predict_proba(self, rows):
            return np.tile([0.25, 0.75], (len(rows), 1))

    rows = np.arange(200.0)[:, None]
    ensemble = BalancedEnsemble(lambda _: Watched(), 3, replace=True, seed=5)
    ensemble.fit(rows, classes.numpy())
    assert [share for _, share in seen] == [0.5, 0.5, 0.5]
    assert seen[0][0] != seen[1][0]
    assert ensemble.predict_proba(rows).shape == (200, 2)


def test_comparison_has_every_method_on_every_fold():
    columns, classes = rare(240, seed=9)
    features = Features(columns, tuple(f"x{i}" for i in range(columns.shape[1])))
    methods = ["none", "weights"]
    found = compare(features, classes, methods, folds=3, seed=1, n_trees=10, inner_folds=2)
    assert list(found.folds) == [name for m in methods for name in (m, m + TUNED)]
    assert all(len(scores) == 3 for scores in found.folds.values())
    assert found.share == pytest.approx(float(classes.mean()))
    for line in found.table:
        assert len(line) == 1 + len(SCORES)
    values = [scores.f1 for scores in found.folds["weights"]]
    assert found.mean("weights", "f1") == pytest.approx(np.mean(values))
    assert found.std("weights", "f1") == pytest.approx(np.std(values))
    assert found.folds["none"][0].roc_auc == found.folds["none" + TUNED][0].roc_auc
    again = compare(features, classes, ["none"], folds=3, seed=1, n_trees=10, tune=False)
    assert again.folds["none"] == found.folds["none"]


def test_focal_loss_by_hand_and_as_cross_entropy():
    logit, truth = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])
    chance = torch.sigmoid(logit)
    right = torch.where(truth == 1, chance, 1 - chance)
    expected = -((1 - right) ** 2) * right.log()
    torch.testing.assert_close(focal_loss(logit, truth, 2.0), expected)
    plain = torch.nn.functional.binary_cross_entropy(chance, truth, reduction="none")
    torch.testing.assert_close(focal_loss(logit, truth, 0.0), plain)


def test_focal_network_separates_what_can_be_separated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    chance = FocalNetwork(0).fit(x, y).predict_proba(x)[:, 1]
    assert metrics.roc_auc_score(y, chance) > 0.97


def test_mistakes_are_named_in_one_line():
    columns, classes = rare(60)
    some = torch.zeros(60)
    some[:3] = 1
    cases = [
        (lambda: compare(columns, torch.ones(60)), "All 60 rows are of class 1"),
        (lambda: compare(columns, some), "Class 1 has 3 row.*fewer than the 5 folds"),
        (
            lambda: compare(columns, torch.cat([classes[:59], torch.tensor([float("nan")])])),
            "missing in 1 of 60 rows",
        ),
        (lambda: compare(columns, classes + 1), "classes 0 and 1"),
        (lambda: compare(columns[:50], classes), "50 rows of columns for 60 labels"),
        (lambda: compare(columns, classes, folds=1), "At least 2 folds"),
        (lambda: make_classifier("weights").fit(columns / 0, classes), "no column infinite"),
        (
            lambda: make_classifier("smote", tune=False).fit(columns, some),
            "SMOTE with 5 neighbours needs at least 6 training rows of the rare class",
        ),
        (lambda: make_classifier("weights").fit(columns, some), "fewer than the 4 folds"),
        (lambda: best_threshold(classes, classes, (1.0, 0.0)), "two positive numbers"),
        (lambda: class_scores(classes, classes / 0), "probability is missing"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UnknownNameError, match="Did you mean 'smote'"):
        make_classifier("smot")
    with pytest.raises(UnknownNameError, match="learner"):
        make_classifier(learner="trees")  # type: ignore[arg-type]
