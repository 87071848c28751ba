"""SIGKILL of the driver and of its workers at random moments: the same table comes out."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wheel_tables import what_was_found

SCRIPT = Path(__file__).with_name("one_study.py")
N_KILLS = 20
LONGEST_S = 12.0  # between two kills


def start(folder):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def children(pid):
    """Process numbers of the workers of a driver."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def table_of(folder):
    return what_was_found(json.loads((folder / "table.json").read_text()))


@pytest.mark.slow
def test_twenty_kills_of_driver_and_workers_leave_the_same_table(tmp_path):
    whole = start(tmp_path / "whole")
    assert whole.wait(timeout=900) == 0
    expected = table_of(tmp_path / "whole")
    rng = random.Random(0)
    kills = {"driver": 0, "worker": 0}
    n_studies = 0
    while sum(kills.values()) < N_KILLS:
        n_studies += 1
        folder = tmp_path / f"killed-{n_studies}"
        process = start(folder)
        while process.poll() is None and sum(kills.values()) < N_KILLS:
            time.sleep(rng.uniform(0.5, LONGEST_S))
            workers = children(process.pid)
            if process.poll() is not None:
                break
            if workers and rng.random() < 0.5:
                os.kill(rng.choice(workers), signal.SIGKILL)
                kills["worker"] += 1
                continue
            process.kill()
            process.wait()
            kills["driver"] += 1
            process = start(folder)
        assert process.wait(timeout=900) == 0
        assert table_of(folder) == expected
    assert min(kills.values()) >= 3
