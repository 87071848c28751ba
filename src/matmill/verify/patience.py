"""Time limits for work on hostile crystals: one bad crystal costs itself and a few seconds.

The limit is on processor time, so that a busy machine changes no verdict; many times as much by
the clock ends work that waits. It interrupts Python, between two instructions, by the timers of
the operating system. It needs the main thread and a Unix; elsewhere work simply runs to its end.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SECONDS_EACH = 2.5
"""What one crystal may cost in one stage; few cost more than one of them, so all within 5 s."""

_SECONDS_IN_A_CROWD = 0.2  # share of one crystal among many: usual work is a tenth of that
_CHUNK = 64
_CLOCK = 40.0  # times the processor time that may pass by the clock: machines are shared


class TookTooLongError(BaseException):
    """Raised by `limit`; no ordinary error, so that no library swallows it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `TookTooLongError` in the block when it has computed for so many seconds."""
    can = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not can:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
        raise TookTooLongError

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, _CLOCK * seconds),
    )
    before = [signal.signal(number, ring) for _, number, _ in timers]
    for timer, _, length in timers:
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0.0)
        for (_, number, _), handler in zip(timers, before, strict=True):
            signal.signal(number, handler)


def patiently(
    work: Callable[[list[int]], Sequence[T]],
    rows: Sequence[int],
    *,
    seconds: float = SECONDS_EACH,
    chunk: int = _CHUNK,
    on_done: Callable[[int], None] | None = None,
) -> tuple[dict[int, T], dict[int, str]]:
    """Work on many crystals at once; where that fails or hangs, on fewer, down to one.

    Args:
        work: Returns one result for each of the rows that it is given.
        rows: What to work on.
        seconds: What one crystal alone may take.
        chunk: How many are tried at once.
        on_done: Told how many rows are finished.

    Returns:
        Results by row, and for each row that failed the reason.
    """
    found: dict[int, T] = {}
    failed: dict[int, str] = {}
    waiting = [list(rows[i : i + chunk]) for i in range(0, len(rows), chunk)][::-1]
    while waiting:
        part = waiting.pop()
        try:
            with limit(max(seconds, _SECONDS_IN_A_CROWD * len(part))):
                results = work(part)
        except TookTooLongError:
            reason = f"took longer than {seconds:g} s"
        except Exception as error:  # whatever a library throws at odd crystals
            reason = f"failed with {type(error).__name__}: {error}"[:200]
        else:
            found.update(zip(part, results, strict=True))
            reason = ""
        if reason and len(part) > 1:
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
        elif reason:
            failed[part[0]] = reason
        if on_done is not None:
            on_done(len(found) + len(failed))
    return found, failed
