"""The main job with everything that ships: slow, and skipped while a part is missing."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib.resources import files

import pytest

ASSETS = files("matmill").joinpath("assets")
NEEDED = ("hull_chgnet.parquet", "known.parquet", "generators/flow.safetensors")
MISSING = [name for name in NEEDED if not ASSETS.joinpath(name).is_file()]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not trained or built yet: {MISSING}"),
]
COMMAND = [sys.executable, "-m", "matmill.cli.main", "design", "-t", "density < 7"]
COMMAND += ["--elements", "Ga,N,O", "--n-atoms", "2-6", "-n", "2", "--max-rounds", "2", "--quiet"]


def start(folder, *more):
    return subprocess.Popen([*COMMAND, "--out", str(folder), *more])


def table(folder):
    import pyarrow.parquet as pq

    return pq.read_table(folder / "candidates.parquet").to_pylist()


def n_done(path, stage):
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        try:
            query = "select count(*) from verdict where stage = ?"
            return connection.execute(query, (stage,)).fetchone()[0]
        except sqlite3.OperationalError:  # the tables are being made
            return 0


def test_killed_while_relaxing_gives_the_same_table(tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    run = start(tmp_path / "killed")
    store = tmp_path / "killed" / "campaign.sqlite"
    while run.poll() is None and not n_done(store, "shortlist"):
        time.sleep(0.05)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert start(tmp_path / "killed", "--resume").wait() == 0
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["n_delivered"] == 2
    assert all(record["inputs"][name]["hash"] for name in ("generator", "potential", "hull"))
