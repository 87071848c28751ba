import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from matmill.errors import DataError
from matmill.predict.pretrain.monitor import Monitor, effective_rank, health, separation

NO_LABELS = torch.full((500,), -1)


def normal(n=500, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_the_effective_rank_counts_equal_directions():
    rows = torch.eye(6).double().repeat(50, 1)
    # Six corners of a simplex lie in five directions of equal variance.
    assert effective_rank(rows) == pytest.approx(5.0)
    assert effective_rank(rows + 7.0) == pytest.approx(5.0)


def test_the_effective_rank_agrees_with_singular_values():
    rows = normal() * torch.linspace(0.1, 3.0, 16)
    values = np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False) ** 2
    shares = values / values.sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_equal_rows_have_rank_1_and_no_spread():
    found = health(torch.ones(500, 16), NO_LABELS)
    assert found.effective_rank == 1.0
    assert found.spread == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(found.separation)


def test_random_directions_have_spread_1():
    assert health(normal(), NO_LABELS).spread == pytest.approx(1.0, abs=0.02)


def test_separation_agrees_with_a_nearest_neighbour_classifier():
    labels = torch.arange(300) % 3
    rows = normal(300, 4) + 1.2 * torch.nn.functional.one_hot(labels, 4)
    x, y = rows.double().numpy(), labels.numpy()
    right = 0
    for i in range(300):
        rest = np.arange(300) != i
        model = KNeighborsClassifier(5, algorithm="brute").fit(x[rest], y[rest])
        right += model.predict(x[i : i + 1])[0] == y[i]
    wanted = (right / 300 - 1 / 3) / (2 / 3)
    assert 0.1 < wanted < 0.9
    assert separation(rows, labels) == pytest.approx(wanted, abs=0.01)


def test_classes_far_apart_are_separated_and_random_ones_are_not():
    labels = torch.arange(500) % 2
    far = normal() + 20.0 * labels[:, None]
    assert separation(far, labels) == 1.0
    assert abs(separation(normal(), labels)) < 0.2


def test_a_collapse_ends_the_training_after_the_grace():
    monitor = Monitor(every=10, grace_steps=40)
    flat = normal(64, 16) * torch.tensor([1.0, 1.0] + [0.0] * 14)
    labels = torch.full((64,), -1)
    for step in range(1, 60):
        monitor.add(step, flat, labels)
    with pytest.raises(DataError, match=r"effective rank 2\.0, below 4, at step 60"):
        monitor.add(60, flat, labels)


def test_healthy_features_go_on():
    monitor = Monitor(every=10, grace_steps=0)
    for step in range(1, 60):
        monitor.add(step, normal(64, 16, seed=step), torch.arange(64) % 2)
    assert monitor.latest is not None
    assert monitor.latest.effective_rank > 10
