"""Many tasks on many cores: ``map(function, items)`` on local processes.

Each worker is a fresh process with one BLAS thread. A task that takes too long, needs too much
memory, raises or kills its process costs that task only; one whose process was ended by somebody
else, or was filled by the tasks before it, is run again. Whatever the order in which tasks finish,
results come back in the order of the items. A cluster fits behind the same methods:
`campaign.ray_workers`.
"""

import os
import pickle
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, runtime_checkable

from matmill.campaign.worker import MEMORY_EXIT, serve
from matmill.errors import MatmillError

TIMEOUT_S = 600.0
LOAD_TIMEOUT_S = 600.0
MEMORY_GB = 4.0
# A process that vanishes may be the machine's fault (killed by hand, by the kernel, with its
# node) or the task's. Only the task's fault comes back again and again.
RETRIES_AFTER_CRASH = 2
# Children read these before they import numerical libraries.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one task.

    Attributes:
        value: What the function returned; None when it failed.
        error: Why it failed, in one line; None when it did not.
        seconds: Wall time of the task.
    """

    value: Any = None
    error: str | None = None
    seconds: float = 0.0


OnDone = Callable[[int, Outcome], None]


@runtime_checkable
class Workers(Protocol):
    """A place where tasks run."""

    def prepare(self, function: Callable[[Any], Any]) -> None:
        """Start loading what ``function`` needs (its ``warm_up``), without waiting for it."""
        ...

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        on_done: OnDone | None = None,
        timeout_s: float | None = None,
    ) -> list[Outcome]:
        """Return the outcome of ``function(item)`` for each item, in order.

        Args:
            function: Picklable; sent to each worker once, so it may hold what it has loaded.
            items: Picklable arguments.
            on_done: Called with (position, outcome) as tasks finish, in any order.
            timeout_s: Longest time a task may take, in seconds; that of the workers when None.
        """
        ...

    def close(self) -> None:
        """Stop all workers."""
        ...


class InlineWorkers:
    """Tasks run here, one after another: for tests and debugging, without any protection."""

    def prepare(self, function: Callable[[Any], Any]) -> None:
        """Do nothing: the first task loads what it needs."""

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        on_done: OnDone | None = None,
        timeout_s: float | None = None,
    ) -> list[Outcome]:
        """Return the outcome of each item; nothing is stopped after any time."""
        del timeout_s
        outcomes = []
        for position, item in enumerate(items):
            start = time.perf_counter()
            try:
                value, error = function(item), None
            except Exception as problem:
                value, error = None, f"{type(problem).__name__}: {problem}"
            seconds = time.perf_counter() - start
            outcomes.append(Outcome(value=value, error=error, seconds=seconds))
            if on_done is not None:
                on_done(position, outcomes[-1])
        return outcomes

    def close(self) -> None:
        """Do nothing."""


class Crew(ABC):
    """Workers that hold one loaded function and have one task at a time: who does what when.

    Args:
        n_workers: How many.
        timeout_s: Longest time a task may take, in seconds, loading not counted.
        memory_gb: Largest resident memory of a worker, in GB.
    """

    def __init__(self, n_workers: int, *, timeout_s: float, memory_gb: float) -> None:
        self.n_workers = n_workers
        self.timeout_s = timeout_s
        self.memory_gb = memory_gb
        self._workers: list[Any] = []

    def prepare(self, function: Callable[[Any], Any]) -> None:
        """Start the workers and let them load ``function``."""
        self._prepare(pickle.dumps(function), self.n_workers)

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        on_done: OnDone | None = None,
        timeout_s: float | None = None,
    ) -> list[Outcome]:
        """Return the outcome of each item, in order; see `Workers.map`."""
        code = pickle.dumps(function)
        limit = self.timeout_s if timeout_s is None else timeout_s
        self._prepare(code, min(self.n_workers, len(items)))
        waiting = deque(range(len(items)))
        outcomes: dict[int, Outcome] = {}
        crashes: Counter[int] = Counter()
        try:
            while len(outcomes) < len(items):
                for worker in self._workers:
                    if waiting and worker.is_free:
                        position = waiting.popleft()
                        worker.start(position, items[position], limit)
                for position, outcome, crashed in self._collect(code, limit):
                    crashes[position] += crashed
                    if crashed and crashes[position] <= RETRIES_AFTER_CRASH:
                        waiting.appendleft(position)
                        continue
                    outcomes[position] = outcome
                    if on_done is not None:
                        on_done(position, outcome)
        except BaseException:
            # Unfinished tasks must not answer to a later map.
            self._end()
            raise
        return [outcomes[position] for position in range(len(items))]

    def _end(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _prepare(self, code: bytes, n_workers: int) -> None:
        for worker in self._workers:
            worker.load(code)
        while len(self._workers) < n_workers:
            self._workers.append(self._new(code))

    @abstractmethod
    def _new(self, code: bytes) -> Any:  # noqa: ANN401 - has load, start, kill and is_free
        """Return a new worker that begins to load."""

    @abstractmethod
    def _collect(self, code: bytes, limit: float) -> list[tuple[int, Outcome, bool]]:
        """Wait until something happens and return the tasks that ended, and whether by a crash."""


class LocalWorkers(Crew):
    """Tasks run in processes on this machine.

    Args:
        n_workers: Number of processes; 0 for one a core.
        timeout_s: Longest time a task may take, in seconds, loading not counted.
        memory_gb: Largest resident memory of a worker, in GB.
    """

    def __init__(
        self, n_workers: int = 0, *, timeout_s: float = TIMEOUT_S, memory_gb: float = MEMORY_GB
    ) -> None:
        super().__init__(n_workers or os.cpu_count() or 1, timeout_s=timeout_s, memory_gb=memory_gb)

    def close(self) -> None:
        """Stop all processes at once."""
        self._end()

    def _new(self, code: bytes) -> "_Worker":
        return _Worker(self.memory_gb, code)

    def _collect(self, code: bytes, limit: float) -> list[tuple[int, Outcome, bool]]:
        """Wait until something happens and return the tasks that ended, and whether by a crash."""
        ended = []
        deadline = min((worker.deadline for worker in self._workers), default=0.0)
        pause = max(0.0, min(deadline - time.monotonic(), 3600.0))
        ready = wait([worker.pipe for worker in self._workers], timeout=pause)
        for i, worker in enumerate(self._workers):
            task, error, crashed = worker.task, None, False
            try:
                if worker.pipe in ready:
                    outcome = worker.receive()
                    if outcome is not None and task is not None:
                        ended.append((task, outcome, False))
                    continue
                if time.monotonic() < worker.deadline:
                    continue
                most = limit if task is not None else LOAD_TIMEOUT_S
                error = f"took longer than {most:g} s"
            except EOFError:
                error, crashed = worker.cause_of_death(self.memory_gb)
            worker.kill()
            self._workers[i] = self._new(code)
            if task is not None:
                ended.append((task, Outcome(error=error, seconds=worker.busy_s), crashed))
                continue
            self._workers[i].n_failed_starts = worker.n_failed_starts + 1
            if not crashed or worker.n_failed_starts >= RETRIES_AFTER_CRASH:
                raise MatmillError(f"A worker process could not start: it {error}.")
        return ended


class _Worker:
    """One process and the task that it works on."""

    def __init__(self, memory_gb: float, code: bytes) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, memory_gb), name="matmill-worker", daemon=True
        )
        with _clean_start():
            self.process.start()
        theirs.close()
        self.pipe: Connection
        self.code = b""
        self.n_failed_starts = 0  # of the workers in this place, one after another
        self.n_loading = 0  # functions that were sent and have not answered yet
        self.n_done = 0  # tasks before this one, which may have left memory full
        self.task: int | None = None
        self.started = 0.0
        self.deadline = float("inf")
        self.load(code)

    @property
    def is_free(self) -> bool:
        return self.task is None and not self.n_loading

    @property
    def busy_s(self) -> float:
        return time.monotonic() - self.started

    def load(self, code: bytes) -> None:
        if code != self.code:
            self.code = code
            self.n_loading += 1
            self.started = time.monotonic()
            self.deadline = self.started + LOAD_TIMEOUT_S
            self._send(("load", code))

    def start(self, task: int, item: Any, timeout_s: float) -> None:  # noqa: ANN401 - any argument
        self.task = task
        self.started = time.monotonic()
        self.deadline = self.started + timeout_s
        self._send(("run", pickle.dumps(item)))

    def receive(self) -> Outcome | None:
        """Return the outcome that arrived; None when it only says that it has loaded."""
        try:
            kind, value, error, seconds = pickle.loads(self.pipe.recv_bytes())
        except OSError as broken:  # the process died while it wrote
            raise EOFError from broken
        if kind == "loaded":
            self.n_loading -= 1
            self.n_failed_starts = 0
            if not self.n_loading:
                self.deadline = float("inf")
            if error is not None:
                raise value if isinstance(value, MatmillError) else MatmillError(error)
            return None
        self.task, self.deadline = None, float("inf")
        self.n_done += 1
        return Outcome(value=value, error=error, seconds=seconds)

    def cause_of_death(self, memory_gb: float) -> tuple[str, bool]:
        """Return why the process ended, and whether that may have been bad luck."""
        self.process.join(timeout=5.0)
        code = self.process.exitcode
        if code == MEMORY_EXIT:
            return f"needed more than {memory_gb:g} GB of memory", self.n_done > 0
        return f"ended its process (exit code {code})", True

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _send(self, message: tuple[str, bytes]) -> None:
        try:
            self.pipe.send_bytes(pickle.dumps(message))
        except OSError:
            # The process is dead; the next look at the pipe finds that out and says why.
            return


@contextmanager
def _clean_start() -> Iterator[None]:
    """Start children with one thread each, and without running the user's script again.

    The standard library imports the parent's main file in each child; a script without the
    ``if __name__ == "__main__"`` guard would then start its whole run there.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        vars(main).update(hidden)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
