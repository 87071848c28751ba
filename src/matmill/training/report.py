"""What a training tells the outside: rows of the log, and events with speed and time left."""

import math
import time
from typing import TYPE_CHECKING

from torch import Tensor

from matmill.progress import Event, OnEvent
from matmill.training.schedule import Limits
from matmill.training.trackers import Tracker

if TYPE_CHECKING:
    from matmill.training.run import Counters

_EMIT_SECONDS = 0.5


class Report:
    """Means of the steps since the last row, and where they go.

    Args:
        limits: Ends of the training, for the time left.
        on_event: Receives progress.
    """

    def __init__(self, limits: Limits, on_event: OnEvent) -> None:
        self.limits, self.on_event = limits, on_event
        self._sums: dict[str, float] = {}
        self._n_summed = 0
        self._emitted = self._logged_at = time.monotonic()
        self._logged_step = 0

    def begin(self, step: int) -> None:
        """Start the clock of a sitting that goes on after ``step``."""
        self._emitted = self._logged_at = time.monotonic()
        self._logged_step = step

    def count(self, parts: dict[str, Tensor], norm: float) -> None:
        """Add the losses of one step and the norm of its gradient."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        self._sums["gradient_norm"] = self._sums.get("gradient_norm", 0.0) + norm
        self._n_summed += 1

    def log(self, counters: "Counters", rate: float, trackers: tuple[Tracker, ...]) -> None:
        """Write one row, and now and then an event."""
        now = time.monotonic()
        means = {name: total / max(self._n_summed, 1) for name, total in self._sums.items()}
        self._sums, self._n_summed = {}, 0
        speed = (counters.step - self._logged_step) / max(now - self._logged_at, 1e-9)
        self._logged_step, self._logged_at = counters.step, now
        values = {
            "epoch": float(counters.epoch),
            "seconds": counters.seconds,
            "learning_rate": rate,
            "steps_per_second": speed,
            "skipped": float(counters.skipped),
            **means,
        }
        for tracker in trackers:
            tracker.log(counters.step, values)
        if now - self._emitted >= _EMIT_SECONDS or counters.step == self.limits.steps:
            self._emitted = now
            self._emit(counters, means, speed)

    def _emit(self, counters: "Counters", means: dict[str, float], speed: float) -> None:
        progress = self.limits.progress(counters.step, counters.epochs, counters.seconds)
        left = counters.seconds * (1.0 / progress - 1.0) if progress > 0 else math.nan
        total = self.limits.steps or (round(counters.step / progress) if progress > 0 else None)
        loss = means.get("loss", math.nan)
        values = {"loss": loss, "steps_per_second": speed, "seconds_left": left}
        if counters.last_score is not None:
            values["score"] = counters.last_score
        if counters.best_score is not None:
            values["best_score"] = counters.best_score
        self.on_event(
            Event(
                stage="train",
                done=counters.step,
                total=total,
                message=f"epoch {counters.epoch}",
                values=values,
            )
        )
