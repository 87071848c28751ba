"""The sheet as a whole, and ``matmill evaluate``."""

import json

import pytest
import torch
from crystals_for_tests import prototypes
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.files import write
from matmill.verify import evaluation
from matmill.verify.evaluation import evaluate
from matmill.verify.novelty import KnownIndex

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_number_of_a_known_set():
    meeting = CrystalBatch.from_lists(
        [[[5, 0, 0], [0, 5, 0], [0, 0, 5]]], [[[0, 0, 0], [0.03, 0, 0]]], [[11, 17]], ids=["bad"]
    )
    copies = prototypes().select([3, 3])
    batch = concatenate([copies, meeting])
    known = KnownIndex.load(structures=[])
    found = {m.name: m for m in evaluate(batch, reference=prototypes(), known=known, n_relax=3)}
    assert found["geometric validity (0.5 Å, self-images)"].numerator == 2
    assert found["uniqueness (0.2/0.3/5)"].numerator == 2
    assert found["novelty"].numerator <= 1  # copper is known
    assert found["relaxation converges"].numerator == 2
    assert found["relaxation converges"].denominator == 3
    assert found["energy above hull <= 0.1 eV/atom"].numerator == 2
    assert found["SUN: stable (<= 0), unique, novel"].numerator == 0
    assert found["density Wasserstein-1 (g/cm³)"].value > 0
    assert torch.isfinite(torch.tensor(found["RMSD in relaxation (Å)"].value))


def test_command_prints_a_table_or_json(tmp_path):
    path = tmp_path / "samples.extxyz"
    write(prototypes(), path)
    shown = CliRunner().invoke(app, ["evaluate", str(path), "--quiet"])
    assert shown.exit_code == 0, shown.output
    assert "9 of 9" in shown.stdout
    out = tmp_path / "sheet.json"
    result = CliRunner().invoke(
        app, ["evaluate", str(path), "--json", "--quiet", "--out", str(out)]
    )
    report = json.loads(result.stdout)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    assert report["protocol"]["name"] == "matmill-1"
    assert report["metrics"][0]["name"] == "readable"
    assert report["metrics"][0]["value"] == 1.0


def test_the_command_shows_failure_signatures(tmp_path):
    known, broken = tmp_path / "known.extxyz", tmp_path / "broken.extxyz"
    write(prototypes(), known)
    write(concatenate([prototypes().select([0])] * 20), broken)
    argv = ["evaluate", str(broken), "--reference", str(known), "--json"]
    result = CliRunner().invoke(app, argv)
    assert result.exit_code == 0, result.output
    found = {s["name"]: s["is_found"] for s in json.loads(result.stdout)["signatures"]}
    assert found["duplicated outputs"]
    assert found["collapse onto few prototypes"]
    assert not found["symmetry collapse to P1"]
    shown = CliRunner().invoke(app, argv[:-1]).stdout
    assert "FOUND" in shown
    assert "drop the repeats" in " ".join(shown.split())
    alone = CliRunner().invoke(app, ["evaluate", str(broken), "--json"])
    assert "signatures" not in json.loads(alone.stdout)
    one = tmp_path / "one.extxyz"
    write(prototypes().select([0]), one)
    assert evaluation.signatures_of_files([one], known) == []
