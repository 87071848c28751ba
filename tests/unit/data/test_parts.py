"""Parts of a table: those that it names, a validation part where it names none, else by formula."""

import pytest
import torch

from matmill.crystals.compositions import parse_formulas
from matmill.data.compositions import LabelledCompositions
from matmill.data.parts import check_target, divided, is_synthetic, rows_of, weights_of, with_parts
from matmill.errors import DataError

FORMULAS = [f"Fe{n}Ni" for n in range(1, 31) for _ in range(2)]


def table(values=None):
    values = torch.arange(60.0) if values is None else values
    batch = parse_formulas(FORMULAS).with_properties(y=values.double())
    return LabelledCompositions(compositions=batch, source="alloys.csv")


def test_parts_that_are_named_stay():
    named = with_parts(table(), ["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    assert divided(named, seed=3) is named
    assert [len(rows) for rows in rows_of(named).values()] == [40, 10, 10]


def test_rows_without_names_are_divided_by_formula():
    rows = rows_of(divided(table(), seed=1))
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(60))
    seen = [{FORMULAS[row] for row in part.tolist()} for part in rows.values()]
    assert all(seen)
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_a_missing_validation_part_comes_from_training_rows_only():
    named = with_parts(table(), ["train"] * 40 + ["test"] * 16 + [""] * 4)
    rows = rows_of(divided(named))
    assert torch.cat([rows["train"], rows["val"]]).sort().values.tolist() == list(range(40))
    assert rows["test"].tolist() == list(range(40, 56))
    trained, checked = ({FORMULAS[row] for row in rows[part]} for part in ("train", "val"))
    assert checked
    assert not trained & checked


def test_a_table_without_parts_is_all_training_rows():
    assert [len(rows) for rows in rows_of(table()).values()] == [60, 0, 0]


def test_bad_targets_are_told_before_training():
    few = torch.full((60,), torch.nan)
    few[:9] = torch.arange(9.0)
    with pytest.raises(DataError, match=r"Only 9 of 60 rows of alloys\.csv have a value of 'y'"):
        check_target(table(few), "y")
    with pytest.raises(DataError, match=r"The 60 values of 'y'.*all alike \(7\)"):
        check_target(table(torch.full((60,), 7.0)), "y")
    with pytest.raises(DataError, match=r"has 8 usable row\(s\); at least 10"):
        divided(table().select(range(8)))
    check_target(table(), "y")


def test_weights_are_one_on_average_and_bad_ones_are_named():
    assert bool((weights_of(table()) == 1).all())
    batch = parse_formulas(FORMULAS[:3]).with_properties(
        training_weight=torch.tensor([1.0, 3.0, 0.0]).double()
    )
    rows = LabelledCompositions(compositions=batch, source="alloys.csv")
    assert torch.allclose(weights_of(rows), torch.tensor([0.75, 2.25, 0.0]).double())
    for bad in (-1.0, torch.nan):
        batch = parse_formulas(FORMULAS[:2]).with_properties(
            training_weight=torch.tensor([1.0, bad]).double()
        )
        with pytest.raises(DataError, match=r"Row 2 of alloys\.csv has the training_weight"):
            weights_of(LabelledCompositions(compositions=batch, source="alloys.csv"))
    with pytest.raises(DataError, match="All weights"):
        weights_of(
            LabelledCompositions(
                compositions=parse_formulas(FORMULAS[:2]).with_properties(
                    training_weight=torch.zeros(2).double()
                )
            )
        )


def test_only_rows_that_say_so_are_synthetic():
    assert not is_synthetic(table()).any()
    notes = {"origin": ("synthetic", None, "real")}
    rows = LabelledCompositions(compositions=parse_formulas(FORMULAS[:3]), notes=notes)
    assert is_synthetic(rows).tolist() == [True, False, False]
