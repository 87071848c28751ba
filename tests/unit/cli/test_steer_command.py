"""`matmill steer flywheel`: a file, options over it, one clear line where something is wrong."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from matmill.cli.main import app

TOML = """
target = "stiffness_gpa"
predictors = ["tiny"]
labeller = "own"
modes = ["supervised"]
n_runs = 2
controls = false

[filters]
copies = false
near = false

[generator]
family = "augment"

[more_predictors.tiny]
model = "cgcnn"
[more_predictors.tiny.settings]
n_members = 1
width = 8
hidden = 8
n_layers = 1
epochs = 2
calibration = "held-out"
"""


@pytest.fixture
def given(tmp_path):
    """A table of rock salts whose label follows from the cell, and a recipe."""
    from ase import Atoms
    from ase.io import write

    rng = np.random.default_rng(0)
    metals, others = ["Li", "Na", "K", "Rb", "Ag", "Cu"], ["F", "Cl", "Br", "I", "H", "N"]
    crystals = []
    for metal in metals:
        for other in others:
            for _ in range(2):
                a = 4.0 + 1.5 * rng.random()
                atoms = Atoms(metal + other, cell=[a] * 3, pbc=True)
                atoms.set_scaled_positions([[0] * 3, [0.5] * 3])
                atoms.info["stiffness_gpa"] = 3000.0 / a**3
                crystals.append(atoms)
    data, recipe = tmp_path / "salts.extxyz", tmp_path / "recipe.toml"
    write(data, crystals)
    recipe.write_text(TOML)
    return recipe, data


def run(*arguments):
    return CliRunner().invoke(app, ["steer", "flywheel", *map(str, arguments), "-q"])


def test_a_file_makes_a_study_and_options_go_over_it(given, tmp_path):
    recipe, data = given
    out = tmp_path / "study"
    done = run(recipe, "--data", data, "--runs", 1, "--mixing", "plain", "--workers", 1, "-o", out)
    assert done.exit_code == 0, done.output
    assert "MAE of stiffness_gpa" in done.output
    used = json.loads((out / "run.json").read_text())["settings"]
    assert (used["n_runs"], used["mixing"], used["label"]) == (1, "plain", "predictor")
    assert used["generator"] == {
        "family": "augment", "start": None, "settings": {}, "guidance": 1.5,
    }  # fmt: skip
    study = json.loads((out / "table.json").read_text())
    assert {s["arm"] for s in study["scores"]} == {
        "median of the labels", "real", "synthetic", "real + synthetic",
    }  # fmt: skip
    assert "real + synthetic" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "guess"], "'condition' or 'predictor'"),
        (["--labeller", "oracle"], "there is no predictor 'oracle'"),
        (["--generator", "flow-adapter", "--start", "nowhere"], "no weights 'nowhere'"),
        (["--target", "hardness"], "hardness"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, tmp_path, options, said):
    recipe, data = given
    done = run(recipe, "--data", data, "--workers", 1, "-o", tmp_path / "study", *options)
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output


def test_another_generator_does_not_inherit_what_a_file_says_of_its_own(given, tmp_path):
    recipe, data = given
    own = 'family = "concdvae"\nstart = "nowhere.safetensors"'
    recipe.write_text(TOML.replace('family = "augment"', own))
    common = (recipe, "--data", data, "--runs", 1, "--workers", 1, "-o", tmp_path / "study")
    done = run(*common, "--generator", "augment")
    assert done.exit_code == 0, done.output
    used = json.loads((tmp_path / "study" / "run.json").read_text())["settings"]
    assert (used["generator"]["family"], used["generator"]["start"]) == ("augment", None)
    # The family of the file, said or meant, keeps what the file says.
    recipe.write_text(TOML.replace('family = "augment"', 'start = "nowhere.safetensors"'))
    done = run(*common, "--generator", "concdvae")
    assert done.exit_code != 0
    assert "nowhere.safetensors" in done.output


def test_what_failed_is_tried_again_when_asked_for(given, tmp_path):
    from contextlib import closing

    from matmill.campaign.store import Store
    from matmill.campaign.tasks import ATTEMPTS, TaskBoard

    recipe, data = given
    recipe.write_text(TOML.replace("epochs = 2", "epochs = 0"))
    out = tmp_path / "study"

    def failed(*more):
        """What is printed, and how often failed fits were tried in all calls so far."""
        done = run(recipe, "--data", data, "--runs", 1, "--workers", 1, "-o", out, *more)
        keys = [row["key"] for row in rows(out / "flywheel.sqlite")]
        with closing(Store(out / "flywheel.sqlite")) as store:
            found = TaskBoard(store).results(keys).values()
        return done, {each.attempts for each in found if not each.is_done}

    done, attempts = failed()
    assert done.exit_code == 0, done.output
    assert "--retry-failed" in done.output
    assert attempts == {ATTEMPTS}
    assert failed()[1] == {ATTEMPTS}
    assert failed("--retry-failed")[1] == {2 * ATTEMPTS}


def rows(file):
    """The tasks of a store."""
    import sqlite3

    with sqlite3.connect(file) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT key FROM task").fetchall()


def test_data_and_target_are_asked_for(tmp_path):
    done = run("-o", tmp_path / "study")
    assert done.exit_code != 0
    assert "Give --data" in done.output
