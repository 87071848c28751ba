import math

import pytest

from matmill.data.labels import parse_number, read_labels
from matmill.errors import DataError, UnknownNameError


def write(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_come_with_their_delimiter(tmp_path, delimiter):
    text = "\ufeffmaterial_id,gap,note\na,1.5,x\n\nb,,y\n".replace(",", delimiter)
    labels = read_labels(write(tmp_path, text))
    assert labels.id_column == "material_id"
    assert labels.ids == ("a", "b")
    values = labels.numbers("gap")
    assert values is not None
    assert values[0] == 1.5
    assert math.isnan(values[1])
    assert labels.numbers("note") is None


def test_a_file_without_header_is_cgcnns(tmp_path):
    labels = read_labels(write(tmp_path, "mp-1,0.5,7\nmp-2,1e-3,8\n", "id_prop.csv"))
    assert labels.columns["id"] == ("mp-1", "mp-2")
    assert labels.numbers("target") == [0.5, 0.001]
    assert labels.numbers("target_2") == [7.0, 8.0]


@pytest.mark.parametrize(
    ("cell", "value"), [("1.5", 1.5), ("-2e3", -2000.0), ("True", 1.0), ("false", 0.0)]
)
def test_numbers_and_flags(cell, value):
    assert parse_number(cell) == value


@pytest.mark.parametrize("cell", ["", " NaN ", "na", "None", "-"])
def test_empty_cells(cell):
    assert math.isnan(parse_number(cell) or 0.0)


def test_text_is_no_number():
    assert parse_number("1.5 eV") is None


def test_the_first_column_is_the_id_when_nothing_else_is(tmp_path):
    labels = read_labels(write(tmp_path, "crystal,gap\nb,1\na,2\n"))
    assert labels.ids == ("b", "a")
    labels = read_labels(write(tmp_path, "gap,code\n1,b\n2,a\n"), "code")
    assert labels.ids == ("b", "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("id,gap\na,1\nb,2,3\n", "do not have 2 cells: row 2"),
        ("id,gap,gap\na,1,2\n", "names a column twice"),
        ("id,gap\na,1\nb,2\na,3\n", r"a \(rows 1, 3\).*Give each row its own id"),
        ("id,gap\na,1\n,2\n", "have no id in 'id': row 2"),
    ],
)
def test_broken_files_are_explained(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path, text))


def test_a_missing_id_column_lists_those_that_exist(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'code'\? Known: code, gap"):
        read_labels(write(tmp_path, "code,gap\na,1\n"), "cod")


def test_a_target_must_be_numbers(tmp_path):
    labels = read_labels(write(tmp_path, "id,gap\na,1.5 eV\nb,2\nc,metal\n"))
    with pytest.raises(DataError, match=r"2 cell\(s\) that are not numbers: a: '1.5 eV', c:"):
        labels.check_target("gap")
    with pytest.raises(UnknownNameError, match="Known: id, gap"):
        labels.check_target("bulk_modulus")
