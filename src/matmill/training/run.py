"""State and single steps of one training run; `fit` drives it through Lightning."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from matmill.errors import DataError, InputError
from matmill.progress import OnEvent
from matmill.randomness import child, child_seed
from matmill.training import checkpoint
from matmill.training.average import MovingAverage
from matmill.training.keep import keep_best
from matmill.training.optimizer import load_state, make_optimizer
from matmill.training.report import Report
from matmill.training.schedule import Limits, rate_factor
from matmill.training.settings import FitSettings
from matmill.training.trackers import CsvLog, Tracker

MAX_BAD_STEPS = 20


@runtime_checkable
class BatchSource(Protocol):
    """Training data that can be walked again, the same way for the same epoch."""

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[Any]:
        """Yield the batches of one epoch; the same number and rng state give the same ones."""
        ...


Validate = Callable[[nn.Module], float | Mapping[str, float]]
"""Scores a model: a number, or numbers by name of which ``"validation"`` decides."""


@dataclass
class Counters:
    """Where a training stands; everything a resumed run needs besides tensors.

    Attributes:
        step: Optimiser steps done, skipped ones included.
        epoch: Number of the present epoch.
        position: Batches of this epoch that are done.
        seconds: Seconds of training over all sittings.
        skipped: Steps left out because a number was not finite.
        epoch_length: Batches of the last whole epoch; 0 while unknown.
        best_score: Best validation score; None before the first.
        best_step: Step of that score.
        stale_validations: Validations since then.
        last_score: Newest validation score; None before the first.
        validated_step: Step of that score.
        validation_seconds: Part of ``seconds`` that went into validation.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    skipped: int = 0
    epoch_length: int = 0
    best_score: float | None = None
    best_step: int = 0
    stale_validations: int = 0
    last_score: float | None = None
    validated_step: int = -1
    validation_seconds: float = 0.0

    @property
    def epochs(self) -> float:
        """Epochs done, with the part of the present one; whole ones while its length is unknown."""
        length = self.epoch_length
        return self.epoch + (min(self.position / length, 1.0) if length else 0.0)


