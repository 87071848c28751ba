"""The composition block against plain Python and the facts of pymatgen."""

import math

import pytest
import torch
from descriptor_crystals import known_crystals, rock_salt, supercell
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.crystals.elements import SYMBOLS
from matmill.errors import InputError
from matmill.predict.descriptors.blocks import compute
from matmill.predict.descriptors.composition import composition_block, element_block
from matmill.predict.descriptors.properties import element_property, property_names


def column(formula: str, name: str) -> float:
    return float(composition_block(parse_formulas([formula])).column(name)[0])


def plain_statistics(amounts: dict[int, float], values: dict[int, float]) -> dict[str, float]:
    """Return the six statistics with loops over the elements that have a value."""
    known = {z: x for z, x in amounts.items() if not math.isnan(values[z])}
    if not known:
        return dict.fromkeys(("mean", "deviation", "min", "max", "range", "mode"), math.nan)
    total = sum(known.values())
    mean = sum(values[z] * x for z, x in known.items()) / total
    most = max(known.values())
    return {
        "mean": mean,
        "deviation": sum(abs(values[z] - mean) * x for z, x in known.items()) / total,
        "min": min(values[z] for z in known),
        "max": max(values[z] for z in known),
        "range": max(values[z] for z in known) - min(values[z] for z in known),
        "mode": min(values[z] for z, x in known.items() if x > most * (1 - 1e-9)),
    }


amount_lists = st.lists(
    st.dictionaries(st.integers(1, 103), st.integers(1, 20), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)


def batch_of(rows: list[dict[int, int]], scale: float = 1.0) -> CompositionBatch:
    amounts = torch.zeros(len(rows), 119, dtype=torch.float64)
    for i, row in enumerate(rows):
        for z, n in row.items():
            amounts[i, z] = n * scale
    return CompositionBatch(amounts=amounts)


@given(amount_lists)
def test_statistics_are_those_of_plain_python(rows):
    found = composition_block(batch_of(rows))
    for name in property_names():
        values = dict(enumerate(element_property(name).tolist()))
        for i, row in enumerate(rows):
            for statistic, expected in plain_statistics(row, values).items():
                value = float(found.column(f"{name}_{statistic}")[i])
                assert value == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@given(amount_lists, st.floats(0.01, 50.0))
def test_only_shares_matter(rows, scale):
    plain = composition_block(batch_of(rows))
    scaled = composition_block(batch_of(rows, scale))
    torch.testing.assert_close(plain.values, scaled.values, rtol=1e-7, atol=1e-7, equal_nan=True)


def test_crystals_and_their_formulas_agree():
    crystals = known_crystals()
    named = parse_formulas(list(crystals.formula))
    for block in (composition_block, element_block):
        torch.testing.assert_close(
            block(crystals).values, block(named).values, equal_nan=True, rtol=1e-12, atol=1e-12
        )
        large = block(supercell(crystals, (2, 1, 1))).values
        torch.testing.assert_close(block(crystals).values, large, equal_nan=True)


@pytest.mark.parametrize("formula", ["NaCl", "BaTiO3", "Fe2O3", "CuInSe2", "Al0.3Ga0.7As"])
def test_facts_are_those_of_pymatgen(formula):
    from pymatgen.core import Composition

    composition = Composition(formula)
    parts = composition.fractional_composition.items()
    found = {
        "electronegativity_mean": sum(e.X * x for e, x in parts),
        "mendeleev_number_mean": sum(e.mendeleev_no * x for e, x in parts),
        "melting_point_max": max(float(e.melting_point) for e in composition),
        "first_ionization_energy_min": min(e.ionization_energy for e in composition),
        "mass_mean": composition.weight / composition.num_atoms,
        "electronegativity_gap_max": max(e.X for e in composition) - min(e.X for e in composition),
        "n_elements": len(composition),
        "share_transition_metal": sum(x for e, x in parts if e.is_transition_metal),
        "share_halogen": sum(x for e, x in parts if e.is_halogen),
        "is_metal_mean": sum(x for e, x in parts if e.is_metal),
    }
    if formula == "Al0.3Ga0.7As":
        found["valence_electrons_mean"] = 4.0
    for name, expected in found.items():
        assert column(formula, name) == pytest.approx(expected, rel=1e-4), name


def test_filled_and_unfilled_shells():
    table = {name: element_property(name).tolist() for name in property_names()}
    fe, o, he = SYMBOLS.index("Fe"), 8, 2
    assert [table[f"n_valence_{s}"][fe] for s in "spdf"] == [2, 0, 6, 0]
    assert [table[f"n_unfilled_{s}"][fe] for s in "spdf"] == [0, 0, 4, 0]
    assert (table["n_valence"][o], table["n_unfilled"][o]) == (6, 2)
    assert table["valence_electrons"][he] == 2
    assert [table["valence_electrons"][SYMBOLS.index(s)] for s in ("Na", "Al", "Cl", "Ni")] == [
        1, 3, 7, 10,
    ]  # fmt: skip


def test_known_values_of_mixtures():
    assert column("NaCl", "mixing_entropy") == pytest.approx(math.log(2))
    assert column("CoCrFeMnNi", "mixing_entropy") == pytest.approx(math.log(5))
    # The alloy of Cantor: VEC 8 (Guo and Liu 2011).
    assert column("CoCrFeMnNi", "valence_electrons_mean") == pytest.approx(8.0)
    assert column("SiO2", "norm_2") == pytest.approx(math.sqrt(5) / 3)
    assert column("SiO2", "norm_3") == pytest.approx(9 ** (1 / 3) / 3)
    assert column("Cu", "size_mismatch") == pytest.approx(0)
    assert column("Cu", "ionic_character_max") == 0
    chi = 3.98 - 0.93
    assert column("NaF", "ionic_character_max") == pytest.approx(1 - math.exp(-(chi**2) / 4))
    assert column("NaF", "ionic_character_mean") == pytest.approx((1 - math.exp(-(chi**2) / 4)) / 2)


def test_unknown_properties_are_left_out():
    assert math.isnan(column("He", "electronegativity_mean"))
    assert column("XeF2", "electronegativity_max") == pytest.approx(3.98)
    assert column("HeNa", "electronegativity_mean") == pytest.approx(0.93)
    assert math.isfinite(column("He", "atomic_number_mean"))


def test_element_block_has_every_share():
    found = element_block(parse_formulas(["Fe3O4"]))
    assert found.n_columns == 118
    assert float(found.column("Fe")[0]) == pytest.approx(3 / 7)
    assert float(found.values.sum()) == pytest.approx(1.0)


def test_masked_atoms_are_refused():
    masked = rock_salt()
    masked.atomic_numbers[0] = 0
    with pytest.raises(InputError, match="element"):
        compute(masked, ["composition"])
