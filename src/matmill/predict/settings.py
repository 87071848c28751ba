"""Settings of the training of a network predictor, and the presets that fill them in."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from matmill.config import Settings
from matmill.predict.networks import reads_compositions
from matmill.predict.task import Loss

Preset = Literal["tuned", "reference"]

FEW_ROWS = 1000
"""With fewer, a tenth of them held out for calibration is too few to promise a coverage."""

_FOLDS = 5  # with fewer, each member would miss too many rows
_MEMBERS = 3

PRESETS: dict[str, dict[str, Any]] = {
    "tuned": {},
    # Xie and Grossman (2018) and the settings of their program.
    "reference": {
        "network": "cgcnn-reference",
        "n_members": 1,
        "batch_crystals": 256,
        "batches": "plain",
        "epochs": 30,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "drop_epochs": (100,),
        "loss": "mse",
        "scale": "mean",
        "keeps_best": True,
        "precision": "fp32",
    },
}
"""What each preset sets; anything given beside it wins."""


class TrainSettings(Settings):
    """How to train a predictor.

    Attributes:
        preset: ``tuned`` is our recipe: absolute error on a robust scale, AdamW with a falling
            rate, averaged weights, no early stop. ``reference`` is CGCNN as published.
        network: ``cgcnn`` reads structures, ``composition`` and ``roost`` only what they are
            made of.
        n_members: Networks in the ensemble; by default 3, or 5 that calibrate on folds.
        width: Features of an atom.
        hidden: Width of the layers after pooling.
        n_layers: Convolutions or rounds of messages; ``composition`` has none.
        n_neighbors: Nearest neighbours of each atom.
        cutoff_angstrom: Farthest neighbour.
        max_atoms: Larger cells are left out.
        batch_crystals: Crystals in a training batch.
        batches: ``even`` draws equal numbers, rare labels more often; ``by-size`` puts crystals of
            similar size together, where memory matters; ``plain`` takes every row once.
        epochs: Passes over the data; by default as many as the size of the data suggests.
        seconds_per_member: Training time of each member at most; None sets no limit.
        seconds: The same of all members together; give one of the two.
        stem_seconds: Time to train one network whose weights all members start from, with fresh
            last layers; 0 starts each from scratch. Worth it when time is short: members are then
            less different, but each has seen more.
        optimizer: ``adamw``, or ``sgd`` with momentum 0.9 and a constant rate.
        learning_rate: Peak rate.
        drop_epochs: Epochs from which on the rate is a tenth of what it was before.
        taken_rate: Factor on the rate of layers that were taken from another file; None for what
            the card of an encoder says, else 0.2, and 1 with a predictor.
        loss: What the mean learns from; see `predict.task.PropertyTask`.
        scale: Targets are centred and scaled by ``median`` and mean deviation, moduli as
            logarithms, or by ``mean`` and standard deviation of at most 500 of them.
        calibration: Where error bars come from. ``held-out``: the validation rows, which no member
            learns from. ``folds``: each member leaves out its share of the rows, and every row
            calibrates through the member that did not see it (CV+). ``auto`` takes folds with
            fewer than 1,000 rows to learn from, unless fewer than five members are asked for.
        keeps_best: Keep the weights of the epoch with the lowest validation error instead of
            the last average.
        auxiliary_weight: Weight of targets that only help the others to learn.
        precision: ``auto`` takes bfloat16 where it pays.
        devices: How many devices to train on.
        accelerator: Lightning's name of the device.
    """

    preset: Preset = "tuned"
    network: str = "cgcnn"
    n_members: Annotated[int, Field(ge=1)] | None = None
    width: Annotated[int, Field(gt=0)] = 64
    hidden: Annotated[int, Field(gt=0)] = 128
    n_layers: Annotated[int, Field(gt=0)] = 3
    n_neighbors: Annotated[int, Field(gt=0)] = 12
    cutoff_angstrom: Annotated[float, Field(gt=0.0)] = 8.0
    max_atoms: Annotated[int, Field(gt=0)] = 200
    batch_crystals: Annotated[int, Field(gt=0)] = 64
    batches: Literal["even", "by-size", "plain"] = "even"
    epochs: Annotated[int, Field(gt=0)] | None = None
    seconds_per_member: Annotated[float, Field(gt=0.0)] | None = None
    seconds: Annotated[float, Field(gt=0.0)] | None = None
    stem_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    drop_epochs: tuple[int, ...] = ()
    taken_rate: Annotated[float, Field(gt=0.0)] | None = None
    loss: Loss = "l1"
    scale: Literal["median", "mean"] = "median"
    calibration: Literal["auto", "held-out", "folds"] = "auto"
    keeps_best: bool = False
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = 0.3
    precision: Any = "auto"
    devices: Annotated[int, Field(gt=0)] = 1
    accelerator: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _filled_by_preset(cls, values: Any) -> Any:  # noqa: ANN401 - whatever the caller gave
        if not isinstance(values, dict):
            return values
        return {**PRESETS.get(values.get("preset", "tuned"), {}), **values}

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.seconds is not None and self.seconds_per_member is not None:
            raise ValueError("give seconds or seconds_per_member, not both.")
        return self

    @model_validator(mode="after")
    def _folds_suit(self) -> Self:
        if self.calibration == "folds" and self.n_members == 1:
            raise ValueError("calibration='folds' needs at least two members; set n_members to 5.")
        if self.calibration == "folds" and (self.keeps_best or self.stem_seconds):
            name = "keeps_best" if self.keeps_best else "stem_seconds"
            raise ValueError(
                f"calibration='folds' leaves no rows that all members could share, which {name} "
                "needs; use calibration='held-out'."
            )
        return self

    def for_rows(self, n_rows: int) -> Self:
        """Return the settings with members and calibration decided for this many rows."""
        kind = self.calibration
        if kind == "auto":
            is_free = (self.n_members or _FOLDS) >= _FOLDS
            is_free &= not (self.keeps_best or self.stem_seconds)
            kind = "folds" if is_free and n_rows < FEW_ROWS else "held-out"
        n_members = self.n_members or (_FOLDS if kind == "folds" else _MEMBERS)
        decided: dict[str, Any] = {"calibration": kind, "n_members": n_members}
        if self.seconds is not None:
            decided |= {"seconds": None, "seconds_per_member": self.seconds / n_members}
        return self.model_copy(update=decided)

    def network_settings(self) -> dict[str, Any]:
        """Return what the network's constructor takes beside the number of targets."""
        sizes = {"width": self.width, "hidden": self.hidden}
        if self.network == "composition":
            return sizes
        if reads_compositions(self.network):
            return {**sizes, "n_layers": self.n_layers}
        return {**sizes, "n_layers": self.n_layers, "cutoff": self.cutoff_angstrom}
