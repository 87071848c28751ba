"""The drift panel, by hand counts."""

import numpy as np
import pytest

from matmill.crystals.batch import CrystalBatch
from matmill.verify.drift import (
    NO_STABLE_ISOTOPE,
    combined_supply_risk,
    drift_panel,
    formula_repetition,
    lanthanide_share,
    radioactive_share,
    supply_risks,
)

FCC = [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]


def rock_salts(*pairs, a=5.0):
    """Return rock salts of these pairs of atomic numbers."""
    sites = FCC + [(x + 0.5, y, z) for x, y, z in FCC]
    return CrystalBatch.from_lists(
        [a * np.eye(3)] * len(pairs), [sites] * len(pairs), [[x] * 4 + [y] * 4 for x, y in pairs]
    )


def by_name(metrics):
    return {metric.name: metric for metric in metrics}


def test_shares_of_elements():
    batch = rock_salts((57, 7), (71, 7), (61, 8), (92, 8), (11, 17))
    assert lanthanide_share(batch).numerator == 3
    assert radioactive_share(batch).numerator == 2
    without = radioactive_share(batch, allowed=("Th", "U"))
    assert (without.numerator, without.denominator) == (1, 5)
    assert "Th, U" in without.name
    panel = by_name(drift_panel(batch))
    assert panel["with promethium"].numerator == 1
    assert panel["number of elements"].value == 2.0
    assert panel["atoms per cell"].value == 8.0
    assert panel["P1 at symprec 0.1"].numerator == 0
    assert panel["effective number of space groups at symprec 0.1"].value == pytest.approx(1.0)


def test_what_has_no_stable_isotope():
    from ase.data import chemical_symbols

    named = [chemical_symbols[z] for z in NO_STABLE_ISOTOPE[:6]]
    assert named == ["Tc", "Pm", "Po", "At", "Rn", "Fr"]
    assert 83 not in NO_STABLE_ISOTOPE
    assert {90, 92} < set(NO_STABLE_ISOTOPE)


def test_supply_risk_is_a_mean_over_what_is_listed():
    batch = rock_salts((13, 7), (60, 7), (1, 3))  # no index for hydrogen
    production, reserves = supply_risks(batch)
    assert production.denominator == reserves.denominator == 2
    aluminium, neodymium, nitrogen = 26.982, 144.242, 14.007
    expected = [
        (1600 * aluminium + 1300 * nitrogen) / (aluminium + nitrogen),
        (9500 * neodymium + 1300 * nitrogen) / (neodymium + nitrogen),
    ]
    assert production.value == pytest.approx(np.mean(expected), rel=1e-4)
    blend = combined_supply_risk(batch)
    assert blend.value == pytest.approx((production.value + 3 * reserves.value) / 4000)


def test_formulas_that_came_before():
    batch = rock_salts((11, 17), (11, 17), (19, 17), (17, 11))
    metric = formula_repetition(batch)
    assert (metric.numerator, metric.denominator) == (2, 4)


def test_no_crystals_have_no_panel_values():
    panel = drift_panel(CrystalBatch.empty())
    assert {metric.denominator for metric in panel} == {0}
    assert all(np.isnan(metric.value) for metric in panel)
