"""Settings of a training; shared by both model families."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from matmill.config import Settings
from matmill.training.precision import Precision
from matmill.training.schedule import Decay


class FitSettings(Settings):
    """How to train. The first limit that is reached ends the training; at least one is needed.

    Attributes:
        max_steps: Optimiser steps, or None.
        max_epochs: Passes over the data, or None.
        max_seconds: Seconds of training summed over all sittings, or None.
        clock: What a second is: ``wall``, or ``cpu`` for equal budgets on a busy machine.
        optimizer: ``adamw``, or ``sgd`` with momentum.
        learning_rate: Peak rate.
        betas: Decay of the two moments of AdamW.
        momentum: Of SGD.
        weight_decay: On matrices only.
        warmup_steps: Steps over which the rate rises.
        decay: How the rate falls: ``linear-tail``, ``cosine`` or ``none``.
        drop_epochs: Epochs from which on the rate is a tenth of what it was before.
        decay_tail: Share of the training over which ``linear-tail`` falls to 0.
        clip_norm: Largest gradient norm; 0 does not clip.
        ema_decay: Decay of the average of the weights, reached gradually.
        precision: ``auto`` takes bfloat16 where a short test shows that it pays.
        patience: Validations without a better score before stopping; 0 never stops.
        validate_every_steps: Steps between validations; 0 never validates.
        validate_every_share: Share of the training between validations, by the limit that is
            nearest; then the end is validated too. 0 never validates.
        validate_max_cost: With a limit of time, validations that come by share are put off while
            they have taken more than this share of it.
        higher_is_better: Whether validation scores are to be large.
        keep_best: How many of the best validated weights stay in the folder ``best``.
        log_every_steps: Steps that one row of the log averages over.
        checkpoint_every_seconds: Time between resumable checkpoints.
        accelerator: Lightning's name of the device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        devices: How many devices; more than one trains with DDP.
    """

    max_steps: Annotated[int, Field(ge=0)] | None = None
    max_epochs: Annotated[int, Field(ge=0)] | None = None
    max_seconds: Annotated[float, Field(ge=0.0)] | None = None
    clock: Literal["wall", "cpu"] = "wall"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Decay = "linear-tail"
    drop_epochs: tuple[int, ...] = ()
    decay_tail: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    precision: Precision = "auto"
    patience: Annotated[int, Field(ge=0)] = 0
    validate_every_steps: Annotated[int, Field(ge=0)] = 0
    validate_every_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    validate_max_cost: Annotated[float, Field(ge=0.0)] = 0.03
    higher_is_better: bool = False
    keep_best: Annotated[int, Field(ge=0)] = 0
    log_every_steps: Annotated[int, Field(gt=0)] = 20
    checkpoint_every_seconds: Annotated[float, Field(ge=0.0)] = 180.0
    accelerator: str = "auto"
    devices: Annotated[int, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _has_an_end(self) -> "FitSettings":
        if self.max_steps is None and self.max_epochs is None and self.max_seconds is None:
            raise ValueError("give max_steps, max_epochs or max_seconds")
        return self
