"""Formulas are read as pymatgen reads them, and one composition has one reduced formula."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch, parse_formulas, read_formulas
from matmill.crystals.elements import SYMBOLS
from matmill.errors import InputError

PYMATGEN_KNOWS = SYMBOLS[1:104]

amounts = st.one_of(
    st.just(""),
    st.integers(1, 99).map(str),
    st.floats(0.0001, 90).map(lambda x: f"{x:.4f}"),
    st.integers(1, 9).map(lambda n: f".{n}"),
)
plain = st.lists(
    st.tuples(st.sampled_from(PYMATGEN_KNOWS), amounts).map("".join), min_size=1, max_size=5
).map("".join)
bracketed = st.tuples(plain, plain, amounts, plain, amounts).map(
    lambda parts: f"{parts[0]}({parts[1]}[{parts[3]}]{parts[2]}){parts[4]}"
)


def pymatgen_amounts(text: str) -> torch.Tensor:
    from pymatgen.core import Composition

    row = torch.zeros(119, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for element, amount in Composition(text).items():
            row[element.Z] = amount
    return row


@given(st.one_of(plain, bracketed))
def test_amounts_are_those_of_pymatgen(text: str) -> None:
    expected = pymatgen_amounts(text)
    if float(expected.sum()) == 0.0:  # all amounts rounded to 0.0000
        return
    torch.testing.assert_close(parse_formulas([text]).amounts[0], expected, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fe0.620C0.000953Mn0.000521", {"Fe": 0.62, "C": 0.000953, "Mn": 0.000521}),
        ("Ag0.5Ge1Pb1.75S4", {"Ag": 0.5, "Ge": 1.0, "Pb": 1.75, "S": 4.0}),
        ("(Li0.5Na0.5)2O", {"Li": 1.0, "Na": 1.0, "O": 1.0}),
        (
            "Zr41.2Ti13.8Cu12.5Ni10Be22.5",
            {"Zr": 41.2, "Ti": 13.8, "Cu": 12.5, "Ni": 10, "Be": 22.5},
        ),
        ("Cu2 Si1 O4", {"Cu": 2.0, "Si": 1.0, "O": 4.0}),
        ("Ag50Cu0Fe50", {"Ag": 50.0, "Fe": 50.0}),
        ("CuSO4·5H2O", {"Cu": 1.0, "S": 1.0, "O": 9.0, "H": 10.0}),
        ("{K[ON(SO3)2]}2", {"K": 2.0, "O": 14.0, "N": 2.0, "S": 4.0}),
        ("Fe1e-3Ni2.5e0", {"Fe": 0.001, "Ni": 2.5}),
        ("CFe2C", {"C": 2.0, "Fe": 2.0}),
    ],
)
def test_known_formulas(text: str, expected: dict[str, float]) -> None:
    row = parse_formulas([text]).amounts[0]
    found = {SYMBOLS[z]: float(row[z]) for z in torch.nonzero(row).flatten().tolist()}
    assert found == pytest.approx(expected)


@given(st.lists(plain, min_size=1, max_size=4), st.sampled_from([0.01, 0.1, 0.5, 2, 3, 10, 100]))
def test_reduced_formula_does_not_depend_on_the_scale(texts: list[str], factor: float) -> None:
    batch, _, _ = read_formulas(texts)
    scaled = CompositionBatch(amounts=batch.amounts * factor)
    assert scaled.formulas == batch.formulas


@given(st.lists(st.tuples(st.integers(1, 118), st.integers(1, 12)), min_size=1, max_size=5))
def test_whole_numbers_give_the_formula_of_crystals(elements: list[tuple[int, int]]) -> None:
    numbers = [z for z, n in elements for _ in range(n)]
    crystals = CrystalBatch.from_lists(
        [torch.eye(3).numpy() * 5], [torch.zeros(len(numbers), 3).numpy()], [numbers], ids=["a"]
    )
    batch = CompositionBatch.of(crystals)
    assert batch.formulas == crystals.formula
    assert batch.ids == ("a",)
    assert parse_formulas(crystals.formula).formulas == crystals.formula


@given(st.lists(plain, min_size=1, max_size=6))
def test_fractions_add_up_to_one(texts: list[str]) -> None:
    batch, rows, complaints = read_formulas(texts)
    torch.testing.assert_close(batch.fractions.sum(1), torch.ones(len(batch)).double())
    assert len(rows) + len(complaints) == len(texts)


def test_alloys_that_reduce_to_large_numbers_show_fractions() -> None:
    (formula,) = parse_formulas(["Fe0.620C0.000953Mn0.000521"]).formulas
    back = parse_formulas([formula])
    torch.testing.assert_close(
        back.fractions,
        parse_formulas(["Fe0.620C0.000953Mn0.000521"]).fractions,
        rtol=1e-5,
        atol=0.0,
    )
    assert parse_formulas(["Fe0.5Ni0.5", "Ni50Fe50", "FeNi"]).formulas == ("FeNi",) * 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Qq2O", "'Qq' is no element"),
        ("Fe(O2", "a bracket is not closed"),
        ("FeO)2", "a bracket closes that was never opened"),
        ("", "it names no element"),
        ("Fe0", "it names no element"),
        ("5H2O", "'5' is not expected there"),
        ("Fe-2O3", "'-' is not expected there"),
        ("·Fe", "a part before or after a dot is empty"),
        ("Fe1e999", "an amount is too large"),
        ("Mo52Fel4", "'l' is not expected there"),
    ],
)
def test_what_is_no_formula_is_refused_with_the_reason(text: str, part: str) -> None:
    with pytest.raises(InputError, match=r"Formula number 2") as caught:
        parse_formulas(["H2O", text])
    assert part in str(caught.value)
    assert "BaTiO3" in str(caught.value)


@given(st.text(max_size=30))
def test_no_text_whatever_breaks_the_reader(text: str) -> None:
    batch, _, complaints = read_formulas([text])
    assert len(batch) + len(complaints) == 1


def test_one_bad_formula_among_many_is_a_complaint_and_the_rest_is_read() -> None:
    texts: list[str | None] = ["Fe2O3"] * 10_000
    texts[41] = "Fe2Ox3"
    texts[77] = None
    batch, rows, complaints = read_formulas(texts, "list.csv")
    assert len(batch) == 9_998
    assert [complaint.row for complaint in complaints] == [42, 78]
    assert "'Ox' is no element" in complaints[0].reason
    assert 41 not in rows.tolist()


def test_select_keeps_ids_and_properties() -> None:
    batch = parse_formulas(["H2O", "NaCl", "Fe"]).with_ids(["a", "b", "c"])
    batch = batch.with_properties(gap=torch.tensor([1.0, 2.0, 3.0]))
    part = batch.select(torch.tensor([True, False, True]))
    assert part.ids == ("a", "c")
    assert part.properties["gap"].tolist() == [1.0, 3.0]
    assert part.formulas == ("H2O", "Fe")
    assert len(CompositionBatch.empty()) == 0
    assert CompositionBatch.empty().formulas == ()


def test_impossible_amounts_are_refused() -> None:
    empty = torch.zeros(1, 119, dtype=torch.float64)
    for amounts in (empty, empty - 1, empty + torch.nan, torch.ones(2, 119).double()):
        with pytest.raises(InputError):
            CompositionBatch(amounts=amounts)
    with pytest.raises(InputError, match="119 columns"):
        CompositionBatch(amounts=torch.ones(2, 3).double())
