"""Validation at shares of the training: when, at what cost, which weights it keeps."""

import json
import time

import pytest
import torch
from torch import nn

from matmill.training import checkpoint
from matmill.training.fit import FitSettings, fit
from matmill.training.keep import keep_best


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 1))

    def loss(self, batch, rng):
        noise = 0.1 * torch.randn(len(batch), 1, generator=rng)
        return {"loss": (batch @ self.weight - batch.sum(1, keepdim=True) + noise).square().mean()}


class Batches:
    def epoch(self, number, rng):  # noqa: ARG002
        for _ in range(10):
            yield torch.randn(16, 3, generator=rng)


def run(folder, validate, **changes):
    base = {
        "learning_rate": 0.05,
        "warmup_steps": 1,
        "precision": "fp32",
        "ema_decay": 0.5,
        "log_every_steps": 10,
        "validate_every_share": 0.25,
    }
    settings = FitSettings(**{**base, **changes})
    return fit(Line(), Batches(), settings=settings, folder=folder, seed=0, validate=validate)


def noting(seen, scores=None):
    """Return a validation that notes the step and deals out given scores."""

    def validate(model):
        seen.append(float(model.weight.sum()))
        return {"validation": scores[len(seen) - 1] if scores else 0.0, "other": 7.0}

    return validate


def validated_steps(folder):
    rows = (folder / "log.csv").read_text().splitlines()
    names = rows[0].split(",")
    rows = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    return [int(row["step"]) for row in rows if row.get("validation")]


@pytest.mark.parametrize(
    ("limit", "steps"), [({"max_steps": 30}, [8, 15, 23, 30]), ({"max_epochs": 2}, [11, 15, 20])]
)
def test_it_comes_at_shares_of_whichever_limit_and_at_the_end(tmp_path, limit, steps):
    run(tmp_path, noting([]), **limit)
    found = validated_steps(tmp_path)
    # The length of an epoch is known when the second begins.
    assert found == steps


def test_higher_can_be_better_and_the_best_weights_come_back(tmp_path):
    seen = []
    validate = noting(seen, [0.2, 0.9, 0.5, 0.1])
    result = run(tmp_path, validate, max_steps=40, higher_is_better=True, keep_best=2)
    assert result.best_score == 0.9
    assert result.best_step == 20
    assert float(result.weights["weight"].sum()) == pytest.approx(seen[1])
    kept = sorted(path.stem for path in (tmp_path / "best").glob("*.safetensors"))
    assert kept == ["step-00000020", "step-00000030"]
    tensors, card = checkpoint.load(tmp_path / "best" / "step-00000020")
    assert torch.equal(tensors["weight"], result.weights["weight"])
    assert card["scores"] == {"validation": 0.9, "other": 7.0, "rank": -0.9}


def test_lower_is_better_by_default(tmp_path):
    result = run(tmp_path, noting([], [0.2, 0.9, 0.5, 0.1]), max_steps=40)
    assert (result.best_score, result.best_step) == (0.1, 40)
    assert not (tmp_path / "best").exists()


def test_a_resumed_run_validates_at_the_same_steps(tmp_path):
    run(tmp_path / "whole", noting([]), max_steps=40)

    class StopError(Exception):
        pass

    def stop(model):
        if (tmp_path / "part" / "last.json").exists():
            last = json.loads((tmp_path / "part" / "last.json").read_text())
            if last["counters"]["step"] >= 15:
                raise StopError
        del model
        return 0.0

    with pytest.raises(StopError):
        run(tmp_path / "part", stop, max_steps=40, checkpoint_every_seconds=0.0)
    run(tmp_path / "part", noting([]), max_steps=40, checkpoint_every_seconds=0.0)
    assert validated_steps(tmp_path / "part") == validated_steps(tmp_path / "whole")


def test_dear_validations_are_put_off_where_time_is_limited(tmp_path):
    def slow(model):
        del model
        time.sleep(0.4)
        return 0.0

    run(tmp_path, slow, max_seconds=1.5, validate_every_share=0.01, validate_max_cost=0.01)
    # The first one uses up what all may take; the end is validated nonetheless.
    assert len(validated_steps(tmp_path)) == 2


def test_the_clock_can_be_the_processors(tmp_path):
    def idle(model):
        del model
        time.sleep(0.3)
        return 0.0

    result = run(tmp_path, idle, max_steps=20, clock="cpu")
    asleep = run(tmp_path / "wall", idle, max_steps=20)
    assert asleep.seconds > 4 * 0.3
    assert result.seconds < asleep.seconds


def test_damaged_files_do_not_stop_the_keeping_of_others(tmp_path):
    (tmp_path / "step-00000001.safetensors").write_bytes(b"no")
    weights = {"a": torch.ones(1)}
    keep_best(tmp_path, weights, step=2, scores={"rank": 2.0}, n=2)
    keep_best(tmp_path, weights, step=3, scores={"rank": 1.0}, n=2)
    left = keep_best(tmp_path, weights, step=4, scores={"rank": 3.0}, n=2)
    assert [path.stem for path in left] == ["step-00000003", "step-00000002"]
    assert not (tmp_path / "step-00000004.safetensors").exists()
