"""Two processes with a batch each do what one process does with both: the same gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from matmill.crystals.batch import CrystalBatch
from matmill.generate.conditions import ConditionEncoder
from matmill.generate.dataset import TrainingSet, usable
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.task import FlowTask
from matmill.randomness import child
from matmill.training.fit import FitSettings, fit

SEED, STEPS = 3, 12


def data() -> TrainingSet:
    """Return made crystals of two and five atoms."""
    rng = torch.Generator().manual_seed(0)
    sizes = [2, 5] * 40
    batch = CrystalBatch.from_lists(
        [
            (torch.eye(3) * (3 + 0.4 * n) + 0.2 * torch.rand(3, 3, generator=rng)).tolist()
            for n in sizes
        ],
        [torch.rand(n, 3, generator=rng).tolist() for n in sizes],
        [torch.randint(1, 50, (n,), generator=rng).tolist() for n in sizes],
    )
    batch = usable(batch, max_atoms=8)
    return TrainingSet(batch, torch.zeros(len(batch), dtype=torch.int64), n_tokens=40)


def task_on(crystals: TrainingSet) -> FlowTask:
    torch.manual_seed(0)
    size = SIZES["tiny"]
    return FlowTask(Denoiser(size, crystals.scale, ConditionEncoder(size.width, crystals.schema)))


class Pairs:
    """Batches two by two, as two processes take them."""

    def __init__(self, batches: TrainingSet) -> None:
        self.batches = batches

    def epoch(self, number, rng):
        waiting = []
        for batch in self.batches.epoch(number, rng):
            waiting.append(batch)
            if len(waiting) == 2:
                yield tuple(waiting)
                waiting = []


class Joint(nn.Module):
    """The mean of the losses that two processes have, with their random numbers."""

    def __init__(self, task: FlowTask) -> None:
        super().__init__()
        self.task, self.step = task, 0

    def loss(self, pair, rng):
        del rng
        parts = [
            self.task.loss(batch, child(SEED, "step", self.step, rank))
            for rank, batch in enumerate(pair)
        ]
        self.step += 1
        return {"loss": (parts[0]["loss"] + parts[1]["loss"]) / 2}


def settings(devices: int) -> FitSettings:
    return FitSettings(
        max_steps=STEPS,
        devices=devices,
        accelerator="cpu",
        precision="fp32",
        warmup_steps=2,
        ema_decay=0.5,
        log_every_steps=1,
        validate_every_share=0.5,
        validate_max_cost=1e9,
    )


def score(model: nn.Module) -> float:
    """Return a loss on one fixed view, which needs no agreement about random numbers."""
    task = model.task if isinstance(model, Joint) else model
    crystals = data()
    n = min(crystals.counts)
    batch = crystals.rows(n, torch.arange(crystals.counts[n]))
    return float(task.loss(batch, torch.Generator().manual_seed(9))["loss"])


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_joint_batch(tmp_path):
    arguments = [sys.executable, __file__, str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(answer["is_chief"] for answer in answers) == [False, True]
    for name in ("sum", "best", "first"):
        assert answers[0][name] == answers[1][name]  # ranks agree to the last bit

    crystals = data()
    joint = fit(
        Joint(task_on(crystals)),
        Pairs(crystals),
        settings=settings(1),
        folder=tmp_path / "one",
        seed=SEED,
        validate=score,
    )
    assert joint.best_score == pytest.approx(answers[0]["best"], rel=1e-4)
    total = sum(float(t.double().abs().sum()) for t in joint.weights.values())
    assert total == pytest.approx(answers[0]["sum"], rel=1e-6)
    first = joint.weights["task.denoiser.sites_out.weight"].flatten()[:8]
    torch.testing.assert_close(first, torch.tensor(answers[0]["first"]), rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    crystals = data()
    task = task_on(crystals)
    found = fit(
        task, crystals, settings=settings(2), folder=Path(sys.argv[1]), seed=SEED, validate=score
    )
    answer = {
        "is_chief": found.is_chief,
        "best": found.best_score,
        "sum": sum(float(t.double().abs().sum()) for t in found.weights.values()),
        "first": found.weights["denoiser.sites_out.weight"].flatten()[:8].tolist(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
