"""The inside of a worker process: load a function once, then answer task after task."""

import os
import pickle
import signal
import sys
import threading
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEMORY_EXIT = 77  # exit code that says "over the memory cap"
_LOOK_S = 0.2


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
        answer = _answer("loaded" if kind == "load" else "done", value, error, start)
        try:
            pipe.send_bytes(answer)
        except OSError:
            return


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
