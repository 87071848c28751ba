import json
import os
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
        (["--workers", "many"], "--workers 'many' is unknown. Give a number of processes"),
        (["--workers", "ray://"], "--workers 'ray://' is unknown"),
        (["--budget", "relaxation=3"], "--budget 'relaxation=3' is not of the form name=number"),
        (["--store", "mysql://x/y"], "No store on mysql"),
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


def campaign(*arguments):
    return runner.invoke(app, ["campaign", *arguments], env=WIDE)


def test_a_run_on_a_server_is_found_by_its_folder(postgres):
    url = f"{postgres}&schema=cli_run"
    wish = ["-t", "band_gap = 3 eV", "-n", "2", "--store", url]
    first = design(*wish, "--out", "runs/a")
    assert first.exit_code == 0, first.output
    assert not Path("runs/a/campaign.sqlite").exists()
    assert json.loads(Path("runs/a/store.json").read_text())["url"].startswith("postgresql")
    shown = campaign("status", "runs/a", "--json")
    assert json.loads(shown.stdout)["state"] == "finished: enough"
    assert campaign("resume", "runs/a", "--quiet").exit_code == 0
    assert campaign("report", "runs/a").exit_code == 0
    assert campaign("export", "runs/a", "--out", "best.cif").exit_code == 0
    again = design(*wish, "--out", "runs/b")
    assert again.exit_code == 2
    assert "schema=cli_run has a run already" in again.stderr
    Path("runs/a/store.json").write_text("[]")
    assert "does not name a store. Give it with --store" in campaign("status", "runs/a").stderr
    assert campaign("status", "runs/a", "--store", url).exit_code == 0


def test_a_budget_stops_a_run_and_a_larger_one_goes_on():
    wish = ["-t", "band_gap = 3 eV", "--exclude", "As", "-n", "9", "--out", "runs/a", "--json"]
    stopped = json.loads(design(*wish, "--budget", "relaxations=6").stdout)
    assert stopped["stopped_because"] == "the budget of 6 relaxations is spent"
    record = json.loads(campaign("status", "runs/a", "--json").stdout)
    meters = {row["meter"]: row for row in record["budget"]}
    assert meters["relaxations"]["used"] <= 6
    assert meters["relaxations"]["left"] == 6 - meters["relaxations"]["used"]
    assert meters["proposals"]["limit"] is None
    assert meters["wall_seconds"]["used"] > 0
    assert "Budget" in campaign("status", "runs/a").stdout
    more = json.loads(campaign("resume", "runs/a", "--budget", "relaxations=90", "--json").stdout)
    assert more["stopped_because"] == "enough"
    assert len(more["delivered"]) == 9


def test_crystals_are_handed_out_and_answers_taken_in_at_the_next_resume():
    import pyarrow.parquet as pq

    design("-t", "band_gap = 3 eV", "--exclude", "As", "-n", "3", "--out", "runs/a")
    out = campaign(
        "handout", "runs/a", "--to", "lab", "--column", "band_gap_ev", "--name", "lab", "--json"
    )
    assert out.exit_code == 0, out.output
    record = json.loads(out.stdout)
    assert (record["n_new"], record["n_out"], record["n_refused"]) == (3, 3, 0)
    asked = ["handout", "runs/a", "--to", "lab", "--column", "band_gap_ev", "--name", "lab"]
    assert "Nothing is new there; 3 are out in lab." in campaign(*asked).stdout
    folder = Path("lab") / record["batch"]
    crystals = json.loads((folder / "manifest.json").read_text())["crystals"]
    rows = [f"{c['id']},{2.0 + i}" for i, c in enumerate(crystals[:2])]
    (folder / "results.csv").write_text("\n".join(["id,band_gap_ev", *rows, "other,1.0"]))
    os.utime(folder / "results.csv", (0, 0))  # written long ago
    resumed = campaign("resume", "runs/a", "--json")
    assert resumed.exit_code == 0, resumed.output
    warnings = json.loads(resumed.stdout)["warnings"]
    assert any("other is not a crystal of this batch" in line for line in warnings)
    assert any("lab answered 2 crystals" in line and "1 are still out" in line for line in warnings)
    table = pq.read_table("runs/a/candidates.parquet").to_pylist()
    measured = {row["measured_band_gap_ev"] for row in table} - {None}
    assert measured == {2.0, 3.0}
    assert "Handed out" in campaign("status", "runs/a").stdout
    wrong = campaign("handout", "runs/a", "--to", "lab", "--column", "band_gap_mev")
    assert wrong.exit_code == 2
    assert "The column band_gap_mev is new" in wrong.stderr
