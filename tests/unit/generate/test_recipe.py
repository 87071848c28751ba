"""Recipes: TOML and flags in, checked settings out, and the command that follows them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.config import read_settings, write_settings
from matmill.crystals.formats import parquet
from matmill.errors import InputError
from matmill.generate.recipe import Recipe, make_recipe
from matmill.training import checkpoint

TINY = """
data = "{data}"
out = "{out}"
split = "train"
size = "tiny"
n_tokens = 60
[fit]
max_steps = {steps}
precision = "fp32"
accelerator = "cpu"
warmup_steps = 2
checkpoint_every_seconds = 0.0
log_every_steps = 1
validate_every_share = 0.5
[samples]
n_samples = 4
n_steps = 2
[flow]
coupling = "permutation"
"""


def recipe_file(folder: Path, data: Path, steps: int = 4) -> Path:
    file = folder / "config.toml"
    file.write_text(TINY.format(data=data, out=folder / "out", steps=steps))
    return file


@pytest.fixture
def data(crystals, space_groups, tmp_path):
    file = tmp_path / "crystals.parquet"
    parquet.write(crystals.with_properties(spacegroup=space_groups.double()), file)
    return file


def test_flags_win_over_the_file_and_the_rest_has_the_defaults(data, tmp_path):
    file = recipe_file(tmp_path, data)
    recipe = make_recipe(file, {"size": "S", "fit.max_steps": 9, "seed": None})
    assert recipe.size == "S"
    assert recipe.fit.max_steps == 9
    assert recipe.fit.max_seconds is None  # another limit was named
    assert recipe.fit.ema_decay == 0.9995  # of generators, not of any training
    assert recipe.flow.coupling == "permutation"
    assert make_recipe(None, {"data": "x.parquet"}).fit.max_seconds == 7200


def test_a_written_recipe_reads_back_equal(data, tmp_path):
    recipe = make_recipe(recipe_file(tmp_path, data), {"start_from": 'odd "name"\\ü.safetensors'})
    write_settings(tmp_path / "again.toml", recipe)
    assert read_settings(tmp_path / "again.toml", Recipe) == recipe


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("size_ = 'S'", "no key called 'size_'. Did you mean 'size'? Known: data, fit, flow,"),
        ("size = 'XL'", "size: No size called 'XL'. Known: tiny, S, M"),
        ("[fit]\nmax_stebs = 3", "no key called 'fit.max_stebs'. Did you mean 'max_steps'? Known:"),
        ("[flow]\ncoupling = 'ot'", "flow.coupling: Input should be 'none' or 'permutation'"),
        ("[flow]\ntask_shares = [0.9, 0.9, 0, 0]", "flow: task_shares sum to 1.8"),
        ("fit = 3", "fit: "),
    ],
)
def test_each_mistake_is_one_line_with_what_is_known(tmp_path, line, message):
    file = tmp_path / "bad.toml"
    file.write_text(f"data = 'x.parquet'\n{line}\n")
    with pytest.raises(InputError) as error:
        make_recipe(file, {})
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_without_data_or_with_a_broken_file_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("size = 'S'\n")
    with pytest.raises(InputError, match="names no data"):
        make_recipe(tmp_path / "a.toml", {})
    (tmp_path / "a.toml").write_text("size = \n")
    with pytest.raises(InputError, match="not valid TOML"):
        make_recipe(tmp_path / "a.toml", {})


def test_the_command_follows_a_recipe_and_a_folder_of_parquet(data, tmp_path):
    file = recipe_file(tmp_path, data)
    done = CliRunner().invoke(app, ["train", "generator", str(file), "--json", "-q"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["steps"] == 4
    assert summary["sample_score"] >= 0.0
    assert read_settings(Path(summary["recipe"]), Recipe).fit.max_steps == 4

    parts = tmp_path / "parts"
    parts.mkdir()
    data.rename(parts / "a.parquet")
    again = [str(parts), "--size", "tiny", "--steps", "2", "--tokens", "60", "-q", "--json"]
    again += ["--out", str(tmp_path / "sharded"), "--device", "cpu"]
    done = CliRunner().invoke(app, ["train", "generator", *again])
    assert done.exit_code == 0, done.output
    _, card = checkpoint.load(tmp_path / "sharded" / "generator")
    assert card["data"] == {"crystals_given": 6, "crystals_used": 6}
    assert card["sources"] == {"a.parquet": 6}


def command(file: Path) -> list[str]:
    program = Path(sys.executable).with_name("matmill")
    return [str(program), "train", "generator", str(file), "-q"]


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(data, tmp_path):
    results = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        file = recipe_file(folder, data, steps=40)
        if name == "killed":
            process = subprocess.Popen(command(file), stdin=subprocess.DEVNULL)
            log = folder / "out" / "log.csv"
            deadline = time.monotonic() + 240
            # Some rows are written: it is in the middle of it, a checkpoint a step.
            while time.monotonic() < deadline and process.poll() is None:
                if log.exists() and len(log.read_text().splitlines()) > 8:
                    break
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not (folder / "out" / "generator.safetensors").exists()
            _, card = checkpoint.load(folder / "out" / "last", recover=True)
            assert 0 < card["counters"]["step"] < 40
        subprocess.run(command(file), check=True, timeout=300)
        results.append(checkpoint.load(folder / "out" / "generator")[0])
    assert all(torch.equal(results[0][name], t) for name, t in results[1].items())


@pytest.mark.slow
def test_two_processes_write_one_generator(data, tmp_path):
    file = recipe_file(tmp_path, data)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*command(file), "--devices", "2", "--json"]
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4  # one answer, not one of each process
    _, card = checkpoint.load(tmp_path / "out" / "generator")
    assert card["training"]["settings"]["fit"]["devices"] == 2
