"""Lists of content-keyed tasks, each done once: what was finished before is read from the store.

The key of a task is the hash of its kind and of its item, so a driver that was killed simply asks
for the same list again. Results are written one by one as they come, each in a transaction of its
own, and the first result of a key stays.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from matmill.campaign.database import put
from matmill.campaign.schema import clean, parts, task
from matmill.campaign.store import Store
from matmill.campaign.workers import Outcome, Workers
from matmill.errors import InputError
from matmill.progress import Event, OnEvent, ignore

DONE, FAILED = "done", "failed"
ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What became of one task.

    Attributes:
        key: Its content hash.
        result: What the function returned, as it comes back from JSON; None when it failed.
        error: Why it failed at its last attempt, in one line; None when it is done.
        seconds: What all attempts took.
        attempts: How often it was tried.
    """

    key: str
    result: Any = None
    error: str | None = None
    seconds: float = 0.0
    attempts: int = 0

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return self.error is None


def task_key(kind: str, item: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the content hash of a task: 64 hex digits.

    Args:
        kind: What is done, with everything that the result depends on beside the item, e.g.
            ``"train/3f2a…"``.
        item: Any JSON value; the order of keys does not matter.

    Raises:
        InputError: If the item is not JSON.
    """
    try:
        text = json.dumps([kind, item], sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"A task of {kind} is not made of JSON values: {error}.") from error
    return hashlib.sha256(text.encode()).hexdigest()


class TaskBoard:
    """Tasks of a store.

    Args:
        store: Where results are kept.
        attempts: How often a task is tried before it counts as failed for good.
        retry_failed: Try those again that had failed for good, when they are next asked for.
    """

    def __init__(
        self, store: Store, *, attempts: int = ATTEMPTS, retry_failed: bool = False
    ) -> None:
        self.store = store
        self.attempts = attempts
        self.retry_failed = retry_failed
        self._retried: set[str] = set()

    def run(
        self,
        kind: str,
        items: Sequence[Any],
        function: Callable[[Any], Any],
        workers: Workers,
        on_event: OnEvent = ignore,
        *,
        inputs: Sequence[Any] | None = None,
    ) -> list[TaskResult]:
        """Return the result of every item, in their order, running only what is not done yet.

        Args:
            kind: See `task_key`.
            items: JSON values; equal ones are one task.
            function: Picklable; gets an item (or its input) and returns JSON values, of which NaN
                and infinity are kept and tuples come back as lists.
            workers: Where tasks run.
            on_event: Told about progress, with the number of failures.
            inputs: What the function gets instead of the item, one for each; need not be JSON.
        """
        keys = [task_key(kind, item) for item in items]
        given = dict(zip(keys, items if inputs is None else inputs, strict=True))
        known = self.results(given)
        spent = {key: r.attempts for key, r in known.items()}
        if self.retry_failed:
            spent |= dict.fromkeys(set(spent) - self._retried, 0)
            self._retried |= set(given)
        tries = {key: spent.get(key, 0) for key in given}
        done = {key for key, found in known.items() if found.is_done}
        waiting = self._worth_trying(given, done, tries)
        total = len(given)
        failed = total - len(done) - len(waiting)
        stage = kind.rstrip(" 0123456789")  # without the number of the recipe
        on_event(Event(stage=stage, done=total - len(waiting), total=total))
        while waiting:
            now = list(waiting)

            def keep(position: int, outcome: Outcome, now: list[str] = now) -> None:
                nonlocal failed
                key = now[position]
                tries[key] += 1
                if self._keep(kind, key, outcome):
                    done.add(key)
                elif tries[key] >= self.attempts:
                    failed += 1
                values = {"failed": float(failed)} if failed else {}
                on_event(Event(stage=stage, done=len(done) + failed, total=total, values=values))

            workers.map(function, [given[key] for key in now], on_done=keep)
            waiting = self._worth_trying(given, done, tries)
        found = self.results(given)
        return [found[key] for key in keys]

    def results(self, keys: Iterable[str]) -> dict[str, TaskResult]:
        """Return what is known about tasks, by key."""
        found = {}
        with self.store.reading() as connection:
            for part in parts(sorted(set(keys))):
                for row in connection.execute(select(task).where(task.c.key.in_(part))):
                    found[row.key] = TaskResult(
                        key=row.key,
                        result=None if row.result is None else json.loads(row.result),
                        error=None if row.status == DONE else row.error,
                        seconds=row.seconds,
                        attempts=row.attempts,
                    )
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many tasks of each kind are done and failed: {kind: {status: number}}."""
        query = select(task.c.kind, task.c.status, func.count()).group_by(
            task.c.kind, task.c.status
        )
        counts: dict[str, dict[str, int]] = {}
        with self.store.reading() as connection:
            for kind, status, number in connection.execute(query.order_by(task.c.kind)):
                counts.setdefault(kind, {})[status] = number
        return counts

    def _worth_trying(
        self, given: dict[str, Any], done: set[str], tries: dict[str, int]
    ) -> list[str]:
        return [key for key in given if key not in done and tries[key] < self.attempts]

    def _keep(self, kind: str, key: str, outcome: Outcome) -> bool:
        """Store what an attempt gave and return whether the task is done."""
        result, error = None, outcome.error
        if error is None:
            try:
                result = clean(json.dumps(outcome.value, sort_keys=True, ensure_ascii=False))
            except (TypeError, ValueError) as problem:
                error = f"The result cannot be kept as JSON: {problem}"
        with self.store.transaction() as connection:
            before = connection.execute(select(task).where(task.c.key == key)).one_or_none()
            if before is not None and before.status == DONE:
                return True  # another driver was faster: its result stays
            row = {
                "key": key,
                "kind": kind,
                "status": DONE if error is None else FAILED,
                "result": result,
                "error": None if error is None else clean(error),
                "seconds": outcome.seconds + (before.seconds if before is not None else 0.0),
                "attempts": 1 + (before.attempts if before is not None else 0),
                "updated": time.time(),
            }
            put(connection, task, [row])
        return error is None
