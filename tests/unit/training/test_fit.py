import csv
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from matmill.errors import DataError, InputError
from matmill.training.fit import FitSettings, fit


class ToyTask(nn.Module):
    """Everything that makes resuming hard: dropout, batch statistics, noise."""

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.first, self.norm = nn.Linear(4, 16), nn.BatchNorm1d(16)
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(16, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=rng)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))[:, 0]

    def loss(self, batch, rng):
        x, y = batch
        noise = 0.05 * torch.randn(x.shape, generator=rng, device=x.device)
        return {"loss": (self(x + noise) - y).square().mean()}


class ToyBatches:
    def __init__(self, n_batches=7):
        self.n_batches = n_batches

    def epoch(self, number, rng):  # noqa: ARG002
        for _ in range(self.n_batches):
            x = torch.randn(8, 4, generator=rng)
            yield x, x.sum(1)


def score(model):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(5))
    return float((model(x) - x.sum(1)).square().mean())


def settings(**changes):
    base = {"max_steps": 60, "precision": "fp32", "warmup_steps": 5, "log_every_steps": 5}
    return FitSettings(**{**base, **changes})


def _fit(folder, *, task=None, batches=None, seed=3, **changes):
    extra = {k: changes.pop(k) for k in ("validate", "on_event", "resume") if k in changes}
    return fit(
        task or ToyTask(),
        batches or ToyBatches(),
        settings=settings(**changes),
        folder=folder,
        seed=seed,
        **extra,
    )


def _same(a, b):
    return all(torch.equal(a.weights[name], b.weights[name]) for name in b.weights)


def test_training_learns_and_is_reproducible(tmp_path):
    first = _fit(tmp_path / "a", max_steps=200, learning_rate=0.02, ema_decay=0.9)
    again = _fit(tmp_path / "b", max_steps=200, learning_rate=0.02, ema_decay=0.9)
    other = _fit(tmp_path / "c", max_steps=200, learning_rate=0.02, ema_decay=0.9, seed=4)
    assert _same(first, again)
    assert not _same(first, other)
    task = ToyTask().eval()
    with torch.no_grad():
        before = score(task)
        task.load_state_dict(first.weights)
        assert score(task) < 0.5 * before


@pytest.mark.parametrize("n_first", [1, 7, 10, 14, 59])
def test_two_sittings_equal_one(tmp_path, n_first):
    whole = _fit(tmp_path / "whole", decay="none")
    _fit(tmp_path / "parts", decay="none", max_steps=n_first)
    parts = _fit(tmp_path / "parts", decay="none")
    assert (parts.step, parts.epoch) == (60, whole.epoch)
    assert _same(parts, whole)


