"""Run a list of tasks in children that kill themselves at the n-th event, one after another.

A script of its own, so that forked children can be killed without harm to the test run.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import campaign_tasks as tasks  # noqa: E402

from matmill.campaign.store import Store  # noqa: E402
from matmill.campaign.tasks import TaskBoard  # noqa: E402
from matmill.campaign.workers import InlineWorkers  # noqa: E402
from matmill.progress import ignore  # noqa: E402

N_TASKS = 12


def run(store, log, on_event=ignore):
    items = list(range(N_TASKS))
    inputs = [(str(log), i) for i in items]
    board = TaskBoard(store)
    work = tasks.log_and_square
    return board.run("logged", items, work, InlineWorkers(), on_event, inputs=inputs)


def killed(url, log, kill_at):
    """Return how a child ended that was to kill itself at an event."""
    child = os.fork()
    if child == 0:
        seen = 0

        def listen(_):
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        run(Store(url), log, listen)
        os._exit(0)
    return -os.WTERMSIG(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    ends = [killed(sys.argv[1], sys.argv[2], int(n)) for n in sys.argv[3:]]
    sys.stdout.write(json.dumps(ends))
