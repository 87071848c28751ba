"""One of two drivers that fill the same store at once."""

import torch

from matmill.campaign.records import Evaluation, Row
from matmill.campaign.store import Store
from matmill.crystals.batch import CrystalBatch

N_TASKS = 40


def crystals(task):
    """Three crystals; one of them comes in every task."""
    lengths = [4.0, 5.0 + 0.01 * task, 7.0 + 0.01 * task]
    return CrystalBatch.from_lists(
        [(length * torch.eye(3)).tolist() for length in lengths],
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]] * 3,
        [[31, 7]] * 3,
    )


def fill(url, order):
    store = Store(url)
    tasks = range(N_TASKS) if order == "up" else range(N_TASKS - 1, -1, -1)
    for task in tasks:
        batch = crystals(task)
        numbers = store.add(batch, round_number=0, task=task, origin="flow")
        paid = [Evaluation(structure=one, values={"task": task}) for one in batch.hashes]
        rows = [Row(candidate=n, values={"task": task}) for n in numbers]
        store.finish("screen", rows, evaluator="e", evaluations=paid)
        store.log("screen", "finished", seconds=1.0)
    store.set_settings(**{order: "finished"})
    store.close()
