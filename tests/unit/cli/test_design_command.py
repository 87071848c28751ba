import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from matmill.campaign import parts as campaign_parts
from matmill.cli.main import app

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))
fakes = import_module("campaign_fakes")
runner = CliRunner()
WIDE = {"COLUMNS": "220"}


@pytest.fixture(autouse=True)
def cheap(monkeypatch, tmp_path):
    monkeypatch.setattr(campaign_parts, "load_parts", lambda request, device: fakes.parts())  # noqa: ARG005
    monkeypatch.chdir(tmp_path)


def design(*arguments):
    return runner.invoke(app, ["design", *arguments], env=WIDE)


def test_the_main_job():
    result = design("-t", "band_gap = 3 eV", "--exclude", "As", "-n", "4", "--out", "runs/a")
    assert result.exit_code == 0, result.output
    assert "Delivered crystals" in result.stdout
    assert "chosen for relaxation" in result.stdout
    assert "±" in result.stdout
    assert "relax: " in result.stderr
    assert len(list(Path("runs/a/cif").iterdir())) == 4

    again = design("-t", "band_gap = 3 eV", "--exclude", "As", "-n", "4", "--out", "runs/a")
    assert again.exit_code == 2
    assert again.stderr.strip().splitlines()[-1].startswith("Error: runs/a has a run already.")

    status = runner.invoke(app, ["campaign", "status", "runs/a", "--json"])
    assert json.loads(status.stdout)["state"] == "finished: enough"
    assert json.loads(status.stdout)["qualified"] == 4
    shown = runner.invoke(app, ["campaign", "status", "runs/a"], env=WIDE)
    assert "4 of 4 crystals qualify" in shown.stdout

    before = Path("runs/a/report.html").read_text()
    Path("runs/a/report.html").unlink()
    assert runner.invoke(app, ["campaign", "report", "runs/a"]).exit_code == 0
    assert Path("runs/a/report.html").read_text() == before

    one = runner.invoke(app, ["campaign", "export", "runs/a", "--out", "best.extxyz"])
    assert one.exit_code == 0, one.output
    assert Path("best.extxyz").stat().st_size > 0
    all_files = runner.invoke(app, ["campaign", "export", "runs/a", "--out", "copy"])
    assert all_files.exit_code == 0, all_files.output
    assert len(list(Path("copy/cif").iterdir())) == 4

    resumed = runner.invoke(app, ["campaign", "resume", "runs/a", "--json"])
    assert resumed.exit_code == 0, resumed.output
    assert len(json.loads(resumed.stdout)["delivered"]) == 4


def test_json_and_quiet_keep_standard_output_clean():
    result = design("-n", "2", "--json", "--seed", "3")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["folder"] == "runs/design-1"
    assert [row["rank"] for row in record["delivered"]] == [1, 2]
    assert result.stderr == ""
    assert json.loads(design("-n", "2", "--json").stdout)["folder"] == "runs/design-2"


def test_a_dry_run_starts_nothing():
    result = design("-t", "band_gap = 9", "--dry-run", "--out", "runs/a")
    assert result.exit_code == 0, result.output
    assert "nothing was started" in result.stdout
    assert "outside 0 to 8 eV" in result.stdout
    assert not Path("runs").exists()
    plan = json.loads(design("--dry-run", "--json").stdout)
    assert plan["request"]["n"] == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-t", "bandgap = 2"], "No property called 'bandgap'. Did you mean 'band_gap'?"),
        (["-t", "band_gap = 2 GPa"], "'GPa' is not a unit of band_gap. Allowed: eV"),
        (["-t", "band_gap > 3", "-t", "band_gap < 2"], "contradict each other"),
        (["--elements", "Ga,N", "--exclude", "N"], "both in --elements and in --exclude"),
        (["--elements", "Ga,Pb"], "has no entry for Pb"),
        (["--n-atoms", "9-2"], "--n-atoms '9-2' is empty"),
        (["--resume"], "--resume needs --out"),
        (["--predictor", "band_gap"], "not of the form property=path"),
        (["--plan", "nowhere.toml"], "Cannot read settings nowhere.toml"),
    ],
)
def test_mistakes_are_one_line(arguments, says):
    result = design(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    *before, last = result.stderr.strip().splitlines()
    assert last.startswith("Error: ")
    assert says in last
    assert before in ([], ["load: 0, models and tables"])
    assert not Path("runs").exists()


def test_settings_come_from_a_plan_file():
    Path("plan.toml").write_text("max_rounds = 1\nrelaxations_per_wanted = 1.0\n")
    plan = json.loads(design("--plan", "plan.toml", "--dry-run", "--json").stdout)
    assert plan["settings"]["max_rounds"] == 1
    Path("plan.toml").write_text("max_round = 1\n")
    told = design("--plan", "plan.toml").stderr
    assert "no key called 'max_round'. Did you mean 'max_rounds'?" in told


def test_ctrl_c_says_how_to_go_on(monkeypatch):
    from matmill.steer import design as driver

    def interrupted(job):
        assert job.request.n == 20
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "run_rounds", interrupted)
    result = design("--out", "runs/b")
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1] == (
        "Interrupted. Continue with: matmill campaign resume runs/b"
    )
    monkeypatch.undo()


def test_status_of_nothing():
    result = runner.invoke(app, ["campaign", "status", "runs/none"])
    assert result.exit_code == 2
    assert "has no run" in result.stderr