def test_a_killed_run_continues_to_the_same_weights(tmp_path):
    whole = _fit(tmp_path / "whole", validate=score, validate_every_steps=6)
    folder = tmp_path / "killed"
    folder.mkdir()
    for hang_at in (12, 20):  # inside an epoch, killed twice
        (folder / "hanging").unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(folder), str(hang_at)],
            stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            deadline = time.monotonic() + 300  # a busy machine starts processes slowly
            while not (folder / "hanging").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdin.close()
    assert (folder / "last.safetensors").exists()
    resumed = _fit(folder, validate=score, validate_every_steps=6)
    assert resumed.step == 60
    assert resumed.best_score == whole.best_score
    assert _same(resumed, whole)
    with (folder / "log.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["loss"]]
    assert steps == list(range(5, 61, 5))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = _fit(tmp_path)
    stamp = (tmp_path / "last.safetensors").stat().st_mtime_ns
    again = _fit(tmp_path)
    assert _same(first, again)
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns == stamp
    assert _fit(tmp_path, resume=False, max_steps=5).step == 5


def test_a_folder_of_another_seed_or_model_is_refused(tmp_path):
    _fit(tmp_path, max_steps=2)
    with pytest.raises(InputError, match="seed 3, not 4"):
        _fit(tmp_path, seed=4)
    task = ToyTask()
    task.last = nn.Linear(16, 2)
    with pytest.raises(DataError, match="does not fit"):
        _fit(tmp_path, task=task)


class _Line(nn.Module):
    """loss = slope · w: the gradient is the slope itself."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def loss(self, batch, rng):  # noqa: ARG002
        return {"loss": (self.w * batch).sum()}


class _Slopes:
    def __init__(self, slopes):
        self.slopes = slopes

    def epoch(self, number, rng):  # noqa: ARG002
        for slope in self.slopes:
            yield torch.tensor([slope])


def _rows(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_average_follows_its_formula(tmp_path):
    # AdamW on a constant gradient moves by the rate each step, so the weights are known.
    rate, decay, n_steps = 0.1, 0.8, 30
    changes = {
        "max_steps": n_steps,
        "learning_rate": rate,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "decay": "none",
        "ema_decay": decay,
    }
    result = _fit(tmp_path, task=_Line(), batches=_Slopes([1.0]), **changes)
    expected = 0.0
    for k in range(n_steps):
        d = min(decay, (1 + k) / (10 + k))
        expected = d * expected + (1 - d) * -rate * (k + 1)
    assert float(result.weights["w"]) == pytest.approx(expected, rel=1e-4)


def test_gradients_are_clipped(tmp_path):
    seen = []

    class Watched(_Line):
        def loss(self, batch, rng):
            if self.w.grad is not None:
                seen.append(float(self.w.grad))
            return super().loss(batch, rng)

    def run(folder, clip):
        task = Watched()
        recorded = []
        original = torch.nn.utils.clip_grad_norm_

        def clip_and_record(parameters, limit):
            parameters = list(parameters)
            norm = original(parameters, limit)
            recorded.append(float(parameters[0].grad.norm()))
            return norm

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", clip_and_record)
            _fit(folder, task=task, batches=_Slopes([50.0]), max_steps=3, clip_norm=clip)
        return recorded

    assert run(tmp_path / "a", 2.0) == pytest.approx([2.0] * 3, rel=1e-4)
    assert run(tmp_path / "b", 0.0) == pytest.approx([50.0] * 3)
    assert not seen  # gradients are cleared after each step


def test_a_bad_step_is_skipped_and_leaves_no_trace(tmp_path):
    slopes = [1.0, math.nan, 1.0, math.inf]
    result = _fit(tmp_path, task=_Line(), batches=_Slopes(slopes), max_steps=8, decay="none")
    assert result.skipped == 4
    assert torch.isfinite(result.weights["w"]).all()


def test_a_bad_batch_does_not_reach_batch_statistics(tmp_path):
    class Spoiled(ToyBatches):
        def epoch(self, number, rng):
            for i, (x, y) in enumerate(super().epoch(number, rng)):
                yield (x * math.nan if i == 3 else x), y

    result = _fit(tmp_path, batches=Spoiled(), max_steps=21)
    assert result.skipped == 3
    assert all(torch.isfinite(t).all() for t in result.weights.values())


def test_many_bad_steps_in_a_row_end_the_run(tmp_path):
    with pytest.raises(DataError, match="not finite in 20 steps in a row"):
        _fit(tmp_path, task=_Line(), batches=_Slopes([math.nan]), max_steps=100)


def test_early_stop_returns_the_best_weights(tmp_path):
    scores = iter([3.0, 2.0, 1.0, 5.0, math.nan, 5.0, 0.0])
    kept = []

    def validate(model):
        assert not model.training
        kept.append(model.first.weight.detach().clone())
        return next(scores)

    result = _fit(tmp_path, validate=validate, validate_every_steps=4, patience=3, max_steps=1000)
    assert (result.reason, result.step, result.best_score) == ("patience", 24, 1.0)
    assert torch.equal(result.weights["first.weight"], kept[2])
    assert [row["validation"] for row in _rows(tmp_path) if row["validation"]][:2] == ["3", "2"]


def test_limits_by_time_count_all_sittings(tmp_path):
    changes = {"max_steps": None, "max_seconds": 0.3, "checkpoint_every_seconds": 0.05}
    first = _fit(tmp_path, **changes)
    assert first.reason == "max_seconds"
    assert 0.3 <= first.seconds < 2.0
    again = _fit(tmp_path, **changes)
    assert again.step == first.step
    longer = _fit(tmp_path, **{**changes, "max_seconds": first.seconds + 0.2})
    assert longer.seconds >= first.seconds + 0.2
    assert longer.step > first.step


def test_limit_by_epochs_and_falling_rate(tmp_path):
    result = _fit(tmp_path, max_steps=None, max_epochs=3, decay="cosine", log_every_steps=1)
    assert (result.step, result.epoch, result.reason) == (21, 3, "max_epochs")
    rates = [float(row["learning_rate"]) for row in _rows(tmp_path)]
    assert rates[-1] < 0.1 * max(rates)


def test_events_report_loss_rate_and_time_left(tmp_path):
    events = []
    _fit(tmp_path, on_event=events.append, max_steps=40)
    last = events[-1]
    assert (last.stage, last.done, last.total) == ("train", 40, 40)
    assert set(last.values) >= {"loss", "steps_per_second", "seconds_left"}


def test_an_interrupt_keeps_the_state(tmp_path):
    class Interrupting(ToyBatches):
        def epoch(self, number, rng):
            for i, batch in enumerate(super().epoch(number, rng)):
                if number == 2 and i == 3:
                    raise KeyboardInterrupt
                yield batch

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "a", batches=Interrupting())
    assert signal.getsignal(signal.SIGINT) is handler
    assert _same(_fit(tmp_path / "a"), _fit(tmp_path / "b"))


def test_nothing_but_our_files_and_no_output(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _fit(tmp_path / "run", max_steps=3)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert names == ["last.json", "last.safetensors", "log.csv"]
    assert capfd.readouterr() == ("", "")


def test_bfloat16_is_used_in_products(tmp_path):
    seen = set()

    class Watched(ToyTask):
        def forward(self, x):
            seen.add(self.first(x).dtype)
            return super().forward(x)

    result = _fit(tmp_path, task=Watched(), precision="bf16", max_steps=5)
    assert seen == {torch.bfloat16}
    assert result.weights["first.weight"].dtype == torch.float32


def test_the_callers_random_stream_is_untouched(tmp_path):
    task = ToyTask()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    _fit(tmp_path, task=task, max_steps=3)
    assert torch.equal(torch.rand(3), expected)


def test_empty_data_and_missing_limits_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"0 batch\(es\)"):
        _fit(tmp_path, batches=ToyBatches(0))
    with pytest.raises(ValueError, match="max_steps, max_epochs or max_seconds"):
        FitSettings()


@pytest.mark.slow
def test_two_processes_agree_on_the_weights(tmp_path):
    arguments = [sys.executable, __file__, str(tmp_path / "run"), "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sums = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("sum")]
    assert len(sums) == 2
    assert sums[0] == sums[1]
    assert _rows(tmp_path / "run")[-1]["step"] == "20"


if __name__ == "__main__":  # a process that a test can kill: folder, steps, step to hang at
    folder, what = Path(sys.argv[1]), sys.argv[2]
    if what == "ddp":
        one_of_two = settings(devices=2, accelerator="cpu", max_steps=20)
        found = fit(ToyTask(), ToyBatches(), settings=one_of_two, folder=folder, seed=3)
        # Batch statistics are each process's own; the first one's are kept.
        own = {k: v for k, v in found.weights.items() if "running" not in k}
        sys.stdout.write(f"sum {sum(float(v.double().sum()) for v in own.values()):.9f}\n")
        sys.exit()
    hang_at = int(what)

    class Slow(ToyBatches):
        count = 0

        def epoch(self, number, rng):
            for batch in super().epoch(number, rng):
                Slow.count += 1
                if Slow.count > hang_at:
                    (folder / "hanging").touch()
                    sys.stdin.read()
                yield batch

    fit(
        ToyTask(),
        Slow(),
        settings=settings(checkpoint_every_seconds=0.0, validate_every_steps=6),
        folder=folder,
        seed=3,
        validate=score,
    )
