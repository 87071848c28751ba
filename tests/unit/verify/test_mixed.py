"""T-20: MatterGen's disordered matcher on its own cases."""

import pytest
from pymatgen.core import Element, Lattice, Structure

from matmill.verify.mixed import groups, mixed, replace_each_other, same_when_mixed

SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.4, 0.6, 0.2], [0, 0, 0.75]]
OTHER = [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0.5, 0, 0.1]]


def cube(species, sites=SITES):
    return Structure(Lattice.cubic(6.0), species, sites)


HALF = {"Ba": 0.5, "Sr": 0.5}
TENTH = {"Ba": 0.1, "Sr": 0.9}
ALLOY = {"Fe": 0.5, "Ni": 0.25, "Mn": 0.25}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["O", "O", "Be", "Po"], ["O", "O", "Sr", "Ba"], False),
        (["Fe", "Fe", "Ni", "Mn"], ["Ni", "Fe", "Mn", "Fe"], True),
        (["Fe", "Fe", "Ni", "Mn"], ["Fe", "Ni", "Ni", "Mn"], False),
        (["O", "O", "Sr", "Ba"], ["O", "O", "Ba", "Sr"], True),
        (["O", "O", "Sr", "Ba"], ["O", "O", HALF, HALF], True),
        (["O", "O", "Sr", "Ba"], ["O", "O", TENTH, TENTH], False),
        (["Fe", "Fe", "Ni", "Mn"], [ALLOY] * 4, True),
    ],
)
def test_t20_orders_and_mixtures(first, second, expected):
    assert same_when_mixed(cube(first), cube(second)) is expected


def test_t20_other_sites_are_another_crystal():
    assert not same_when_mixed(cube(["O", "O", "Sr", "Ba"]), cube(["O", "O", "Sr", "Ba"], OTHER))


def test_t20_which_elements_replace_each_other():
    assert groups(cube(["O", "O", "Sr", "Ba"])) == [frozenset({Element("Ba"), Element("Sr")})]
    iron = frozenset(map(Element, ("Fe", "Ni", "Mn")))
    assert groups(cube(["Fe", "Fe", "Ni", "Mn"])) == [iron]
    assert not replace_each_other(Element("Be"), Element("Po"))
    assert not replace_each_other(Element("Zn"), Element("Cl"))


def test_mixing_keeps_the_composition_and_oxidation_states_do_not_count():
    structure = cube(["O", "O", "Sr", "Ba"])
    assert mixed(structure).composition.almost_equals(structure.composition)
    decorated = structure.copy()
    decorated.add_oxidation_state_by_element({"O": -2, "Sr": 2, "Ba": 2})
    assert same_when_mixed(structure, decorated)
    assert same_when_mixed(decorated, structure)
