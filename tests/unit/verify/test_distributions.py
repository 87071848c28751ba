"""Distances of distributions against SciPy, closed forms and their own limits."""

import math

import numpy as np
import pytest
import torch
from crystals_for_tests import prototypes
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import InputError
from matmill.verify.distributions import (
    element_distance,
    jensen_shannon,
    kernel_distances,
    mmd,
    space_group_distance,
)

COUNTS = st.dictionaries(st.integers(1, 8), st.integers(1, 30), min_size=1)


def rng():
    return torch.Generator().manual_seed(0)


@given(COUNTS, COUNTS)
def test_jensen_shannon_is_scipys(a, b):
    from scipy.spatial.distance import jensenshannon

    p, q = ([float(x.get(k, 0)) for k in range(1, 9)] for x in (a, b))
    assert jensen_shannon(a, b) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)


def test_jensen_shannon_at_its_ends():
    assert jensen_shannon({1: 3}, {1: 70}) == 0.0
    assert jensen_shannon({1: 3}, {2: 1}) == pytest.approx(1.0)
    assert math.isnan(jensen_shannon({}, {1: 1}))


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    st.floats(0.1, 3),
)
def test_mmd_by_its_definition(a, b, width):
    x, y = np.array(a), np.array(b)

    def mean(u, v):
        return np.exp(-((u[:, None] - v) ** 2) / (2 * width**2)).mean()

    expected = max(mean(x, x) + mean(y, y) - 2 * mean(x, y), 0.0)
    value, used = mmd(torch.from_numpy(x), torch.from_numpy(y), width=width)
    assert value**2 == pytest.approx(expected, abs=1e-9)
    assert used == width


def test_mmd_at_its_ends():
    values = torch.tensor([1.0, 2.0, 4.0, float("nan")])
    assert mmd(values, values)[0] == pytest.approx(0.0, abs=1e-7)
    assert mmd(values, values)[1] == 2.0  # distances 1, 2, 3
    far = mmd(torch.tensor([0.0]), torch.tensor([1e6]), width=1.0)[0]
    assert far == pytest.approx(math.sqrt(2))
    assert math.isnan(mmd(torch.zeros(0), values)[0])
    assert mmd(values, torch.ones(5))[1] == 1.0
    with pytest.raises(InputError, match="positive"):
        mmd(values, values, width=0.0)


def test_a_set_is_at_no_distance_of_itself():
    batch = prototypes()
    found = [
        *space_group_distance(batch, batch),
        element_distance(batch, batch),
        *kernel_distances(batch, batch, rng()),
    ]
    assert [metric.value for metric in found] == pytest.approx([0.0] * 5, abs=1e-7)
    assert {metric.denominator for metric in found} == {9}


def test_groups_and_elements_that_share_nothing():
    salt, oxide = prototypes().select([0]), prototypes().select([6])  # cubic and tetragonal
    groups, systems = space_group_distance(salt, oxide)
    assert (groups.value, systems.value) == (1.0, 1.0)
    assert element_distance(salt, oxide).value == pytest.approx(1.0)
    # NaCl and CsCl: two groups of one crystal system, and half of the atoms in common.
    groups, systems = space_group_distance(salt, prototypes().select([1]))
    assert (groups.value, systems.value) == (1.0, 0.0)
    expected = jensen_shannon({"Na": 1, "Cl": 1}, {"Cs": 1, "Cl": 1})
    assert element_distance(salt, prototypes().select([1])).value == pytest.approx(expected)
    assert expected == pytest.approx(math.sqrt(0.5))


def test_swollen_crystals_are_further_the_more_they_swell():
    def swollen(factor):
        batch = prototypes()
        return CrystalBatch(
            lattice=batch.lattice * factor,
            frac_coords=batch.frac_coords,
            atomic_numbers=batch.atomic_numbers,
            n_atoms=batch.n_atoms,
        )

    values = [
        [metric.value for metric in kernel_distances(swollen(f), prototypes(), rng())]
        for f in (1.0, 1.05, 1.3)
    ]
    assert all(a < b < c for a, b, c in zip(*values, strict=True))


def test_no_crystals():
    empty = CrystalBatch.empty()
    found = [
        *space_group_distance(empty, prototypes()),
        element_distance(empty, prototypes()),
        *kernel_distances(empty, prototypes(), rng()),
    ]
    assert all(math.isnan(metric.value) for metric in found)
    assert len(concatenate([empty, empty])) == 0
