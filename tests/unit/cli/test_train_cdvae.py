"""`matmill train generator --family concdvae`: from a table to crystals, and clear refusals."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from matmill.cli.main import app

TOML = """
batch_size = 16
prior_batch_size = 32
max_atoms = 4
[size]
encoder_width = 16
encoder_heads = 2
encoder_blocks = 1
decoder_width = 16
decoder_heads = 2
decoder_blocks = 1
latent = 8
condition = 8
prior = [16, 16, 16]
[fit]
max_steps = 4
precision = "fp32"
[prior_fit]
max_steps = 4
"""


def run(*arguments):
    return CliRunner().invoke(app, ["train", "generator", *map(str, arguments), "-q"])


@pytest.fixture
def table(tmp_path):
    from ase import Atoms
    from ase.io import write

    rng = np.random.default_rng(0)
    crystals = []
    for i in range(12):
        a = 4.0 + 0.2 * rng.random()
        atoms = Atoms("NaCl", cell=[a] * 3, scaled_positions=[[0] * 3, [0.5] * 3], pbc=True)
        atoms.info["hardness"] = float(i)
        crystals.append(atoms)
    file = tmp_path / "salts.extxyz"
    write(file, crystals)
    return file


def recipe(tmp_path, table, *lines):
    file = tmp_path / "recipe.toml"
    file.write_text(f'data = "{table}"\n' + "\n".join(lines) + TOML)
    return file


def test_a_table_makes_a_generator_that_others_can_start_from(tmp_path, table):
    first = tmp_path / "first"
    file = recipe(tmp_path, table, 'conditions = ["hardness"]')
    done = run(file, "--family", "concdvae", "--out", first, "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["prior_steps"], summary["crystals"]) == (4, 4, 12)
    assert summary["conditions"]["hardness"]["high"] > 10

    made = ["generate", "--model", str(first / "generator.safetensors"), "-n", "2", "--steps", "3"]
    shown = CliRunner().invoke(app, [*made, "--json", "-q"])
    assert shown.exit_code == 0, shown.output

    again = [file, "--family", "concdvae", "--from", first / "generator.safetensors"]
    done = run(*again, "--out", tmp_path / "second", "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "gan"], "No family of generators called 'gan'"),
        (["--family", "concdvae"], "needs --condition COLUMN"),
        (["--family", "cdvae", "-c", "hardness"], "cdvae has no conditions"),
        (["--family", "concdvae", "-c", "hardness", "--size", "S"], "--size and --tokens are of"),
        (["-c", "hardness"], "--condition is of --family concdvae"),
        (["--family", "concdvae", "-c", "softness"], "no column 'softness' to condition on"),
    ],
)
def test_each_mistake_is_one_line(tmp_path, table, arguments, message):
    done = run(table, *arguments, "--out", tmp_path / "out", "--steps", 1, "--device", "cpu")
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
