"""`matmill train predictor` from a sheet of formulas, and one clear line for each bad table."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from matmill.cli.main import app

ROCKSALT = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 60
_cell_angle_beta 60
_cell_angle_gamma 60
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na 0 0 0
Cl 0.5 0.5 0.5
"""


def sheet(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def alloys(path, n=80, values=None):
    """Write formulas of iron, nickel and chromium whose strength follows the nickel."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([2.0, 2.0, 2.0], size=n)
    values = 100 + 200 * shares[:, 1] if values is None else values
    rows = [
        (f"a{i}", f"Fe{x:.3f}Ni{y:.3f}Cr{z:.3f}", value)
        for i, ((x, y, z), value) in enumerate(zip(shares, values, strict=True))
    ]
    return sheet(path, [("id", "formula", "strength_mpa"), *rows])


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_formulas_in_scores_and_predictions_out(tmp_path):
    data, model = alloys(tmp_path / "alloys.csv"), tmp_path / "strength.safetensors"
    made = run(
        "train",
        "predictor",
        data,
        "-t",
        "strength",
        "--model",
        "boosted",
        "--out",
        model,
        "--quiet",
        "--json",
    )
    assert made.exit_code == 0, made.output
    answer = json.loads(made.stdout)
    assert answer["scores"]["strength_mpa"]["mae"] < 35.0  # always the median: 44
    told = run("predict", data, "--model", model, "--quiet", "--json")
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)["predictions"]
    assert [row["id"] for row in rows] == [f"a{i}" for i in range(80)]
    assert all(row["strength_mpa_low"] <= row["strength_mpa_high"] for row in rows)


def test_the_median_is_a_model_too(tmp_path):
    data, model = alloys(tmp_path / "alloys.csv"), tmp_path / "m.safetensors"
    made = run("train", "predictor", data, "-t", "strength", "--model", "median", "--out", model)
    assert made.exit_code == 0, made.output
    assert "matmill predict FILES --model" in made.stdout


@pytest.mark.parametrize("model", ["tabular", "roost", "auto"])
@pytest.mark.parametrize(
    ("values", "n", "says"),
    [
        ([5.0] * 40, 40, "alike"),
        ([1.0] * 40, 40, "alike"),
        ([1.0, 2.0, 3.0], 3, "3"),
        (["nan", *range(1, 40)], 40, "empty or not finite in 1 of 40"),
        (["often", *range(1, 40)], 40, "not numbers"),
    ],
    ids=["constant", "one class", "three rows", "NaN", "text"],
)
def test_a_bad_target_is_one_line_and_nothing_is_written(tmp_path, model, values, n, says):
    data = alloys(tmp_path / "alloys.csv", n, values)
    out = tmp_path / "out.safetensors"
    made = run(
        "train", "predictor", data, "-t", "strength_mpa", "--model", model, "--out", out, "-q"
    )
    assert made.exit_code == 2, made.output
    lines = made.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert says in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alloys.csv"]


def test_structures_that_do_not_fit_the_sheet_are_named(tmp_path):
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    for name in ("x1", "x2"):
        (cifs / f"{name}.cif").write_text(ROCKSALT.format(name=name, a=4.0), encoding="utf-8")
    data = sheet(tmp_path / "d.csv", [("id", "gap"), ("x1", 1), ("x2", 2), ("x3", 3)])
    made = run("train", "predictor", data, "--structures", cifs, "-t", "gap", "-q")
    assert made.exit_code == 2
    assert "x3.cif" in made.stderr
    data = sheet(tmp_path / "d.csv", [("id", "gap"), ("x1", 1), ("x1", 2)])
    made = run("train", "predictor", data, "--structures", cifs, "-t", "gap", "-q")
    assert made.exit_code == 2
    assert "x1" in made.stderr
    (cifs / "x2.cif").write_text("data_broken\n", encoding="utf-8")
    data = sheet(tmp_path / "d.csv", [("id", "gap"), ("x1", 1), ("x2", 2)])
    made = run("train", "predictor", data, "--structures", cifs, "-t", "gap", "-q")
    assert made.exit_code == 2
    assert "x2.cif" in made.stderr
    assert len(made.stderr.strip().splitlines()) == 1


def test_a_model_that_cannot_do_it_says_so(tmp_path):
    data = alloys(tmp_path / "alloys.csv")
    made = run("train", "predictor", data, "-t", "strength", "--model", "cgcnn", "-q")
    assert made.exit_code == 2
    assert "structures" in made.stderr
    made = run("train", "predictor", data, "-t", "strength", "--model", "tabular", "--from", "x")
    assert made.exit_code == 2
    assert "--model tabular cannot be trained with --from" in made.stderr
    made = run("train", "predictor", data, "-t", "strength", "--model", "cgcn")
    assert "Did you mean 'cgcnn'?" in made.stderr
