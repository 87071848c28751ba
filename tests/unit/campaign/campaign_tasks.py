"""Tasks for worker processes; they must be importable there."""

import os
import signal
import time


def square(x):
    return x * x


def slow_first(x):
    time.sleep(0.4 if x == 0 else 0.0)
    return x


def misbehave(x):
    if x == "raise":
        raise ValueError("no such crystal")
    if x == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if x == "hang":
        time.sleep(60)
    if x == "eat":
        eaten = []
        while True:
            eaten.append(b"x" * (20 << 20))
            time.sleep(0.01)
    if x == "unsendable":
        return lambda: None
    return x


_left_behind = []


def leave_behind(x):
    """Keep 150 MB for ever, as a library does that frees nothing."""
    _left_behind.append(b"x" * (150 << 20))
    time.sleep(0.3)  # longer than from one look at the memory to the next
    return x


def threads(_):
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.getpid()


class Loaded:
    """Loads once a process, then answers with what it holds."""

    def __init__(self, fails=False):
        self.fails = fails
        self.n_loads = 0

    def warm_up(self):
        if self.fails:
            from matmill.errors import MissingExtraError

            raise MissingExtraError("needs: pip install 'matmill[mace]'")
        self.n_loads += 1

    def __call__(self, x):
        return self.n_loads, os.getpid(), x


def environment(_):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return [os.environ.get(name) for name in names]


def die_once(item):
    """Kill the process at the first try of each item; a file remembers that it was tried."""
    path, value = item
    if not os.path.exists(path):
        with open(path, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return value


def log_and_square(item):
    """Note in a file that this was really run."""
    path, value = item
    with open(path, "a") as file:
        file.write(f"{value}\n")
    return value * value


class DiesAtLoad:
    """Ends its process the first ``n`` times that it is loaded; a file counts them."""

    def __init__(self, path, n):
        self.path = path
        self.n = n

    def warm_up(self):
        with open(self.path, "a+") as file:
            file.seek(0)
            seen = len(file.read())
            if seen < self.n:
                file.write("x")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, x):
        return x
