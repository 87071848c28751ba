"""matbench-genmetrics by its definitions, T-25, and SciPy on the line of the elements."""

import numpy as np
import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import element_counts
from matmill.crystals.element_mover import places
from matmill.verify.genmetrics import (
    PLACE_OF_DUMMY,
    element_validity,
    genmetrics,
    space_group_validity,
)


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_the_known_crystals_are_valid_and_a_set_of_p1_is_not():
    """T-25."""
    train, test = prototypes().select(range(6)), prototypes().select(range(6, 9))
    found = by_name(genmetrics(concatenate([train, test]), train, test))
    assert found["validity"].value == pytest.approx(1.0)
    assert found["space-group validity"].value == pytest.approx(1.0)
    assert found["element validity"].value == pytest.approx(1.0)
    known = torch.tensor([225, 221, 1])
    assert space_group_validity(torch.ones(5).long(), known).value == 0.0
    assert space_group_validity(torch.tensor([1, 221, 225]), known).value == 1.0
    assert np.isnan(space_group_validity(torch.tensor([2]), torch.tensor([1, 1])).value)


def test_space_group_validity_by_hand():
    known, generated = torch.tensor([1, 3]), torch.tensor([2, 2])
    assert space_group_validity(generated, known).value == pytest.approx(1 - 1 / 1)
    assert space_group_validity(torch.tensor([5, 5]), known).value == pytest.approx(1 - 3 / 1)


def test_element_validity_is_scipys_transport_of_weighted_elements():
    from scipy.stats import wasserstein_distance

    a, b = prototypes().select([0, 1, 6]), prototypes().select([3, 5, 7, 8])
    line = places().double().numpy()

    def weights(batch):
        counts = element_counts(batch).double()
        total = (counts / counts.sum(1, keepdim=True)).sum(0)
        used = total > 0
        return line[used.numpy()], total[used].numpy()

    (x, v), (y, w) = weights(a), weights(b)
    far = wasserstein_distance(y, [PLACE_OF_DUMMY], w)
    expected = 1 - wasserstein_distance(x, y, v, w) / far
    assert element_validity(a, b).value == pytest.approx(expected)


def test_counts_of_matches():
    batch = prototypes()
    rng = torch.Generator().manual_seed(0)
    near = perturbed(batch.select([0]), step=0.02, strain=0.0, rng=rng)
    generated = concatenate([batch.select([0]), near, batch.select([5])])
    train, test = batch.select([0, 1]), batch.select([5])
    found = by_name(genmetrics(generated, train, test))
    assert (found["coverage"].numerator, found["coverage"].denominator) == (1, 1)
    assert (found["novelty"].numerator, found["novelty"].denominator) == (1, 3)
    # [A, A, B]: two crystals have one other that matches, of six ordered pairs.
    assert found["uniqueness, of pairs"].value == pytest.approx(1 - 2 / 6)
    twice = by_name(genmetrics(generated, train, batch.select([0])))
    assert twice["coverage"].value == 2.0  # two generated crystals over one of the test set


def test_one_crystal_and_none():
    batch = prototypes()
    one = by_name(genmetrics(batch.select([0]), batch, batch))
    assert np.isnan(one["uniqueness, of pairs"].value)
    assert one["novelty"].value == 0.0
    empty = by_name(genmetrics(CrystalBatch.empty(), batch, batch))
    assert empty["coverage"].value == 0.0
    assert np.isnan(empty["novelty"].value)
    assert np.isnan(empty["validity"].value)
