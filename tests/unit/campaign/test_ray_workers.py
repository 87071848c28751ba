import os
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from matmill.campaign.workers import Workers
from matmill.errors import InputError, MissingExtraError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # workers import the tasks by name
tasks = import_module("campaign_tasks")
# Ray leaves sockets and log files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def workers():
    pytest.importorskip("ray", reason="ray is not installed")
    from matmill.campaign.ray_workers import RayWorkers

    opened = RayWorkers(2, timeout_s=6.0, memory_gb=0.4)
    yield opened
    opened.close()


def test_a_local_cluster_keeps_the_contract(workers):
    assert isinstance(workers, Workers)
    finished = []
    outcomes = workers.map(
        tasks.slow_first, range(5), on_done=lambda i, outcome: finished.append((i, outcome.value))
    )
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert sorted(finished) == [(i, i) for i in range(5)]
    (outcome,) = workers.map(tasks.environment, [None])
    assert outcome.value == ["1", "1", "1", "1"]
    assert workers.map(tasks.square, []) == []


@pytest.mark.slow
def test_a_bad_task_costs_itself_only(workers, capfd):
    items = ["a", "raise", "die", "hang", "eat", "unsendable", "b", "c"]
    outcomes = dict(zip(items, workers.map(tasks.misbehave, items), strict=True))
    assert [outcomes[x].value for x in "abc"] == ["a", "b", "c"]
    assert outcomes["raise"].error == "ValueError: no such crystal"
    assert outcomes["die"].error.startswith("ended its process (Ray: ")
    assert outcomes["hang"].error == "took longer than 6 s"
    assert outcomes["eat"].error == "needed more than 0.4 GB of memory"
    assert "cannot be sent" in outcomes["unsendable"].error
    assert [x.value for x in workers.map(tasks.square, [3, 4])] == [9, 16]
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_crash_that_does_not_come_back_costs_nothing(workers, tmp_path):
    items = [(str(tmp_path / f"{i}"), i) for i in range(4)]
    outcomes = workers.map(tasks.die_once, items)
    assert [outcome.value for outcome in outcomes] == [0, 1, 2, 3]


@pytest.mark.slow
def test_what_earlier_tasks_left_in_memory_is_not_the_fault_of_this_one(workers):
    outcomes = workers.map(tasks.leave_behind, range(8))
    assert [outcome.value for outcome in outcomes] == [*range(8)]


@pytest.mark.slow
def test_a_function_is_loaded_once_an_actor(workers):
    workers.prepare(tasks.Loaded())
    first = workers.map(tasks.Loaded(), range(6))
    again = workers.map(tasks.Loaded(), range(6))
    assert {outcome.value[0] for outcome in [*first, *again]} == {1}
    assert len({outcome.value[1] for outcome in [*first, *again]}) <= 2
    workers.prepare(tasks.square)
    workers.prepare(tasks.Loaded())  # before the other has answered
    assert [o.value[2] for o in workers.map(tasks.Loaded(), range(3))] == [0, 1, 2]


@pytest.mark.slow
def test_what_cannot_be_loaded_is_an_error_of_the_run(workers):
    with pytest.raises(MissingExtraError, match="pip install"):
        workers.map(tasks.Loaded(fails=True), [1, 2])
    assert [x.value for x in workers.map(tasks.square, [3])] == [9]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_a_cluster_elsewhere():
    """A cluster that others started, reached by its address from a program of its own."""
    pytest.importorskip("ray", reason="ray is not installed")
    pytest.importorskip("grpc", reason="grpcio is not installed: no ray:// addresses")
    ports = [free_port() for _ in range(2)]
    done = subprocess.run(
        [sys.executable, str(HERE / "ray_elsewhere.py"), *map(str, ports)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        # Newer versions of Ray guard clusters by a token, which a client must be told to show.
        env={**os.environ, "RAY_AUTH_MODE": "token"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 [2.0, 3.0]\n"


def test_without_ray_it_says_what_to_install(monkeypatch):
    from matmill.campaign.ray_workers import RayWorkers

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'matmill\[ray\]'"):
        RayWorkers(1)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from matmill.campaign.ray_workers import RayWorkers

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_):
        raise ConnectionError("ray client connection timeout\nmore")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=r"ray://nowhere:1 does not answer\. .*RAY_AUTH_MODE"):
        RayWorkers(address="ray://nowhere:1")
