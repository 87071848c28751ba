"""Progress on the terminal: a listener for `matmill.progress.Event`.

On a terminal each stage is one live bar with rate, time left and values; elsewhere (a log file,
continuous integration) it is a plain line now and then. All of it goes to standard error.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from matmill.progress import Event, OnEvent, ignore

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_SECONDS = 10.0  # between two lines about one stage where nobody watches live


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the line that says how to go on."""


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """Say ``hint`` (how to continue) when the user interrupts the block."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(hint) from error


@contextmanager
def show(*, quiet: bool = False) -> Iterator[OnEvent]:
    """Yield a listener that shows events while the block runs.

    Args:
        quiet: Yield one that shows nothing.

    Example:
        >>> with show(quiet=True) as on_event:
        ...     on_event(Event(stage="relax", done=1, total=2))
    """
    if quiet:
        yield ignore
    elif sys.stderr.isatty():
        with _live_bars() as progress:
            yield _Bars(progress)
    else:
        yield _Lines()


def rate(done: int, seconds: float) -> str:
    """Return a speed in units that keep the number readable, e.g. ``"2.1/s"`` or ``"12/min"``."""
    if done <= 0 or seconds <= 0.0:
        return ""
    per_second = done / seconds
    if per_second >= 1.0:
        return f"{per_second:,.0f}/s" if per_second >= 10.0 else f"{per_second:.1f}/s"
    return f"{per_second * 60:.1f}/min"


def values_text(values: dict[str, float]) -> str:
    """Return values as people read them: ``"loss 0.31, kept 12"``."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())


class _Pace:
    """How fast each stage goes, without what was finished before this program looked.

    A stage of a loop comes again: where its count falls, a new one has begun.
    """

    def __init__(self) -> None:
        self.begun: dict[str, tuple[float, int]] = {}  # when, and how much was done by then
        self.last: dict[str, int] = {}

    def __call__(self, event: Event) -> tuple[str, bool]:
        """Return the rate as a text, and whether the stage begins with this event."""
        now = time.monotonic()
        is_first = event.done < self.last.get(event.stage, event.done + 1)
        if is_first:
            self.begun[event.stage] = now, event.done
        self.last[event.stage] = event.done
        start, before = self.begun[event.stage]
        return rate(event.done - before, now - start), is_first


class _Bars:
    """One bar a stage, shown live."""

    def __init__(self, progress: "Progress") -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}
        self.pace = _Pace()

    def __call__(self, event: Event) -> None:
        speed, is_first = self.pace(event)
        if event.stage not in self.tasks:
            task = self.progress.add_task(event.stage, total=None, note="", rate="")
            self.tasks[event.stage] = task
        elif is_first:
            self.progress.reset(self.tasks[event.stage])
        note = ", ".join(part for part in (event.message, values_text(event.values)) if part)
        self.progress.update(
            self.tasks[event.stage],
            completed=event.done,
            total=event.total,
            note=note,
            rate=speed,
        )


class _Lines:
    """A line when a stage starts, ends, says something, and every few seconds."""

    def __init__(self) -> None:
        self.pace = _Pace()
        self.spoken: dict[str, float] = {}
        self.messages: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        speed, is_first = self.pace(event)
        is_end = event.total is not None and event.done >= event.total
        is_due = now - self.spoken.get(event.stage, float("-inf")) >= PLAIN_SECONDS
        is_new = bool(event.message) and event.message != self.messages.get(event.stage)
        if not (is_first or is_end or is_due or is_new):
            return
        self.spoken[event.stage] = now
        self.messages[event.stage] = event.message
        count = f"{event.done}/{event.total}" if event.total is not None else str(event.done)
        parts = (count, speed, event.message, values_text(event.values))
        sys.stderr.write(f"{event.stage}: {', '.join(part for part in parts if part)}\n")
        sys.stderr.flush()


def _live_bars() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
