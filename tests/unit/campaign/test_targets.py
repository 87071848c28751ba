import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matmill.campaign.request import make_request
from matmill.campaign.targets import Goal, check_together, parse_target
from matmill.errors import InputError, UnknownNameError
from matmill.quantities import QUANTITIES


@pytest.mark.parametrize(
    ("text", "name", "low", "high"),
    [
        ("band_gap = 2.0 eV", "band_gap", 1.8, 2.2),
        ("band_gap=2000 meV", "band_gap", 1.8, 2.2),
        ("band_gap = 2.0 ± 0.5 eV", "band_gap", 1.5, 2.5),
        ("band_gap = 2 +- 0.5", "band_gap", 1.5, 2.5),
        ("band gap = 0", "band_gap", -0.2, 0.2),
        ("bulk_modulus > 150 GPa", "bulk_modulus", 150.0, math.inf),
        ("bulk_modulus ≥ 1500 kbar", "bulk_modulus", 150.0, math.inf),
        ("150 GPa < bulk_modulus", "bulk_modulus", 150.0, math.inf),
        ("band_gap=1.5..2.5", "band_gap", 1.5, 2.5),
        ("band_gap in 1.5..2.5 eV", "band_gap", 1.5, 2.5),
        ("band_gap = 1..2", "band_gap", 1.0, 2.0),
        ("formation_energy = -2..-1 eV/atom", "formation_energy_per_atom", -2.0, -1.0),
        ("0.5 < density < 5", "density", 0.5, 5.0),
        ("500 kg/m3 <= density <= 5000 kg/m³", "density", 0.5, 5.0),
        ("0.5 < density <= 5 g/cm3", "density", 0.5, 5.0),
        ("energy_above_hull <= 0.05", "energy_above_hull", -math.inf, 0.05),
        ("e_hull <= 50 meV/atom", "energy_above_hull", -math.inf, 0.05),
        ("max bulk_modulus", "bulk_modulus", -math.inf, math.inf),
        ("minimise density", "density", -math.inf, math.inf),
    ],
)
def test_forms(text, name, low, high):
    target = parse_target(text)
    assert target.quantity.name == name
    assert (target.low, target.high) == pytest.approx((low, high))
    assert target.text == text


def test_goals():
    assert parse_target("max bulk_modulus").goal is Goal.MAXIMISE
    assert parse_target("minimize density").goal is Goal.MINIMISE
    assert parse_target("band_gap = 2").goal is Goal.POINT
    assert parse_target("band_gap > 2").goal is Goal.WINDOW


numbers = st.floats(0.0, 1.0).map(lambda share: round(share, 6))


@given(st.sampled_from(sorted(QUANTITIES)), numbers, numbers)
def test_every_window_is_read_back(name, a, b):
    quantity = QUANTITIES[name]
    low, high = sorted(quantity.low + x * (quantity.high - quantity.low) for x in (a, b))
    target = parse_target(f"{name} = {low!r}..{high!r} {quantity.unit}")
    assert (target.low, target.high) == (low, high)
    assert parse_target(target.describe()).quantity is quantity


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("band_gap = 2 GPa", "Allowed: eV, meV"),
        ("bulk_modulus > 150 eV", "Allowed: GPa"),
        ("n_elements = 3 eV", "it is a number"),
        ("band_gap", "Write one of"),
        ("band_gap is nice", "Write one of"),
        ("band_gap = two", "Write one of"),
        ("band_gap = 3..2", "empty"),
        ("band_gap = -4 eV", "between 0 and 20 eV"),
        ("bulk_modulus > 9000", "between 0 and 700 GPa"),
    ],
)
def test_wrong_targets_say_what_is_allowed(text, says):
    with pytest.raises(InputError, match=says):
        parse_target(text)


def test_unknown_property_suggests():
    with pytest.raises(UnknownNameError, match="band_gap"):
        parse_target("bandgap = 2")


def test_contradictions():
    with pytest.raises(InputError, match="no value of band_gap"):
        check_together((parse_target("band_gap > 3"), parse_target("band_gap < 2")))
    with pytest.raises(InputError, match="contradict"):
        check_together((parse_target("max density"), parse_target("min density")))
    check_together((parse_target("band_gap > 1"), parse_target("band_gap < 2")))
    check_together((parse_target("band_gap > 1"), parse_target("max band_gap")))


def test_request_reads_elements_and_survives_json():
    request = make_request(
        targets=("band_gap = 2.0 eV",), elements="Ga,N,O", exclude="Pb", n_atoms=(4, 16), n=5
    )
    assert request.elements is not None
    assert {*request.elements} == {"Ga", "N", "O"}
    assert request.exclude == ("Pb",)
    again = type(request).model_validate_json(request.model_dump_json())
    assert again == request
    assert again.parsed == request.parsed


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"targets": ("band_gap > 3", "band_gap < 2")}, "contradict"),
        ({"elements": "Ga,N", "exclude": "N"}, "N: both"),
        ({"elements": ""}, "empty"),
        ({"n_atoms": (8, 4)}, "empty"),
        ({"formula": "PbO", "exclude": "Pb"}, "Formula PbO has Pb"),
        ({"formula": "GaN", "elements": "Ga,O"}, "lacks"),
        ({"formula": "Ga2O3", "n_atoms": (6, 8)}, "No whole number"),
        ({"n": 0}, "n: Input should be greater"),
        ({"space_group": 231}, "space_group"),
        ({"sede": 1}, "sede: Extra"),
    ],
)
def test_impossible_requests(given, says):
    with pytest.raises(InputError, match=says) as caught:
        make_request(**given)
    assert "\n" not in str(caught.value)


def test_unknown_element_and_property_are_named():
    with pytest.raises((InputError, UnknownNameError), match="Xx"):
        make_request(elements="Ga,Xx")
    with pytest.raises(UnknownNameError, match="Known"):
        make_request(targets=("colour = 3",))


def test_formula_may_repeat():
    assert make_request(formula="Ga2O3", n_atoms=(6, 10)).counts == {"Ga": 2, "O": 3}
