import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from matmill.cli import progress
from matmill.progress import Event, ignore


def test_quiet_listens_to_nothing():
    with progress.show(quiet=True) as on_event:
        assert on_event is ignore


def test_a_log_file_gets_few_lines(capsys):
    with progress.show() as on_event:
        for done in range(1, 1001):
            on_event(Event(stage="relax", done=done, total=1000, values={"kept": done / 2}))
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2  # the first and the last; the rest comes within ten seconds
    assert lines[-1].startswith("relax: 1000/1000")
    assert "kept 500" in lines[-1]


def test_a_new_message_is_shown_once(capsys):
    with progress.show() as on_event:
        for done in range(1, 4):
            on_event(Event(stage="screen", done=done, total=9, message="loading"))
    assert capsys.readouterr().err.count("loading") == 1


def test_bars_follow_events():
    bars = Progress(
        TextColumn("{task.description} {task.completed} {task.fields[note]}"),
        console=Console(file=io.StringIO()),
    )
    listen = progress._Bars(bars)
    listen(Event(stage="train", done=1))
    listen(Event(stage="train", done=7, total=10, message="epoch 2", values={"loss": 0.25}))
    (task,) = bars.tasks
    assert (task.completed, task.total) == (7, 10)
    assert task.fields["note"] == "epoch 2, loss 0.25"


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_of_a_stage_leaves_out_what_was_kept_and_begins_anew(capsys, clock):
    with progress.show() as on_event:
        on_event(Event(stage="relax", done=300, total=340))  # kept by an earlier call
        clock[0] += 20.0
        on_event(Event(stage="relax", done=340, total=340))
        clock[0] += 600.0  # something else
        on_event(Event(stage="relax", done=0, total=10))
        clock[0] += 5.0
        on_event(Event(stage="relax", done=10, total=10))
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[1:] == ["relax: 340/340, 2.0/s", "relax: 0/10", "relax: 10/10, 2.0/s"]


def test_a_bar_begins_anew_with_its_stage(clock):
    bars = Progress(TextColumn("{task.fields[rate]}"), console=Console(file=io.StringIO()))
    listen = progress._Bars(bars)
    for done, passed in ((0, 60.0), (6, 600.0), (0, 2.0), (4, 0.0)):
        listen(Event(stage="draw", done=done, total=6))
        clock[0] += passed
    (task,) = bars.tasks
    assert (task.completed, task.fields["rate"]) == (4, "2.0/s")


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [(0, 1.0, ""), (30, 1.0, "30/s"), (3, 2.0, "1.5/s"), (1, 10.0, "6.0/min")],
)
def test_rate(done, seconds, text):
    assert progress.rate(done, seconds) == text
