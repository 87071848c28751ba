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
    first = rows[0]
    assert first["converged"] is True
    assert (first["potential_name"], first["energy_scheme"]) == (
        "chgnet-0.3.0",
        "mp2020-corrected",
    )
    fallen = first["start_energy_ev_per_atom"] - first["energy_ev_per_atom"]
    assert fallen == pytest.approx(first["energy_drop_ev_per_atom"])
    assert first["max_cell_force_ev"] <= first["max_force_ev_per_a"]
    assert len(first["stress_gpa"]) == 6
    assert 0.0 < first["rmsd_a"] < 0.2
    assert rows[2]["rmsd_a"] is None
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


def test_other_potentials_have_no_place_above_this_hull(tmp_path):
    pytest.importorskip("sevenn", reason="needs the extra sevenn")
    write(prototypes().select([3]), tmp_path / "cu.vasp")
    result = CliRunner().invoke(
        app,
        ["relax", str(tmp_path / "cu.vasp"), "--potential", "sevennet", "--json", "--quiet"],
    )
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["converged"] is True
    assert (row["energy_scheme"], row["hull_name"]) == ("mp-raw", "")
    assert row["energy_above_hull_ev_per_atom"] is None


def test_wrong_potentials_and_optimizers_are_one_line(tmp_path):
    write(prototypes().select([3]), tmp_path / "cu.vasp")
    for options, words in [
        (["--potential", "chgnett"], "Did you mean 'chgnet'"),
        (["--potential", "nowhere:it"], "leads nowhere"),
        (["--optimizer", "bfgs"], "Use lbfgs or fire"),
        (["--weights", str(tmp_path / "cu.vasp")], "takes no file of weights"),
    ]:
        result = CliRunner().invoke(app, ["relax", str(tmp_path / "cu.vasp"), *options])
        assert result.exit_code == 2
        assert words in result.output.replace("\n", " ")


def test_a_useless_crystal_is_given_up(tmp_path):
    wurtzite = prototypes().select([5])
    odd = CrystalBatch(
        lattice=wurtzite.lattice * 1.1,
        frac_coords=wurtzite.frac_coords,
        atomic_numbers=torch.tensor([8, 8, 8, 30]),  # as no compound of zinc and oxygen is
        n_atoms=wurtzite.n_atoms,
    )
    write(odd, tmp_path / "odd.extxyz")
    rows = []
    for options in ([], ["--give-up", "0.05"]):
        command = ["relax", str(tmp_path / "odd.extxyz"), *options, "--json", "--quiet"]
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0, shown.output
        rows += json.loads(shown.stdout)
    assert rows[0]["status"] != "hopeless"
    assert rows[1]["status"] == "hopeless"
    assert rows[1]["steps"] < rows[0]["steps"]
    assert rows[1]["energy_above_hull_ev_per_atom"] > 0.05