class Run:
    """One training run: counters, optimiser, average, logs and checkpoints."""

    def __init__(
        self,
        task: nn.Module,
        batches: BatchSource,
        *,
        settings: FitSettings,
        folder: Path,
        seed: int,
        validate: Validate | None,
        on_event: OnEvent,
        trackers: tuple[Tracker, ...],
    ) -> None:
        self.task, self.batches, self.settings, self.seed = task, batches, settings, seed
        self.folder, self.validate = folder, validate
        self.trackers: tuple[Tracker, ...] = trackers
        self.limits = Limits(settings.max_steps, settings.max_epochs, settings.max_seconds)
        self.report = Report(self.limits, on_event)
        self.counters = Counters()
        self.average = MovingAverage(task, settings.ema_decay)
        self.best: dict[str, Tensor] = {}
        self.ended: str | None = None
        self.is_chief, self.rank, self.n_ranks = True, 0, 1
        self.is_consistent = True
        self.precision: str | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self._optimizer_tensors: dict[str, Tensor] = {}
        self._bad_in_row = 0
        self._rate = 0.0
        self._base_seconds = 0.0
        self._validation_mark = 0
        self._clock = time.process_time if settings.clock == "cpu" else time.monotonic

    # ------------------------------------------------------------------ start and resume
    def restore(self) -> bool:
        """Continue from ``last`` in the folder, where there is one; return whether."""
        path = self.folder / "last"
        if not checkpoint.weights_path(path).exists():
            return False
        tensors, card = checkpoint.load(path, recover=True)
        if card.get("seed") != self.seed:
            raise InputError(
                f"{self.folder} holds a training with seed {card.get('seed')}, not {self.seed}. "
                "Use that seed, another folder, or resume=False."
            )
        groups = _split_names(tensors)
        checkpoint.load_into(self.task, groups.get("model", {}), source=str(path))
        self.average.tensors = groups.get("ema", {})
        self.best = groups.get("best", {})
        self._optimizer_tensors = groups.get("optimizer", {})
        self.counters = Counters(**card["counters"])
        if self.settings.precision == "auto":
            # Measured anew, a borderline machine could go on in another precision.
            self.precision = card.get("precision")
        return True

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser, in the state of the run that goes on."""
        self.optimizer = make_optimizer(self.task, self.settings)
        if self._optimizer_tensors:
            load_state(self.optimizer, self._optimizer_tensors)
        return self.optimizer

    def begin(self, *, rank: int, n_ranks: int, device: torch.device) -> None:
        """Take the role of one of several processes and start the clock."""
        self.rank, self.n_ranks, self.is_chief = rank, n_ranks, rank == 0
        tensors = self.average.tensors
        self.average.tensors = {name: t.to(device) for name, t in tensors.items()}
        if self.is_chief:
            log = CsvLog(self.folder / "log.csv", last_step=self.counters.step)
            self.trackers = (log, *self.trackers)
        counters = self.counters
        self._base_seconds = counters.seconds
        if share := self.settings.validate_every_share:
            done = self.limits.progress(counters.step, counters.epochs, counters.seconds)
            self._validation_mark = math.floor(done / share + 1e-9)
        self._began, self._saved = self._clock(), time.monotonic()
        self.report.begin(self.counters.step)

    # ------------------------------------------------------------------ data
    def __len__(self) -> int:
        """Claim a great length: Lightning then never fetches a batch ahead of its step."""
        return 2**40

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (epoch, batches done after this one, batch) until the training has ended."""
        self.check_end()
        skip = self.counters.position
        for epoch in range(self.counters.epoch, 2**40):
            n_batches, mine = 0, None
            rng = child(self.seed, "epoch", epoch)
            for n_batches, batch in enumerate(self.batches.epoch(epoch, rng), start=1):
                if n_batches <= skip:
                    continue
                # Every process sees all batches and takes one of each n_ranks.
                if (n_batches - 1) % self.n_ranks == self.rank:
                    mine = batch
                if n_batches % self.n_ranks == 0:
                    if self.ended is not None:
                        return
                    yield epoch, n_batches, mine
            if n_batches < self.n_ranks:
                raise InputError(
                    f"The data gave {n_batches} batch(es) in epoch {epoch}; "
                    f"{self.n_ranks} process(es) need at least one each."
                )
            skip = 0
            if self.ended is None:
                self.counters.epoch_length = n_batches
                self.counters.epoch, self.counters.position = epoch + 1, 0
                self.check_end()
            if self.ended is not None:
                return

    # ------------------------------------------------------------------ one step
    def step(self, item: tuple[int, int, Any], backward: Callable[[Tensor], None]) -> None:
        """Do one optimiser step with what the feed gave."""
        assert self.optimizer is not None
        epoch, position, batch = item
        device = next(self.task.parameters()).device
        buffers = [b for b in self.task.buffers() if b.is_floating_point()]
        kept = [b.clone() for b in buffers]
        # Dropout draws from torch's own stream: tie it to the step, so a resumed run repeats it.
        _seed_torch(child_seed(self.seed, "dropout", self.counters.step, self.rank), device)
        rng = child(self.seed, "step", self.counters.step, self.rank, device=device)
        parts = self.task.loss(batch, rng)  # pyright: ignore[reportCallIssue]
        loss = parts["loss"]
        backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(
            self.task.parameters(), self.settings.clip_norm or math.inf
        )
        self._set_rate()
        # After the backward pass the gradients, so also their norm, agree over all processes.
        is_finite = math.isfinite(float(norm)) and self._agree(math.isfinite(float(loss.detach())))
        self.is_consistent = False
        if is_finite:
            self.optimizer.step()
            self.average.update(self.task, self.counters.step - self.counters.skipped)
            self._bad_in_row = 0
        else:
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
            self.counters.skipped += 1
            self._bad_in_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.counters.step += 1
        self.counters.epoch, self.counters.position = epoch, position
        self.counters.seconds = self._shared_seconds()
        self.is_consistent = True
        if self._bad_in_row >= MAX_BAD_STEPS:
            raise DataError(
                f"The loss or its gradient was not finite in {MAX_BAD_STEPS} steps in a row (step "
                f"{self.counters.step}). Check the data for NaN, or lower the learning rate "
                f"({self.settings.learning_rate:g})."
            )
        if is_finite:
            self.report.count(parts, float(norm))
        self._after_step()

    def _after_step(self) -> None:
        step = self.counters.step
        if self.is_chief and step % self.settings.log_every_steps == 0:
            self.report.log(self.counters, self._rate, self.trackers)
        self.check_end()
        if self.validate is not None and self._is_due():
            self._validate()
            self.check_end()
        now = time.monotonic()
        if self.ended is None and now - self._saved >= self.settings.checkpoint_every_seconds:
            self.save()

    def _is_due(self) -> bool:
        """Return whether to validate after this step."""
        counters, settings = self.counters, self.settings
        every, share = settings.validate_every_steps, settings.validate_every_share
        if every and counters.step % every == 0:
            return True
        if not share or self.ended is not None:
            return False  # `finish` validates the end
        # Without a limit of time the run must not depend on the clock.
        is_dear = counters.validation_seconds > settings.validate_max_cost * counters.seconds
        if self.limits.seconds is not None and is_dear:
            return False
        done = self.limits.progress(counters.step, counters.epochs, counters.seconds)
        mark = math.floor(done / share + 1e-9)
        is_new, self._validation_mark = mark > self._validation_mark, mark
        return is_new

    def _validate(self) -> None:
        assert self.validate is not None
        counters, settings = self.counters, self.settings
        began = self._shared_seconds()
        device_type = next(self.task.parameters()).device.type
        # Scores are compared over the whole run: no rounding to bfloat16 in them.
        exact = torch.autocast(device_type, enabled=False)
        found: float | Mapping[str, float] = 0.0
        if self.is_chief:
            with self.average.applied(self.task), torch.no_grad(), exact:
                found = self.validate(self.task)
        parts = {"validation": float(found)} if isinstance(found, (int, float)) else dict(found)
        score = self._shared(parts["validation"])
        sign = -1.0 if settings.higher_is_better else 1.0
        best = counters.best_score
        is_best = math.isfinite(score) and (best is None or sign * score < sign * best)
        if is_best:
            counters.best_score, counters.best_step = score, counters.step
            counters.stale_validations = 0
            self.best = {name: t.clone() for name, t in self.average.tensors.items()}
        else:
            counters.stale_validations += 1
        counters.last_score, counters.validated_step = score, counters.step
        counters.seconds = self._shared_seconds()
        counters.validation_seconds += counters.seconds - began
        if not self.is_chief:
            return
        for tracker in self.trackers:
            tracker.log(counters.step, parts)
        if settings.keep_best and math.isfinite(score):
            ranked = {**parts, "rank": sign * score}
            keep_best(
                self.folder / "best",
                self.average.tensors,
                step=counters.step,
                scores=ranked,
                n=settings.keep_best,
            )

    def check_end(self) -> None:
        """Note in ``ended`` which limit is reached, if any."""
        counters, patience = self.counters, self.settings.patience
        self.ended = self.limits.reached(counters.step, counters.epoch, counters.seconds)
        if self.ended is None and patience and counters.stale_validations >= patience:
            self.ended = "patience"

    def _set_rate(self) -> None:
        assert self.optimizer is not None
        counters = self.counters
        self._rate = self.settings.learning_rate * rate_factor(
            self.limits.progress(counters.step, counters.epochs, counters.seconds),
            counters.step,
            warmup_steps=self.settings.warmup_steps,
            decay=self.settings.decay,
            tail=self.settings.decay_tail,
        )
        self._rate *= 0.1 ** sum(counters.epoch >= epoch for epoch in self.settings.drop_epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * group["factor"]

    # ------------------------------------------------------------------ many processes
    def _shared_seconds(self) -> float:
        return self._shared(self._base_seconds + self._clock() - self._began)

    def _shared(self, value: float) -> float:
        """Return the first process's number in all of them."""
        if self.n_ranks == 1:
            return value
        device = next(self.task.parameters()).device
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.broadcast(shared, 0)
        return float(shared)

    def _agree(self, is_fine: bool) -> bool:
        if self.n_ranks == 1:
            return is_fine
        flag = torch.tensor(float(is_fine), device=next(self.task.parameters()).device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag > 0.5)

    # ------------------------------------------------------------------ checkpoints
    def finish(self) -> None:
        """Validate the last weights, where that is done at intervals, and save."""
        is_new = self.counters.validated_step != self.counters.step
        if self.validate is not None and self.settings.validate_every_share and is_new:
            self._validate()
        self.save()

    def save(self) -> None:
        """Write the resumable checkpoint ``last``; only the first process does."""
        self._saved = time.monotonic()
        if not self.is_chief or not self.is_consistent or self.optimizer is None:
            return
        state = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": t for name, t in self.task.state_dict().items()}
        tensors |= {f"ema.{name}": t for name, t in self.average.tensors.items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        tensors |= {
            f"optimizer.{index}.{key}": torch.as_tensor(value)
            for index, entry in state.items()
            for key, value in entry.items()
        }
        card = {
            "kind": "matmill training checkpoint",
            "seed": self.seed,
            "counters": asdict(self.counters),
            "settings": self.settings.model_dump(),
            "precision": self.precision,
        }
        checkpoint.save(self.folder / "last", tensors, card)


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own stream; `torch.manual_seed` records a stack trace for each absent device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _split_names(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, rest = name.split(".", 1)
        groups.setdefault(group, {})[rest] = tensor
    return groups
