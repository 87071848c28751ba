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
