import json
import math
import os
import signal
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matmill.campaign.store import Store
from matmill.campaign.tasks import TaskBoard, task_key
from matmill.campaign.workers import InlineWorkers, LocalWorkers
from matmill.errors import InputError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
tasks = import_module("campaign_tasks")
kills = import_module("task_kills")


@pytest.fixture
def store(store_url):
    with closing(Store(store_url)) as opened:
        yield opened


class Counted:
    """Counts its calls here, in this process."""

    def __init__(self, answer):
        self.calls = []
        self.answer = answer

    def __call__(self, item):
        self.calls.append(item)
        return self.answer(item, self.calls.count(item))


def run(store, items, function, *, retry_failed=False, **kwargs):
    board = TaskBoard(store, attempts=3, retry_failed=retry_failed)
    return board.run("square", items, function, InlineWorkers(), **kwargs)


def test_results_come_in_order_and_are_computed_once(store):
    events = []
    square = Counted(lambda x, _: {"square": x * x, "parts": (x, math.nan)})
    first = run(store, [3, 1, 3, 2], square, on_event=events.append)
    assert [r.result["square"] for r in first] == [9, 1, 9, 4]
    assert square.calls == [3, 1, 2]
    assert math.isnan(first[0].result["parts"][1])
    assert (events[0].done, events[-1].done, events[-1].total) == (0, 3, 3)
    again = run(store, [2, 4, 1], square)
    assert [r.result["square"] for r in again] == [4, 16, 1]
    assert square.calls == [3, 1, 2, 4]
    assert json.dumps(again[2].result) == json.dumps(first[1].result)
    assert TaskBoard(store).counts() == {"square": {"done": 4}}


def test_progress_names_the_work_and_not_its_recipe(store):
    events = []
    board = TaskBoard(store)
    board.run("fit trees 2", [1], Counted(lambda x, _: x), InlineWorkers(), events.append)
    assert {event.stage for event in events} == {"fit trees"}
    assert TaskBoard(store).counts() == {"fit trees 2": {"done": 1}}


def test_failures_are_kept_and_tried_again_so_often(store):
    def answer(x, call):
        if x == "never" or (x == "second" and call == 1):
            raise ValueError(f"no luck {call}")
        return object() if x == "odd" else x

    function = Counted(answer)
    never, second, odd, fine = run(store, ["never", "second", "odd", "fine"], function)
    assert (never.error, never.attempts, never.is_done) == ("ValueError: no luck 3", 3, False)
    assert (second.result, second.attempts, second.error) == ("second", 2, None)
    assert odd.error.startswith("The result cannot be kept as JSON: ")
    assert fine.result == "fine"
    n = len(function.calls)
    assert [r.is_done for r in run(store, ["never", "second"], function)] == [False, True]
    assert len(function.calls) == n
    (again,) = run(store, ["never"], function, retry_failed=True)
    assert (again.error, again.attempts) == ("ValueError: no luck 6", 6)
    assert TaskBoard(store).counts() == {"square": {"done": 2, "failed": 2}}


def test_a_board_retries_what_had_failed_once_however_often_it_is_asked(store):
    function = Counted(lambda x, _: 1 // x)
    run(store, [0], function)
    board = TaskBoard(store, attempts=3, retry_failed=True)
    for _ in range(2):
        (found,) = board.run("square", [0], function, InlineWorkers())
        assert (found.is_done, found.attempts) == (False, 6)


def test_inputs_need_not_be_json(store):
    function = Counted(lambda x, _: sorted(x))
    (found,) = run(store, ["ab"], function, inputs=[{"b", "a"}])
    assert found.result == ["a", "b"]
    with pytest.raises(InputError, match="square is not made of JSON values"):
        run(store, [{"a"}], function)


def test_the_first_result_of_two_drivers_stays(store):
    def slow(item):
        other = TaskBoard(store).run("square", [item], lambda _: "first", InlineWorkers())
        assert other[0].result == "first"
        return "second"

    (found,) = run(store, [1], slow)
    assert (found.result, found.attempts) == ("first", 1)


@given(
    st.dictionaries(st.text(max_size=4), st.one_of(st.integers(), st.text(), st.floats(-1, 1))),
    st.text(max_size=3),
)
def test_keys_follow_content_alone(item, kind):
    turned = dict(reversed(list(item.items())))
    assert task_key(kind, item) == task_key(kind, turned)
    assert task_key(kind, item) != task_key(kind + "x", item)
    assert task_key(kind, item) != task_key(kind, [item])


def test_killed_drivers_lose_and_double_nothing(store, store_url, tmp_path):
    """Killed after each of several results; every task is run once and stored once."""
    log = tmp_path / "log"
    command = [sys.executable, str(HERE / "task_kills.py"), store_url, str(log), "2", "4", "3"]
    assert json.loads(subprocess.check_output(command)) == [-signal.SIGKILL] * 3
    n = kills.N_TASKS
    assert TaskBoard(store).counts()["logged"]["done"] < n
    found = kills.run(store, log)
    assert [r.result for r in found] == [i * i for i in range(n)]
    assert {r.attempts for r in found} == {1}
    assert sorted(map(int, log.read_text().split())) == list(range(n))
    assert TaskBoard(store).counts() == {"logged": {"done": n}}


def test_in_worker_processes(store, tmp_path):
    workers = LocalWorkers(2)
    items = [[str(tmp_path / str(i)), i] for i in range(4)]
    found = TaskBoard(store, attempts=1).run("die", items, tasks.die_once, workers)
    workers.close()
    assert [(r.result, r.attempts) for r in found] == [(i, 1) for i in range(4)]
    assert os.listdir(tmp_path)
