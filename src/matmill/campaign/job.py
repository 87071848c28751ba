"""`Job`: what every stage of a campaign gets."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from matmill.campaign.parts import Parts
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.request import Request
from matmill.campaign.store import Store
from matmill.campaign.workers import Workers
from matmill.progress import Event, OnEvent, ignore


@dataclass(frozen=True, kw_only=True)
class Job:
    """One campaign at work: where it is kept, what is wanted, how, with what, and who listens.

    Attributes:
        store: Everything that is known so far; stages read and write nothing else.
        request: What the user wants, with the seed.
        settings: How the run works.
        parts: Models and tables.
        workers: Where expensive tasks run.
        on_event: Told about progress.
    """

    store: Store
    request: Request
    settings: CampaignSettings
    parts: Parts
    workers: Workers
    on_event: OnEvent = ignore

    def tell(self, stage: str, done: int, total: int | None, **values: float) -> None:
        """Report progress of a stage."""
        self.on_event(Event(stage=stage, done=done, total=total, values=values))

    @contextmanager
    def timed(self, stage: str, round_number: int) -> Iterator[None]:
        """Log how long the block took, for the run's record."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.store.log(stage, "finished", round=round_number, seconds=round(seconds, 3))
