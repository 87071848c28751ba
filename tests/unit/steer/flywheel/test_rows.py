"""Rows of a run: no formula in two parts, hidden labels, tables that say who is who."""

import pytest
import torch
from wheel_tables import COLUMN, quick, salts

from matmill.data.parts import ORIGIN, SYNTHETIC, WEIGHT, rows_of
from matmill.errors import DataError
from matmill.steer.flywheel.rows import ExtraRows, prepared, run_rows, training_table


@pytest.fixture(scope="module")
def table():
    return prepared(salts(), COLUMN)


def formulas(table, rows):
    return {table.crystals.formula[row] for row in rows.tolist()}


@pytest.mark.parametrize("run", range(3))
def test_no_formula_is_in_two_parts_and_both_modes_share_them(table, run):
    full = run_rows(table, quick(), run, "supervised")
    few = run_rows(table, quick(), run, "semi-supervised")
    parts = [formulas(table, rows) for rows in (full.train, full.val, full.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert full.held_out_formulas == parts[1] | parts[2]
    assert torch.equal(full.train, few.train)
    assert torch.equal(full.test, few.test)
    assert torch.equal(full.labelled, full.train)
    assert len(few.labelled) == round(0.3 * len(full.train))
    assert set(few.labelled.tolist()) < set(few.train.tolist())


def test_fewer_labels_are_a_part_of_more(table):
    sizes = [
        run_rows(table, quick(max_labels=n), 0, "supervised").train.tolist() for n in (20, 40, 60)
    ]
    assert set(sizes[0]) < set(sizes[1]) < set(sizes[2])
    assert [len(rows) for rows in sizes] == [20, 40, 60]


def test_too_few_labels_are_told(table):
    with pytest.raises(DataError, match=r"Run 0 has 4 labelled"):
        run_rows(table, quick(labelled_share=0.05), 0, "semi-supervised")


def test_a_training_table_says_who_is_who(table):
    rows = run_rows(table, quick(), 0, "semi-supervised")
    made = rows.table.crystals.select(rows.test[:4])
    labels = torch.arange(4).double()
    found = training_table(rows, rows.labelled, ExtraRows(made, labels, torch.full((4,), 0.25)))
    parts = rows_of(found)
    assert len(parts["train"]) == len(rows.labelled) + 4
    assert len(parts["val"]) == len(rows.val)
    assert not len(parts["test"])
    assert found.notes[ORIGIN].count(SYNTHETIC) == 4
    assert found.column(COLUMN)[-4:].tolist() == labels.tolist()
    assert found.column(WEIGHT).tolist() == [1.0] * (len(found) - 4) + [0.25] * 4
    assert len(set(found.ids)) == len(found)
    plain = training_table(rows, rows.labelled, with_val=False)
    assert len(plain) == len(rows.labelled)
    assert WEIGHT not in plain.columns
    values = dict(zip(table.ids, table.column(COLUMN).tolist(), strict=True))
    shown = zip(plain.ids, plain.column(COLUMN).tolist(), strict=True)
    assert all(values[name] == value for name, value in shown)
