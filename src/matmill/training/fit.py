"""The one fit loop. Lightning brings devices, precision and DDP; the steps are in `run`."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matmill.errors import MissingExtraError
from matmill.progress import OnEvent, ignore
from matmill.training.precision import choose
from matmill.training.run import BatchSource, Run, Validate
from matmill.training.settings import FitSettings
from matmill.training.trackers import Tracker

__all__ = ["BatchSource", "FitResult", "FitSettings", "fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a training came to.

    Attributes:
        step: Optimiser steps done, over all sittings.
        epoch: Whole epochs done.
        seconds: Seconds of training, over all sittings.
        skipped: Steps left out because a number was not finite.
        best_score: Best validation score, or None without validation.
        best_step: Step of that score.
        is_chief: True in the first of several processes, the one that writes files.
        reason: What ended it: ``max_steps``, ``max_epochs``, ``max_seconds`` or ``patience``.
        weights: The model to use: the average at the best validation, or else the last average.
    """

    step: int
    epoch: int
    seconds: float
    skipped: int
    best_score: float | None
    reason: str
    weights: dict[str, Tensor]
    best_step: int = 0
    is_chief: bool = True


def fit(
    task: nn.Module,
    batches: BatchSource,
    *,
    settings: FitSettings,
    folder: Path,
    seed: int,
    validate: Validate | None = None,
    on_event: OnEvent = ignore,
    resume: bool = True,
    trackers: tuple[Tracker, ...] = (),
) -> FitResult:
    """Train until the first limit, resuming from ``folder/last`` where a run was interrupted.

    The task holds the averaged weights afterwards. A killed run that is called again with the same
    arguments gives the weights of an uninterrupted one (exactly, where no time limit is set).

    Args:
        task: Module with ``loss(batch, rng) -> dict`` of scalars that includes ``"loss"``.
        batches: Training data, the same for the same epoch number.
        settings: Limits, optimiser, precision, checkpoints.
        folder: For ``last.safetensors``, ``last.json`` and ``log.csv``.
        seed: Everything random follows from it.
        validate: Called with the averaged model in evaluation mode; returns a score (lower
            is better, unless the settings say otherwise), or scores of which ``"validation"``
            decides.
        on_event: Receives loss, rate and time left.
        resume: False starts anew and overwrites.
        trackers: Further places for the numbers of the log.

    Raises:
        InputError: If the folder holds a run with another seed.
        DataError: If losses stay not finite, or the checkpoint does not fit the model.
    """
    folder = Path(folder)
    run = Run(
        task,
        batches,
        settings=settings,
        folder=folder,
        seed=seed,
        validate=validate,
        on_event=on_event,
        trackers=trackers,
    )
    if resume:
        run.restore()
    run.check_end()
    if run.ended is None:
        with _silenced(), torch.random.fork_rng():
            _drive(run, settings)
    weights = {k: t.detach().cpu() for k, t in (run.best or run.average.tensors).items()}
    task.to("cpu")
    task.load_state_dict(weights)
    counters = run.counters
    return FitResult(
        step=counters.step,
        epoch=counters.epoch,
        seconds=counters.seconds,
        skipped=counters.skipped,
        best_score=counters.best_score,
        reason=run.ended or "",
        weights=weights,
        best_step=counters.best_step,
        is_chief=run.is_chief,
    )


def _drive(run: Run, settings: FitSettings) -> None:
    try:
        import lightning.pytorch as pl
    except ImportError as error:
        raise MissingExtraError("Training needs: pip install 'matmill[train]'") from error

    class Steps(pl.LightningModule):
        """Hands each batch to the run; Lightning owns device, precision and processes."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.task = run.task

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return run.make_optimizer()

        def on_fit_start(self) -> None:
            trainer = self.trainer
            run.begin(rank=trainer.global_rank, n_ranks=trainer.world_size, device=self.device)

        def training_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401, ARG002
            run.step(batch, self.manual_backward)

        def transfer_batch_to_device(
            self,
            batch: Any,  # noqa: ANN401
            device: torch.device,
            dataloader_idx: int,  # noqa: ARG002
        ) -> Any:  # noqa: ANN401
            return batch if device.type == "cpu" else _moved(batch, device)

        def on_fit_end(self) -> None:
            run.finish()

    class SaveOnStop(pl.Callback):
        """Keep the state when the user or the machine stops the run."""

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401, ARG002
            if isinstance(exception, KeyboardInterrupt) or "SIGTERM" in type(exception).__name__:
                run.save()

    if run.precision is None:
        run.precision = choose(settings.precision, _device_type(settings.accelerator))
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        precision="bf16-mixed" if run.precision == "bf16" else "32-true",
        max_epochs=1,
        max_steps=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=run.folder,
        callbacks=[SaveOnStop()],
    )
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    try:
        trainer.fit(Steps(), train_dataloaders=run)
    except SystemExit:
        # Lightning turns Ctrl-C into an exit and mutes the signal; callers expect the interrupt.
        if in_main:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    finally:
        for tracker in run.trackers:
            tracker.close()


def _device_type(accelerator: str) -> str:
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if accelerator in ("gpu", "cuda") else accelerator


def _moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401 - batches can be anything
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep Lightning from talking: its advice is about settings that this loop fixes."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    # Lightning sets its own level when it is first imported, so import before muting.
    try:
        import lightning.pytorch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Training needs: pip install 'matmill[train]'") from error
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning.*")
        warnings.filterwarnings("ignore", message=r".*(GPU|num_workers|lr_scheduler).*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
