"""`Job`: what every stage of a campaign gets."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from matmill.campaign.budget import Budget, BudgetSpentError, describe
from matmill.campaign.parts import Parts
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.request import Request
from matmill.campaign.store import Store
from matmill.campaign.workers import InlineWorkers, Workers
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
        budget: What may be spent; None where nobody counts.
    """

    store: Store
    request: Request
    settings: CampaignSettings
    parts: Parts
    workers: Workers
    on_event: OnEvent = ignore
    budget: Budget | None = None

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

    def may(self, meter: str, costs: Sequence[tuple[str, int]]) -> list[bool]:
        """Charge pieces of work, given as (key, amount), and return which fit the budget."""
        if self.budget is None:
            return [True] * len(costs)
        return self.budget.grant([(key, {meter: amount}) for key, amount in costs])

    def pay(self, meter: str, key: str, amount: int) -> None:
        """Charge one piece of work.

        Raises:
            BudgetSpentError: If it does not fit.
        """
        if not all(self.may(meter, [(key, amount)])):
            raise self.spent(meter)

    def spent(self, meter: str) -> BudgetSpentError:
        """Return the error that says that no more of a meter is left for the next step."""
        assert self.budget is not None
        return BudgetSpentError(
            f"the budget of {describe(meter, self.budget.limit(meter))} is spent"
        )

    def spend_time(self, worker_seconds: float = 0.0) -> None:
        """Note the time that has passed.

        Args:
            worker_seconds: What worker processes have spent since the last call.

        Raises:
            BudgetSpentError: If a meter of time is used up.
        """
        if self.budget is not None:
            here = isinstance(self.workers, InlineWorkers)  # then it is the driver's time already
            self.budget.tick(0.0 if here else worker_seconds)
            self.budget.check_time()
