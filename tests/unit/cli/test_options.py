import json

import pytest

from matmill.cli.options import parse_atom_range, pick_device
from matmill.cli.output import cell_text, print_json, print_table
from matmill.errors import InputError


def test_atom_range():
    assert parse_atom_range(None) is None
    assert parse_atom_range("8") == (8, 8)
    assert parse_atom_range(" 4-16") == (4, 16)


@pytest.mark.parametrize("text", ["", "four", "8-4", "0-3", "3-4-5"])
def test_bad_atom_range_is_named(text):
    with pytest.raises(InputError, match="--n-atoms"):
        parse_atom_range(text)


def test_device():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        pick_device("tpu")


def test_json_has_no_nan(capsys):
    print_json({"gap": float("nan"), "rows": [1.5, float("inf")]})
    assert json.loads(capsys.readouterr().out) == {"gap": None, "rows": [1.5, None]}


def test_table_is_not_cut_in_a_pipe(capsys):
    print_table(("formula", "note"), [("GaN", "x" * 120), ("InN", None)])
    out = capsys.readouterr().out
    assert "x" * 120 in out
    assert "–" in out


def test_cells():
    assert cell_text(float("nan")) == "–"
    assert cell_text(0.12345) == "0.123"
    assert cell_text(315.26) == "315.3"
