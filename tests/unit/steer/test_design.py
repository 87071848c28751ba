import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest

from matmill.campaign.plan import CampaignSettings
from matmill.campaign.request import make_request
from matmill.campaign.store import Store
from matmill.campaign.workers import InlineWorkers
from matmill.crystals import files
from matmill.errors import InputError, StoreError
from matmill.progress import ignore
from matmill.steer.design import design, finish, open_run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "campaign"))
sys.path.insert(0, str(HERE))
fakes = import_module("campaign_fakes")


def run(folder, *, resume=False, settings=None, on_event=ignore, changes=None, **request):
    given = {"targets": ["band_gap = 3 eV"], "n": 6, "seed": 2, **request}
    return design(
        make_request(**given),
        settings or CampaignSettings(proposals_per_wanted=3, relaxations_per_wanted=1.5),
        folder=folder,
        parts=fakes.parts(**(changes or {})),
        workers=InlineWorkers(),
        resume=resume,
        on_event=on_event,
    )


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    return run(tmp_path_factory.mktemp("design") / "run")


def test_n_means_n_delivered(summary):
    assert len(summary.results.crystals) == 6
    assert summary.results.n_filled == 0
    assert summary.stopped_because == "enough"
    scores = [row["score"] for row in summary.results.rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row["energy_above_hull_ev_per_atom"] <= 0.1 for row in summary.results.rows)


def test_the_files_open_again(summary):
    import pyarrow.parquet as pq

    rows = pq.read_table(summary.folder / "candidates.parquet").to_pylist()
    assert len(rows) == summary.results.funnel["proposed"]
    assert sum(row["rank"] is not None for row in rows) == 6
    assert all(row["reason"] for row in rows if row["fate"] != "passed")
    everything = files.read(summary.folder / "candidates.parquet")
    broken = [row for row in rows if row["fate"] == "cell_impossible"]
    assert len(everything.crystals) >= len(rows) - len(broken)
    names = sorted(path.stem for path in (summary.folder / "cif").glob("*.cif"))
    assert names == sorted(summary.results.crystals.ids)
    cifs = files.read(sorted((summary.folder / "cif").glob("*.cif")))
    assert cifs.crystals.formula == summary.results.crystals.formula
    extxyz = files.read(summary.folder / "candidates.extxyz").crystals
    assert extxyz.hashes == summary.results.crystals.hashes


def test_the_record_says_what_made_it(summary):
    record = json.loads((summary.folder / "run.json").read_text())
    assert record["inputs"]["hull"] == {"name": "fake-hull", "hash": "fake-hull-1"}
    assert record["seed"] == 2
    assert record["request"]["targets"] == ["band_gap = 3 eV"]
    assert set(record["seconds"]) >= {"propose", "screen", "relax", "hull", "novelty", "predict"}
    assert sum(record["fates"].values()) == record["funnel"]["proposed"]


