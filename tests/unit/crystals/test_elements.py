"""The table of elements against the libraries that it was made from."""

import math
import warnings

import pytest
import torch

from matmill.crystals.elements import (
    SYMBOLS,
    number,
    oxidation_states,
    table,
    table_names,
    unit,
)
from matmill.errors import UnknownNameError


def test_symbols_are_those_of_ase():
    from ase.data import chemical_symbols

    assert list(SYMBOLS) == chemical_symbols
    assert number("Ga") == 31


def test_numbers_agree_with_ase_and_pymatgen():
    from ase.data import atomic_masses_iupac2016, covalent_radii
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for z in range(1, 97):
            element = Element.from_Z(z)
            assert float(table("mass")[z]) == pytest.approx(atomic_masses_iupac2016[z], rel=1e-6)
            assert float(table("covalent_radius")[z]) == pytest.approx(covalent_radii[z])
            ours = float(table("electronegativity")[z])
            assert ours == pytest.approx(element.X, nan_ok=True)
            assert int(table("group")[z]) == element.group


def test_valence_electrons_fill_the_shells():
    names = [f"n_valence_{kind}" for kind in "spdf"]
    assert [float(table(name)[26]) for name in names] == [2, 0, 6, 0]  # Fe: 3d6 4s2
    assert [float(table(name)[31]) for name in names] == [2, 1, 10, 0]  # Ga: 3d10 4s2 4p1
    cores = torch.tensor(
        [max(n for n in (0, 2, 10, 18, 36, 54, 86) if n < z) for z in range(1, 105)]
    )
    total = sum(table(name)[1:105] for name in names)
    torch.testing.assert_close(total, (torch.arange(1, 105) - cores).double())


def test_columns_are_complete_and_have_units():
    assert unit("mass") == "amu"
    for name in table_names():
        values = table(name)
        assert values.shape == (119,)
        assert math.isnan(float(values[0]))


def test_a_returned_column_may_be_changed():
    table("mass")[1] = 0.0
    assert float(table("mass")[1]) == pytest.approx(1.008)


def test_oxidation_states_are_those_of_smact():
    import smact
    from smact.utils.oxidation import ICSD24OxStatesFilter

    frame = ICSD24OxStatesFilter().filter(consensus=3, commonality="low")
    theirs = dict(zip(frame["element"], frame["oxidation_state"], strict=True))
    for symbol in SYMBOLS[1:104]:
        expected = tuple(sorted(int(q) for q in theirs.get(symbol, "").split()))
        assert oxidation_states(symbol, "icsd24") == expected
        old = smact.Element(symbol).oxidation_states_smact14
        assert oxidation_states(symbol, "smact14") == tuple(sorted(old or ()))


@pytest.mark.parametrize("call", [lambda: number("Xx"), lambda: number("X")])
def test_unknown_elements_are_refused(call):
    with pytest.raises(UnknownNameError):
        call()


def test_unknown_tables_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'mass'"):
        table("mas")
    with pytest.raises(UnknownNameError, match="oxidation table"):
        oxidation_states("Fe", "icsd2024")
    with pytest.raises(UnknownNameError):
        unit("colour")
