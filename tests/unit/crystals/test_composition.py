"""Formulas against pymatgen's."""

from math import gcd

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import (
    anonymous_formulas,
    chemical_systems,
    element_counts,
    formula_of,
    parse_elements,
    parse_formula,
    reduced_formulas,
)
from matmill.crystals.elements import number
from matmill.errors import InputError

FORMULAS = [
    "TiO2",
    "Ca(OH)2",
    "O2",
    "N4",
    "Fe3O4",
    "LiFePO4",
    "H2",
    "He",
    "KrF2",
    "Cs3Bi2I9",
    "GaN",
]


def crystals(formulas):
    counts = [parse_formula(text) for text in formulas]
    numbers = [[number(s) for s, n in c.items() for _ in range(n)] for c in counts]
    return CrystalBatch.from_lists(
        [torch.eye(3).mul(5).tolist() for _ in counts],
        [torch.rand(len(z), 3, generator=torch.Generator().manual_seed(0)) for z in numbers],
        numbers,
    )


def plain(composition):
    """Reduced formula in pymatgen's order, without its brackets and exceptions."""
    counts = {e.symbol: int(n) for e, n in composition.items()}
    divisor = gcd(*counts.values())
    order = sorted(composition)  # elements sort by electronegativity
    return "".join(f"{e}{n if (n := counts[e.symbol] // divisor) > 1 else ''}" for e in order)


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
def test_formulas_agree_with_pymatgen():
    from pymatgen.core import Composition

    batch = crystals(FORMULAS)
    theirs = [Composition(text) for text in FORMULAS]
    assert reduced_formulas(batch) == tuple(plain(c) for c in theirs)
    assert batch.formula == reduced_formulas(batch)
    assert anonymous_formulas(batch) == tuple(c.anonymized_formula for c in theirs)
    assert chemical_systems(batch) == tuple(c.chemical_system for c in theirs)


def test_formulas_of_real_crystals_agree_with_the_table(shared_data):
    import pyarrow.parquet as pq

    from matmill.crystals.files import read

    path = shared_data / "mp_20.parquet"
    batch = read(path).crystals
    theirs = pq.read_table(path, columns=["formula"])["formula"].to_pylist()
    assert list(reduced_formulas(batch)) == theirs


def test_element_counts():
    counts = element_counts(crystals(["TiO2", "GaN"]))
    assert counts.shape == (2, 119)
    assert counts[0, 22] == 1
    assert counts[0, 8] == 2
    assert counts.sum(1).tolist() == [3, 2]
    assert element_counts(CrystalBatch.empty()).shape == (0, 119)


def test_masked_atoms_are_written_x():
    batch = CrystalBatch.from_lists([torch.eye(3).tolist()], [[[0, 0, 0], [0.5, 0, 0]]], [[0, 8]])
    assert set(reduced_formulas(batch)[0]) == {"X", "O"}


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
@pytest.mark.parametrize("text", FORMULAS)
def test_parsed_formulas_agree_with_pymatgen(text):
    from pymatgen.core import Composition

    theirs = {str(e): int(n) for e, n in Composition(text).items()}
    assert parse_formula(text) == theirs
    assert formula_of(theirs) == plain(Composition(text))


def test_nested_brackets_and_repeats():
    assert parse_formula("Al2(SO4)3") == {"Al": 2, "S": 3, "O": 12}
    assert parse_formula("K4(Fe(CN)6)") == {"K": 4, "Fe": 1, "C": 6, "N": 6}
    assert parse_formula("CH3 CH3") == {"C": 2, "H": 6}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "at least one"),
        ("tio2", "not expected"),
        ("Xx2", "no element"),
        ("Fe0.5O", "whole numbers"),
        ("Ca(OH", "not closed"),
        ("CaOH)2", "never opened"),
        ("Fe0O", "at least once"),
        ("Fe-O", "not expected"),
    ],
)
def test_broken_formulas_say_why(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_formula(text)


def test_element_lists():
    assert parse_elements("O, Ga,N") == ("Ga", "N", "O")
    assert parse_elements("Ga-N-O") == ("Ga", "N", "O")
    with pytest.raises(InputError, match="'Q'"):
        parse_elements("Ga,Q")
    with pytest.raises(InputError, match="no element"):
        parse_elements(" ")
