"""Supply risk against pymatgen, hand counts and what the source does not list."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.supply import supply_risk

LISTED = [z for z in range(3, 84) if z not in (10, 18, 36, 43, 54)]


def risk(*formulas):
    return supply_risk(parse_formulas(formulas).amounts)


@given(st.dictionaries(st.sampled_from(LISTED), st.integers(1, 8), min_size=1, max_size=5))
def test_it_is_pymatgens(counts):
    from pymatgen.analysis.hhi import HHIModel

    formula = "".join(f"{SYMBOLS[z]}{n}" for z, n in counts.items())
    amounts = torch.zeros(1, 119, dtype=torch.float64)
    for z, n in counts.items():
        amounts[0, z] = n
    # Masses differ in the fifth digit between the two tables.
    assert supply_risk(amounts)[0].tolist() == pytest.approx(HHIModel().get_hhi(formula), rel=1e-3)


def test_elements_and_a_hand_count():
    neodymium, aluminium = risk("Nd", "Al").tolist()
    assert neodymium == [9500, 3100]
    assert aluminium == [1600, 1000]
    iron, oxygen = 2 * 55.845, 3 * 15.999
    expected = (2400 * iron + 500 * oxygen) / (iron + oxygen)
    assert float(risk("Fe2O3")[0, 0]) == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(risk("Fe4O6"), risk("Fe2O3"))


def test_what_the_source_does_not_list():
    found = risk("H2O", "TcO2", "UO2", "NaCl")
    assert torch.isnan(found).all(1).tolist() == [True, True, True, False]
    assert supply_risk(CompositionBatch.empty().amounts).shape == (0, 2)
