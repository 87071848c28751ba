"""Each loss against plain loops over its definition."""

import math

import pytest
import torch

from matmill.predict.pretrain.losses import barlow, simclr, supervised_barlow, supervised_simclr


def views(n=9, d=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=rng, dtype=torch.float64) for _ in range(2)]


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def looped_contrast(first, second, labels, temperature):
    rows = [unit(row) for row in [*first.tolist(), *second.tolist()]]
    n = len(first)
    total = 0.0
    for i in range(2 * n):
        below = sum(math.exp(dot(rows[i], rows[a]) / temperature) for a in range(2 * n) if a != i)
        positives = [
            p
            for p in range(2 * n)
            if p != i
            and (p % n == i % n or (labels[p % n] == labels[i % n] and labels[i % n] >= 0))
        ]
        logs = [math.log(math.exp(dot(rows[i], rows[p]) / temperature) / below) for p in positives]
        total -= sum(logs) / len(positives)
    return total / (2 * n)


def looped_standard(values):
    n, d = values.shape
    rows = values.tolist()
    columns = []
    for k in range(d):
        column = [row[k] for row in rows]
        mean = sum(column) / n
        variance = sum((x - mean) ** 2 for x in column) / n
        columns.append([(x - mean) / math.sqrt(variance + 1e-5) for x in column])
    return [[columns[k][i] for k in range(d)] for i in range(n)]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr(temperature):
    first, second = views()
    wanted = looped_contrast(first, second, [-1] * 9, temperature)
    assert float(simclr(first, second, temperature=temperature)) == pytest.approx(wanted, rel=1e-5)


def test_supervised_simclr_with_unknown_labels():
    first, second = views()
    labels = [0, 1, 1, -1, 2, 0, 0, -1, 1]
    wanted = looped_contrast(first, second, labels, 0.2)
    found = supervised_simclr(first, second, torch.tensor(labels), temperature=0.2)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_without_labels_the_supervised_form_is_the_plain_one():
    first, second = views()
    found = supervised_simclr(first, second, torch.full((9,), -1))
    assert float(found) == pytest.approx(float(simclr(first, second)), rel=1e-6)


def test_barlow():
    first, second = views()
    one, two = looped_standard(first), looped_standard(second)
    wanted = 0.0
    for k in range(5):
        for m in range(5):
            c = sum(one[i][k] * two[i][m] for i in range(9)) / 9
            wanted += (c - 1) ** 2 if k == m else 0.0051 * c**2
    assert float(barlow(first, second)) == pytest.approx(wanted, rel=1e-5)


def test_supervised_barlow():
    first, second = views()
    labels = [0, 1, 1, -1, 2, 0, 0, -1, 1]
    one = [unit(row) for row in looped_standard(first)]
    two = [unit(row) for row in looped_standard(second)]
    near, far = [], []
    for i in range(9):
        for j in range(9):
            if labels[i] < 0 or labels[j] < 0:
                continue
            s = dot(one[i], two[j])
            if labels[i] == labels[j]:
                near.append((1 - s) ** 2)
            else:
                far.append(s**2)
    wanted = sum(near) / len(near) + 0.4 * sum(far) / len(far)
    found = supervised_barlow(first, second, torch.tensor(labels), other_weight=0.4)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_equal_views_are_better_than_different_ones():
    first, second = views(40, 8)
    for loss in (simclr, barlow):
        assert loss(first, first) < 0.5 * loss(first, second)


def test_classes_that_lie_apart_are_better_than_mixed_ones():
    labels = torch.arange(40) % 2
    rng = torch.Generator().manual_seed(1)
    apart = torch.randn(40, 8, generator=rng) + 6.0 * labels[:, None] * torch.eye(8)[0]
    mixed = apart[torch.randperm(40, generator=rng)]
    for loss in (supervised_simclr, supervised_barlow):
        assert loss(apart, apart, labels) < loss(mixed, mixed, labels)


@pytest.mark.parametrize("labels", [[-1] * 9, [0] * 9])
def test_labels_without_pairs_of_two_classes_still_have_a_gradient_without_nan(labels):
    first, second = views()
    first.requires_grad_()
    loss = supervised_barlow(first, second, torch.tensor(labels)) + supervised_simclr(
        first, second, torch.tensor(labels)
    )
    loss.backward()
    assert bool(torch.isfinite(first.grad).all())
