"""Many tasks on a Ray cluster: the same `map(function, items)`, on this machine or on many.

Each worker is a Ray actor that holds one loaded function and has one task at a time, so that
time-outs, memory caps and crashes are those of `campaign.workers`. All machines of the cluster
need the same matmill.
"""

import os
import pickle
import sys
import time
from types import ModuleType
from typing import Any

from matmill.campaign.worker import Servant
from matmill.campaign.workers import (
    LOAD_TIMEOUT_S,
    MEMORY_GB,
    ONE_THREAD,
    RETRIES_AFTER_CRASH,
    TIMEOUT_S,
    Crew,
    Outcome,
)
from matmill.errors import InputError, MatmillError, MissingExtraError

_STORE_BYTES = 100 * 2**20  # tasks and results are small; Ray would take a third of the memory


class RayWorkers(Crew):
    """Tasks run in actors of a Ray cluster.

    Args:
        n_workers: Number of actors, one core each; 0 for as many as the cluster has cores.
        address: None for a cluster of our own on this machine, stopped at the end;
            ``"ray://host:10001"`` for one elsewhere; ``"auto"`` for the one that this machine
            belongs to.
        timeout_s: Longest time a task may take, in seconds, loading not counted.
        memory_gb: Largest resident memory of a worker, in GB.

    Raises:
        MissingExtraError: If Ray is not installed.
        InputError: If the cluster cannot be reached.
    """

    def __init__(
        self,
        n_workers: int = 0,
        *,
        address: str | None = None,
        timeout_s: float = TIMEOUT_S,
        memory_gb: float = MEMORY_GB,
    ) -> None:
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, n_workers, address)
        n_workers = n_workers or int(self._ray.cluster_resources().get("CPU", 1))
        super().__init__(n_workers, timeout_s=timeout_s, memory_gb=memory_gb)

    def close(self) -> None:
        """Stop all actors, and the cluster if it is our own."""
        self._end()
        if self._is_ours:
            self._ray.shutdown()
            self._is_ours = False

    def _new(self, code: bytes) -> "_Actor":
        return _Actor(self._ray, self.memory_gb, code)

    def _collect(self, code: bytes, limit: float) -> list[tuple[int, Outcome, bool]]:
        """Wait until something happens and return the tasks that ended, and whether by a crash."""
        ended = []
        busy = {actor.answer: actor for actor in self._workers if actor.answer is not None}
        pause = max(0.0, min(actor.deadline for actor in busy.values()) - time.monotonic())
        ready, _ = self._ray.wait([*busy], num_returns=1, timeout=min(pause, 3600.0))
        late = [a for a in busy.values() if a.answer not in ready and a.deadline < time.monotonic()]
        for actor in [*(busy[one] for one in ready), *late]:
            position, seconds = actor.position, actor.busy_s
            error, crashed = None, False
            if actor in late:
                most = limit if position is not None else LOAD_TIMEOUT_S
                error = f"took longer than {most:g} s"
            else:
                try:
                    kind, outcome = actor.receive()
                except self._ray.exceptions.RayError as problem:
                    error, crashed = f"ended its process (Ray: {_first_line(problem)})", True
                else:
                    if kind == "over":
                        error, crashed = outcome.error, actor.n_done > 0
                    elif position is not None:
                        ended.append((position, outcome, False))
            if error is None:
                continue
            actor.kill()
            if position is not None:
                ended.append((position, Outcome(error=error, seconds=seconds), crashed))
            self._replace(actor, error, code)
        return ended

    def _replace(self, actor: "_Actor", error: str, code: bytes) -> None:
        """Put a new actor where one ended; go on without it where the cluster has no room."""
        self._workers.remove(actor)
        if actor.position is None:
            actor.failures += 1
            has_others = any(other.is_loaded for other in self._workers)
            if "longer" in error and has_others:
                return
            if actor.failures > RETRIES_AFTER_CRASH:
                raise MatmillError(f"A Ray worker could not start: it {error}.")
        new = self._new(code)
        new.failures = actor.failures
        self._workers.append(new)


class _Actor:
    """One actor and the task that it works on."""

    def __init__(self, ray: ModuleType, memory_gb: float, code: bytes) -> None:
        self.ray = ray
        remote = ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": ONE_THREAD})
        self.handle = remote(Servant).remote(memory_gb, [*sys.path])
        self.code = b""
        self.answer: Any = None
        self.position: int | None = None
        self.is_loaded = False
        self.failures = 0
        self.n_done = 0  # tasks before this one, which may have left memory full
        self.started = 0.0
        self.deadline = float("inf")
        self._later: bytes | None = None
        self.load(code)

    @property
    def is_free(self) -> bool:
        return self.answer is None

    @property
    def busy_s(self) -> float:
        return time.monotonic() - self.started

    def load(self, code: bytes) -> None:
        if code == self.code:
            self._later = None
            return
        if self.answer is not None:  # still loading another function: this one comes after it
            self._later = code
            return
        self.code = code
        self.is_loaded = False
        self._ask("load", code, LOAD_TIMEOUT_S)

    def start(self, position: int, item: Any, timeout_s: float) -> None:  # noqa: ANN401
        self.position = position
        self._ask("run", pickle.dumps(item), timeout_s)

    def receive(self) -> tuple[str, Outcome]:
        """Return what arrived: ``"loaded"``, ``"done"``, or ``"over"`` its memory."""
        kind, value, error, seconds = pickle.loads(self.ray.get(self.answer))
        self.answer, self.deadline = None, float("inf")
        if kind == "loaded":
            if error is not None:
                raise value if isinstance(value, MatmillError) else MatmillError(error)
            self.is_loaded = True
            later, self._later = self._later, None
            if later is not None:
                self.load(later)
        elif kind == "done":
            self.position = None
            self.n_done += 1
        return kind, Outcome(value=value, error=error, seconds=seconds)

    def kill(self) -> None:
        self.ray.kill(self.handle)

    def _ask(self, kind: str, data: bytes, timeout_s: float) -> None:
        self.started = time.monotonic()
        self.deadline = self.started + timeout_s
        self.answer = self.handle.answer.remote(kind, data)


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told about this run
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Ray workers need: pip install 'matmill[ray]'.") from error
    return ray


def _connect(ray: ModuleType, n_workers: int, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    _silence(ray)
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=n_workers or os.cpu_count(),
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except ImportError as error:
        raise MissingExtraError(
            f"A Ray cluster elsewhere needs: pip install 'matmill[ray]' ({_first_line(error)})."
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = address or "on this machine"
        if "timeout" in str(error):
            hint = "Is the port its client port? Does it want a token (RAY_AUTH_MODE=token)?"
            raise InputError(f"The Ray cluster {where} does not answer. {hint}") from error
        raise InputError(f"The Ray cluster {where} cannot be used: {_first_line(error)}") from error


def _silence(ray: ModuleType) -> None:
    """Keep Ray's words about ended processes out of standard output, which belongs to results.

    They are reported as errors of their tasks; Ray has no public switch for its own lines.
    """
    inside = getattr(getattr(ray, "_private", None), "worker", None)
    if inside is not None and hasattr(inside, "_worker_logs_enabled"):
        inside._worker_logs_enabled = False


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__
