"""The synthesis proxy by hand, and its ranking against scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from crystals_for_tests import prototypes
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify.synthesis import (
    charge_sign,
    family_sign,
    hull_sign,
    ranking_share,
    synthesis_proxy,
    synthesizability,
)


def exchanged(batch, old, new):
    """Return the crystals with one element for another."""
    return CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords,
        atomic_numbers=torch.where(batch.atomic_numbers == old, new, batch.atomic_numbers),
        n_atoms=batch.n_atoms,
    )


def test_the_hull_counts_most_nearby():
    values = hull_sign(torch.tensor([-0.2, 0.0, 0.067, 1.0, float("nan")]))
    assert values[:3].tolist() == pytest.approx([1.0, 1.0, math.exp(-1)], rel=1e-6)
    assert float(values[3]) < 1e-6
    assert torch.isnan(values[4])


def test_charges_of_compounds_and_alloys():
    salt = prototypes().select([0])
    strange = exchanged(salt, 17, 3)  # NaLi is an alloy
    helium = exchanged(salt, 11, 2)  # HeCl
    assert charge_sign(concatenate([salt, strange, helium])).tolist() == [True, True, False]


def test_a_family_is_as_near_as_its_nearest_member():
    salt, perovskite = prototypes().select([0]), prototypes().select([7])
    known = concatenate([salt, perovskite])
    potash = exchanged(salt, 11, 19)  # half a step of the scale
    same_sites = exchanged(exchanged(salt, 11, 12), 17, 8)  # MgO: 62/2 + 4/2 steps
    other = prototypes().select([6])  # rutile: no such prototype
    found = family_sign(concatenate([salt, potash, same_sites, other]), known)
    expected = [1.0, 1 / 1.5, 1 / (1 + 33), 0.0]
    assert found.tolist() == pytest.approx(expected)
    assert family_sign(salt, CrystalBatch.empty()).tolist() == [0.0]
    assert family_sign(CrystalBatch.empty(), known).shape == (0,)


def test_crystals_without_a_label_have_no_family():
    broken = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[11]])
    assert family_sign(broken, broken).tolist() == [0.0]


def test_the_proxy_by_hand():
    above = torch.tensor([0.0, 0.0, 0.067, float("nan")])
    charges = torch.tensor([True, False, True, True])
    family = torch.tensor([1.0, 0.0, 0.5, 1.0])
    found = synthesis_proxy(above, charges, family)
    assert found[:3].tolist() == pytest.approx([1.0, 0.25, math.exp(-1) * 0.75], rel=1e-6)
    assert torch.isnan(found[3])


def test_the_sheet_keeps_its_denominators():
    batch = prototypes()
    above = torch.tensor([0.0] * 8 + [float("nan")])
    found = {m.name: m for m in synthesizability(batch, batch, above)}
    assert found["synthesis proxy, 0 to 1"].denominator == 8
    assert found["synthesis proxy, 0 to 1"].value == pytest.approx(1.0)
    assert found["synthesis proxy: of a known prototype"].denominator == 9


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=15),
    st.lists(st.integers(0, 5), min_size=1, max_size=15),
)
def test_the_ranking_is_scikit_learns(a, b):
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score([1] * len(a) + [0] * len(b), a + b)
    assert ranking_share(a, b) == pytest.approx(expected)


def test_a_ranking_needs_both_sides():
    assert math.isnan(ranking_share([], [1.0]))
    assert ranking_share([2.0, float("nan")], [1.0]) == 1.0
