"""Magpie vectors against a hand count, formula scaling (T-7) and what the table lacks."""

import pytest
import torch

from matmill.crystals.compositions import parse_formulas
from matmill.crystals.magpie import N_MAGPIE, magpie_vectors


def vectors(*formulas):
    return magpie_vectors(parse_formulas(formulas).amounts)


def test_a_hand_count():
    number, mendeleev, *_ = vectors("TiO2").reshape(22, 6).tolist()
    low, high, width, middle, deviation, mode = number
    assert (low, high, width, mode) == (8, 22, 14, 8)
    assert middle == pytest.approx((22 + 2 * 8) / 3)
    assert deviation == pytest.approx((28 / 3 + 2 * 14 / 3) / 3)
    assert mendeleev[1] == 87  # oxygen, in Magpie's own numbering


def test_a_tie_takes_the_lesser_value():
    melting = vectors("ZnO").reshape(22, 6)[3]
    assert float(melting[5]) == 54.8  # oxygen's 54.8 K and not zinc's 692.68 K
    radius = vectors("NaCl").reshape(22, 6)[6]
    assert float(radius[5]) == 102.0  # chlorine's 102 pm, though it is the heavier


def test_scaling_a_formula_changes_nothing():
    four, one = vectors("Na4Cl4", "NaCl")
    assert torch.equal(four, one)


def test_what_the_table_lacks_has_no_vector():
    found = vectors("NaCl", "RfO2")
    assert found.shape == (2, N_MAGPIE)
    assert torch.isfinite(found).all(1).tolist() == [True, False]
    assert bool(torch.isnan(magpie_vectors(torch.zeros(1, 119))).all())
    assert magpie_vectors(torch.zeros(0, 119)).shape == (0, N_MAGPIE)
