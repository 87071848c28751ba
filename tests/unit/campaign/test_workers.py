import ctypes
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from matmill.campaign.worker import give_back_memory, resident_gb
from matmill.campaign.workers import InlineWorkers, LocalWorkers
from matmill.errors import MatmillError, MissingExtraError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # worker processes import the tasks by name
tasks = import_module("campaign_tasks")


@pytest.fixture
def make():
    made = []

    def _make(*args, **kwargs):
        made.append(LocalWorkers(*args, **kwargs))
        return made[-1]

    yield _make
    for workers in made:
        workers.close()


def test_results_are_in_task_order(make):
    finished = []
    outcomes = make(2).map(
        tasks.slow_first, range(5), on_done=lambda i, outcome: finished.append((i, outcome.value))
    )
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert sorted(finished) == [(i, i) for i in range(5)]
    assert finished[-1] == (0, 0)  # the slow one came last, and yet is first in the list


def test_a_bad_task_costs_itself_only(make):
    workers = make(2, timeout_s=4.0, memory_gb=0.5)
    items = ["a", "raise", "die", "hang", "eat", "unsendable", "b", "c"]
    outcomes = dict(zip(items, workers.map(tasks.misbehave, items), strict=True))
    assert [outcomes[x].value for x in "abc"] == ["a", "b", "c"]
    assert outcomes["raise"].error == "ValueError: no such crystal"
    assert "exit code -9" in outcomes["die"].error
    assert outcomes["hang"].error == "took longer than 4 s"
    assert outcomes["eat"].error == "needed more than 0.5 GB of memory"
    assert "cannot be sent" in outcomes["unsendable"].error
    assert [x.value for x in workers.map(tasks.square, [3, 4])] == [9, 16]
    (short,) = workers.map(tasks.misbehave, ["hang"], timeout_s=0.5)
    assert short.error == "took longer than 0.5 s"


def test_a_function_that_loads_late_takes_no_clock_away(make):
    workers = make(1)
    workers.prepare(tasks.Loaded())
    (outcome,) = workers.map(tasks.misbehave, ["hang"], timeout_s=0.5)
    assert outcome.error == "took longer than 0.5 s"


def test_a_process_that_somebody_killed_costs_nothing(make, tmp_path):
    items = [(str(tmp_path / f"{i}"), i) for i in range(4)]
    outcomes = make(2).map(tasks.die_once, items)
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, 3]


def test_what_earlier_tasks_left_in_memory_is_not_the_fault_of_this_one(make):
    outcomes = make(1, memory_gb=0.5).map(tasks.leave_behind, range(5))
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, 3, 4]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_freed_memory_goes_back():
    blocks = [b"x" * 100_000 for _ in range(3000)]
    pinned = blocks[-1]  # what stands behind the holes keeps them, unless somebody asks
    del blocks
    before = resident_gb()
    give_back_memory()
    assert before - resident_gb() > 0.2
    assert len(pinned) == 100_000


def test_a_function_is_loaded_once_a_process(make):
    workers = make(2)
    workers.prepare(tasks.Loaded())
    first = workers.map(tasks.Loaded(), range(6))
    again = workers.map(tasks.Loaded(), range(6))
    assert {outcome.value[0] for outcome in [*first, *again]} == {1}
    assert len({outcome.value[1] for outcome in [*first, *again]}) <= 2


def test_what_cannot_be_loaded_is_an_error_of_the_run(make):
    with pytest.raises(MissingExtraError, match="pip install"):
        make(1).map(tasks.Loaded(fails=True), [1, 2])


def test_a_process_that_is_killed_while_it_loads_is_started_again(make, tmp_path):
    workers = make(1)
    outcomes = workers.map(tasks.DiesAtLoad(str(tmp_path / "a"), 2), [1, 2])
    assert [outcome.value for outcome in outcomes] == [1, 2]
    with pytest.raises(MatmillError, match=r"could not start: it ended its process \(exit code -9"):
        make(1).map(tasks.DiesAtLoad(str(tmp_path / "b"), 99), [1])
    assert (tmp_path / "b").read_text() == "xxx"


def test_one_thread_each(make):
    (outcome,) = make(1).map(tasks.threads, [None])
    assert outcome.value[:2] == (1, "1")


def test_nothing_to_do(make):
    assert make(2).map(tasks.square, []) == []


def test_inline_workers_keep_the_contract():
    outcomes = InlineWorkers().map(tasks.misbehave, ["a", "raise"])
    assert outcomes[0].value == "a"
    assert outcomes[1].error == "ValueError: no such crystal"


def test_a_script_without_main_guard_is_not_run_twice(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from matmill.campaign.workers import LocalWorkers\n"
        "import math, sys\n"
        "sys.stderr.write('started\\n')\n"
        "workers = LocalWorkers(2)\n"
        "sys.stdout.write(str([o.value for o in workers.map(math.sqrt, [4.0, 9.0])]))\n"
        "workers.close()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[2.0, 3.0]"
    assert done.stderr == "started\n"


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from matmill.campaign.workers import LocalWorkers\n"
        "import campaign_tasks as tasks\n"
        "import pathlib\n"
        "w = LocalWorkers(1)\n"
        "pid = w.map(tasks.threads, [0])[0].value[2]\n"
        "print(pid, flush=True)\n"
        "w.map(tasks.misbehave, ['hang'])\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script), str(HERE)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _is_alive(worker):
            break
        time.sleep(0.1)
    assert not _is_alive(worker)


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
