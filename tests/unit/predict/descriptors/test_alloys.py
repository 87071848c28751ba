"""Enthalpies of mixing and mismatches against published values and plain Python."""

import math

import pytest
import torch

from matmill.crystals.compositions import parse_formulas
from matmill.crystals.elements import number
from matmill.predict.descriptors.alloys import pair_enthalpy
from matmill.predict.descriptors.composition import composition_block


def column(formula: str, name: str) -> float:
    return float(composition_block(parse_formulas([formula])).column(name)[0])


@pytest.mark.parametrize(
    ("first", "second", "published"),
    [
        ("Fe", "Al", -11), ("Cu", "Zr", -23), ("Ni", "Al", -22), ("Ni", "Ti", -35),
        ("Co", "Cr", -4), ("Fe", "Ni", -2), ("Cu", "Fe", 13), ("Ni", "Zr", -49),
        ("Al", "Zr", -44), ("Fe", "B", -26), ("Fe", "C", -50),
    ],
)  # fmt: skip
def test_pairs_agree_with_takeuchi_and_inoue(first, second, published):
    """Table 1 of their paper of 2005, in kJ/mol, which is rounded to whole numbers."""
    found = float(pair_enthalpy()[number(first), number(second)])
    assert found == pytest.approx(published, abs=1.0)


def test_pairs_are_symmetric():
    table = pair_enthalpy()
    torch.testing.assert_close(table, table.T, equal_nan=True)
    known = ~torch.isnan(table.diagonal())
    assert int(known.sum()) == 73
    assert float(table.diagonal()[known].abs().max()) == 0
    assert bool(torch.isnan(table[number("O")]).all())


def test_a_regular_solution_sums_over_its_pairs():
    pairs = pair_enthalpy()
    shares = {"Cu": 0.5, "Zr": 0.4, "Al": 0.1}
    total, least = 0.0, 0.0
    for a, x in shares.items():
        for b, y in shares.items():
            if a < b:
                total += 4 * x * y * float(pairs[number(a), number(b)])
                least = min(least, float(pairs[number(a), number(b)]))
    assert column("Cu50Zr40Al10", "mixing_enthalpy_kj_mol") == pytest.approx(total)
    assert column("Cu50Zr40Al10", "mixing_enthalpy_least_kj_mol") == pytest.approx(least)
    assert column("Cu50Zr40Al10", "mixing_enthalpy_most_kj_mol") == pytest.approx(0)
    melting = 0.5 * 1357.77 + 0.4 * 2128 + 0.1 * 933.47
    entropy = -8.314462618e-3 * sum(x * math.log(x) for x in shares.values())
    omega = melting * entropy / abs(total)
    assert column("Cu50Zr40Al10", "yang_omega") == pytest.approx(omega, rel=1e-4)


def test_known_alloy_of_cantor():
    """ΔH of CoCrFeMnNi is -4.16 kJ/mol from whole-number pairs (Zhang and others 2014)."""
    assert column("CoCrFeMnNi", "mixing_enthalpy_kj_mol") == pytest.approx(-4.16, abs=0.4)


def test_mismatch_is_the_relative_deviation():
    radii, shares = {"Al": 1.25, "Cu": 1.35}, {"Al": 0.3, "Cu": 0.7}
    mean = sum(shares[e] * radii[e] for e in radii)
    expected = math.sqrt(sum(shares[e] * (radii[e] / mean - 1) ** 2 for e in radii))
    assert column("Al0.3Cu0.7", "size_mismatch") == pytest.approx(expected)
    chi = {"Al": 1.61, "Cu": 1.90}
    mean = sum(shares[e] * chi[e] for e in chi)
    expected = math.sqrt(sum(shares[e] * (chi[e] - mean) ** 2 for e in chi))
    assert column("Al0.3Cu0.7", "electronegativity_mismatch") == pytest.approx(expected)


def test_pure_elements_and_compounds():
    assert column("Cu", "mixing_enthalpy_kj_mol") == 0
    assert column("Cu", "yang_omega") == 0
    assert math.isnan(column("NaCl", "mixing_enthalpy_kj_mol"))
    assert math.isfinite(column("NaCl", "size_mismatch"))


def test_charges_that_oxidation_states_allow():
    assert column("NaCl", "oxidation_imbalance") == 0
    assert column("NaCl", "oxidation_charge_least") <= 0 <= column("NaCl", "oxidation_charge_most")
    assert column("MgF4", "oxidation_imbalance") == pytest.approx(2 / 5)
    assert column("Na3F", "oxidation_imbalance") == pytest.approx(2 / 4)
