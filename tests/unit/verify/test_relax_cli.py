"""``matmill relax`` from files to files."""

import json
import math

import pytest
import torch
from crystals_for_tests import perturbed, prototypes
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.files import read, write

pytestmark = pytest.mark.filterwarnings("ignore")


def test_files_in_files_out(tmp_path):
    rng = torch.Generator().manual_seed(0)
    good = perturbed(prototypes().select([3, 4]), step=0.05, strain=0.02, rng=rng)
    meeting = CrystalBatch.from_lists(
        [[[5, 0, 0], [0, 5, 0], [0, 0, 5]]], [[[0, 0, 0], [0.03, 0, 0]]], [[11, 17]], ids=["bad"]
    )
    write(concatenate([good, meeting]), tmp_path / "in.extxyz")
    out = tmp_path / "out.extxyz"
    result = CliRunner().invoke(
        app, ["relax", str(tmp_path / "in.extxyz"), "--out", str(out), "--json", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["status"] for row in rows] == ["converged", "converged", "atoms_too_close"]
    assert rows[0]["energy_drop_ev_per_atom"] > 0
    assert rows[0]["max_force_ev_per_a"] < 0.1
    assert abs(rows[0]["energy_above_hull_ev_per_atom"]) < 0.05  # copper is copper's ground state
    assert rows[2]["energy_ev_per_atom"] is None
    written = read(out).crystals
    assert len(written) == 3
    energies = written.properties["energy_above_hull_ev_per_atom"]
    assert float(energies[0]) == pytest.approx(rows[0]["energy_above_hull_ev_per_atom"], abs=1e-6)
    assert math.isnan(float(energies[2]))


def test_a_table_for_people_and_one_line_for_mistakes(tmp_path):
    write(prototypes().select([3]), tmp_path / "cu.vasp")
    shown = CliRunner().invoke(app, ["relax", str(tmp_path / "cu.vasp"), "--quiet"])
    assert shown.exit_code == 0
    assert "1 of 1 converged" in shown.stdout
    assert "chgnet-0.3.0" in shown.stdout
    wrong = CliRunner().invoke(app, ["relax", str(tmp_path / "missing.cif")])
    assert wrong.exit_code == 2
    assert "missing.cif" in wrong.output
