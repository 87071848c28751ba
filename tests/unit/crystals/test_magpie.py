"""Magpie vectors against a hand count, formula scaling (T-7) and what the table lacks."""

import pytest
import torch

from matmill.crystals.compositions import parse_formulas
from matmill.crystals.magpie import N_MAGPIE, magpie_scaler, magpie_vectors


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


def test_what_magpie_never_knew_can_be_told():
    amounts = parse_formulas(("NaCl", "XeF2", "NaHe", "Na2He")).amounts
    filled, unknown = (magpie_vectors(amounts, missing=m) for m in ("filled", "unknown"))
    assert bool(torch.isfinite(filled).all())
    assert torch.equal(filled[:2], unknown[:2])
    # Helium's melting point and electronegativity: all statistics but the mode of sodium's.
    assert unknown[2].isnan().reshape(22, 6).sum(1).tolist()[3] == 6
    assert unknown[3].isnan().reshape(22, 6).sum(1).tolist()[3] == 5
    assert int(unknown[2].isnan().sum()) == 12
    assert float(unknown[3].reshape(22, 6)[3, 5]) == pytest.approx(370.87)


def test_the_published_scaler():
    mean, std = magpie_scaler()
    assert mean.shape == std.shape == (N_MAGPIE,)
    assert bool((std > 0).all())
    mean = mean.reshape(22, 6)
    # By their definitions: the range is the difference of the ends.
    torch.testing.assert_close(mean[:, 2], mean[:, 1] - mean[:, 0], rtol=1e-6, atol=1e-5)
