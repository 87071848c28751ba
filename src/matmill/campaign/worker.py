"""The inside of a worker process: load a function once, then answer task after task."""

import ctypes
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEMORY_EXIT = 77  # exit code that says "over the memory cap"
_LOOK_S = 0.2
_LONG_S = 5.0  # of a task after which tidying costs nothing that counts


def serve(pipe: Connection, memory_gb: float) -> None:
    """Answer messages until the parent is gone.

    Messages are ``("load", pickled function)`` and ``("run", pickled item)``; answers are
    ``(kind, value, error, seconds)``.
    """
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries that print on import must not write into the program's output.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    warnings.simplefilter("ignore")
    threading.Thread(target=_watch, args=(memory_gb, os.getppid()), daemon=True).start()
    function: Any = None
    while True:
        try:
            kind, data = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        function, answer = _perform(kind, data, function)
        try:
            pipe.send_bytes(answer)
        except OSError:
            return


class Servant:
    """The same for a cluster, whose library owns the process: answers instead of messages.

    Work is done in a thread of its own, so that a task which outgrows its memory can be reported
    while it still runs; whoever gets that answer ends the process.

    Args:
        memory_gb: Largest resident memory, in GB.
        paths: Where the caller finds its modules; those that exist here are looked through last.
    """

    def __init__(self, memory_gb: float, paths: Sequence[str] = ()) -> None:
        sys.path += [path for path in paths if path not in sys.path and Path(path).exists()]
        warnings.simplefilter("ignore")
        self._memory_gb = memory_gb
        self._thread = ThreadPoolExecutor(1)
        self._function: Any = None

    def answer(self, kind: str, data: bytes) -> bytes:
        """Load a function or run it on an item; see `serve` for messages and answers."""
        start = time.perf_counter()
        job = self._thread.submit(_perform, kind, data, self._function)
        while not wait([job], timeout=_LOOK_S).done:
            if resident_gb() > self._memory_gb:
                error = f"needed more than {self._memory_gb:g} GB of memory"
                return _answer("over", None, error, start)
        self._function, answer = job.result()
        return answer


def _perform(kind: str, data: bytes, function: Any) -> tuple[Any, bytes]:  # noqa: ANN401
    """Return the function to go on with, and the pickled answer."""
    start = time.perf_counter()
    value, error = None, None
    try:
        if kind == "load":
            function = _load(data)
        else:
            value = function(pickle.loads(data))
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
        value = problem if kind == "load" else None
    if time.perf_counter() - start > _LONG_S:
        give_back_memory()
    return function, _answer("loaded" if kind == "load" else "done", value, error, start)


def _load(data: bytes) -> Any:  # noqa: ANN401 - any callable
    function = pickle.loads(data)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    warm_up = getattr(function, "warm_up", None)
    if warm_up is not None:
        warm_up()
    return function


def _answer(kind: str, value: Any, error: str | None, start: float) -> bytes:  # noqa: ANN401
    seconds = time.perf_counter() - start
    try:
        return pickle.dumps((kind, value, error, seconds))
    except Exception as problem:
        return pickle.dumps((kind, None, error or f"result cannot be sent: {problem}", seconds))


def _watch(memory_gb: float, parent: int) -> None:
    """End the process when it outgrows its memory or outlives its parent."""
    while True:
        if resident_gb() > memory_gb:
            os._exit(MEMORY_EXIT)
        if os.getppid() != parent:
            os._exit(0)
        time.sleep(_LOOK_S)


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can.

    Trainings leave holes between blocks of many sizes: without this a process with glibc kept
    about 0.2 GB more after each training of a generator (five were watched).
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # no glibc; it has nothing of the kind
        return


def resident_gb() -> float:
    """Return the resident memory of this process in GB; its peak where only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e9
    except OSError:
        try:
            import resource
        except ImportError:  # Windows: no cap there
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e9 if sys.platform == "darwin" else peak / 1e6