def test_the_report_stands_alone(summary):
    page = (summary.folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script src" not in page
    assert "<link" not in page
    for row in summary.results.rows:
        assert f">{row['formula']}<" in page
    for step, count in summary.results.funnel.items():
        assert step in page
        assert f">{count:,}</text>" in page
    assert "class CrystalView" in page


def test_a_user_text_cannot_break_the_report(tmp_path):
    from matmill.crystals.viewing import script

    assert "</script>" not in script({"name": "</script><script>alert(1)</script>"})
    assert json.loads(script({"a": "</b>"})) == {"a": "</b>"}
    assert not list(tmp_path.iterdir())


def test_the_rest_fills_up_and_says_so(tmp_path):
    settings = CampaignSettings(max_rounds=1, proposals_per_wanted=8, relaxations_per_wanted=4)
    done = run(
        tmp_path / "a",
        settings=settings,
        hull_threshold_ev_per_atom=0.01,
        elements="Ga,In,As,Se,Te",
    )
    assert len(done.results.crystals) == 6
    assert done.results.n_filled > 0
    assert done.results.rows[-1]["is_filled"]
    assert not done.results.rows[0]["is_filled"] or done.results.n_filled == 6
    assert any("best of the rest" in warning for warning in done.warnings)


def test_too_few_is_said(tmp_path):
    done = run(tmp_path / "a", elements="Ga", n=9, targets=[])
    assert len(done.results.crystals) < 9
    assert any("could be delivered" in warning for warning in done.warnings)


def test_nothing_at_all_still_gives_files(tmp_path):
    done = run(tmp_path / "a", n_atoms=(3, 4), settings=CampaignSettings(max_rounds=1))
    assert len(done.results.crystals) == 0
    assert (done.folder / "report.html").exists()
    assert set(done.results.fates) == {"cell_impossible", "not_as_requested"}
    assert sum(done.results.fates.values()) == done.results.funnel["proposed"]


def test_a_run_is_not_overwritten_nor_mixed(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(StoreError, match="has a run already"):
        run(tmp_path / "a")
    with pytest.raises(StoreError, match=r"another request \(seed differ"):
        run(tmp_path / "a", resume=True, seed=3)
    with pytest.raises(StoreError, match=r"another model \(hull differ"):
        run(tmp_path / "a", resume=True, changes={"hull": OtherHull()})


def test_a_run_of_an_older_version_goes_on_though_settings_have_come_since(tmp_path):
    first = run(tmp_path / "a")
    with closing(Store(tmp_path / "a" / "campaign.sqlite")) as store:
        settings, request = store.setting("settings"), store.setting("request")
        del settings["keep_symmetry"], request["guidance"]
        store.set_settings(settings=settings, request=request)
    assert run(tmp_path / "a", resume=True).results.rows == first.results.rows


class OtherHull(fakes.FakeHull):
    hash = "fake-hull-2"


def test_an_impossible_request_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="no entry for Pb"):
        run(tmp_path / "a", elements="Ga,Pb")
    assert not (tmp_path / "a").exists()


def test_a_finished_run_can_be_resumed_and_opened(tmp_path):
    first = run(tmp_path / "a")
    again = run(tmp_path / "a", resume=True)
    assert again.results.rows == first.results.rows
    store, request, settings = open_run(tmp_path / "a")
    assert request.n == 6
    made = finish(store, tmp_path / "a", request, settings)
    store.close()
    assert made.results.rows == first.results.rows
    with pytest.raises(StoreError, match="has no run"):
        open_run(tmp_path)


def kills(folder, which):
    done = subprocess.run(
        [sys.executable, str(HERE / "design_kills.py"), str(folder), which],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.pop("n_rows") > 20
    assert len(report.pop("rounds")) > 1
    return report


def test_killed_at_every_stage_in_turn_gives_the_same_table(tmp_path):
    assert kills(tmp_path, "few") == {"same seed": True, "often": True}


@pytest.mark.slow
def test_killed_at_any_stage_gives_the_same_table(tmp_path):
    report = kills(tmp_path, "all")
    assert all(report.values()), report
    assert {name.split("-")[0] for name in report} >= {
        "propose",
        "screen",
        "shortlist",
        "relax",
        "hull",
        "novelty",
        "predict",
        "write",
    }


@pytest.mark.slow
def test_killed_with_its_worker_processes_gives_the_same_table(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "sys.path[:0] = sys.argv[3:]\n"
        "import campaign_fakes as fakes, design_kills as kills\n"
        "from matmill.campaign.workers import LocalWorkers\n"
        "from matmill.steer.design import design\n"
        "design(kills.REQUEST, kills.SETTINGS, folder=sys.argv[1],\n"
        "       resume=sys.argv[2] == 'resume',\n"
        "       parts=fakes.parts(make_potential=fakes.make_slow_potential),\n"
        "       workers=LocalWorkers(2))\n"
    )
    paths = [str(HERE), str(HERE.parent / "campaign")]

    def start(folder, how):
        return subprocess.Popen([sys.executable, str(script), str(folder), how, *paths])

    assert start(tmp_path / "whole", "new").wait() == 0
    killed = start(tmp_path / "killed", "new")
    store = tmp_path / "killed" / "campaign.sqlite"
    while killed.poll() is None and n_relaxed(store) < 3:
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert start(tmp_path / "killed", "resume").wait() == 0
    kills_script = import_module("design_kills")
    assert kills_script.table(tmp_path / "killed") == kills_script.table(tmp_path / "whole")


def n_relaxed(path):
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        try:
            query = "select count(*) from verdict where stage = 'relax'"
            return connection.execute(query).fetchone()[0]
        except sqlite3.OperationalError:  # the tables are being made
            return 0
