"""Progress as events: library code reports, and the CLI, a log or a page listens.

Library functions take ``on_event: OnEvent = ignore`` and never print.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        stage: What is being done, e.g. ``"relax"`` or ``"train"``.
        done: Units finished so far.
        total: Units in all; None when not known.
        message: One line for people; may be empty.
        values: Numbers worth showing, e.g. ``{"loss": 0.31}``.
    """

    stage: str
    done: int = 0
    total: int | None = None
    message: str = ""
    values: dict[str, float] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
