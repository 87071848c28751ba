"""How far a training has come, and the learning rate that belongs there."""

import math
from dataclasses import dataclass
from typing import Literal

Decay = Literal["linear-tail", "cosine", "none"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Ends of a training; the first one reached ends it. None means no limit.

    Attributes:
        steps: Optimiser steps.
        epochs: Passes over the data.
        seconds: Seconds of training over all sittings.
    """

    steps: int | None
    epochs: int | None
    seconds: float | None

    def progress(self, step: int, epochs: float, seconds: float) -> float:
        """Return the largest used share of any limit, in [0, 1]."""
        pairs = ((step, self.steps), (epochs, self.epochs), (seconds, self.seconds))
        shares = [done / limit for done, limit in pairs if limit]
        return min(max(shares, default=0.0), 1.0)

    def reached(self, step: int, epoch: int, seconds: float) -> str | None:
        """Return the name of the limit that is used up, or None."""
        if self.steps is not None and step >= self.steps:
            return "max_steps"
        if self.epochs is not None and epoch >= self.epochs:
            return "max_epochs"
        if self.seconds is not None and seconds >= self.seconds:
            return "max_seconds"
        return None


def rate_factor(
    progress: float, step: int, *, warmup_steps: int, decay: Decay, tail: float
) -> float:
    """Return the factor on the learning rate, in [0, 1].

    Args:
        progress: Used share of the training, in [0, 1].
        step: Steps done so far.
        warmup_steps: Steps over which the rate rises linearly from near 0.
        decay: ``linear-tail`` is constant, then falls linearly to 0 over the last part.
        tail: Share of the training that is that last part, in (0, 1].
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay == "cosine":
        return warm * 0.5 * (1.0 + math.cos(math.pi * progress))
    if decay == "linear-tail":
        return warm * min(1.0, max(0.0, (1.0 - progress) / tail))
    return warm
