"""Settings of the training of a network predictor, and the presets that fill them in."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from matmill.config import Settings
from matmill.predict.networks import reads_compositions
from matmill.predict.task import Loss

Preset = Literal["tuned", "reference"]

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
        n_members: Networks in the ensemble.
        width: Features of an atom.
        hidden: Width of the layers after pooling.
        n_layers: Convolutions or rounds of messages; ``composition`` has none.
        n_neighbors: Nearest neighbours of each atom.
        cutoff_angstrom: Farthest neighbour.
        max_atoms: Larger cells are left out.
        batch_crystals: Crystals in a training batch.
        batches: ``by-size`` puts crystals of similar size together, ``plain`` draws them evenly.
        epochs: Passes over the data; by default as many as the size of the data suggests.
        seconds_per_member: Training time of each member at most; None sets no limit.
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
        keeps_best: Keep the weights of the epoch with the lowest validation error instead of
            the last average.
        auxiliary_weight: Weight of targets that only help the others to learn.
        precision: ``auto`` takes bfloat16 where it pays.
        devices: How many devices to train on.
        accelerator: Lightning's name of the device.
    """

    preset: Preset = "tuned"
    network: str = "cgcnn"
    n_members: Annotated[int, Field(ge=1)] = 3
    width: Annotated[int, Field(gt=0)] = 64
    hidden: Annotated[int, Field(gt=0)] = 128
    n_layers: Annotated[int, Field(gt=0)] = 3
    n_neighbors: Annotated[int, Field(gt=0)] = 12
    cutoff_angstrom: Annotated[float, Field(gt=0.0)] = 8.0
    max_atoms: Annotated[int, Field(gt=0)] = 200
    batch_crystals: Annotated[int, Field(gt=0)] = 64
    batches: Literal["by-size", "plain"] = "by-size"
    epochs: Annotated[int, Field(gt=0)] | None = None
    seconds_per_member: Annotated[float, Field(gt=0.0)] | None = None
    stem_seconds: Annotated[float, Field(ge=0.0)] = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    drop_epochs: tuple[int, ...] = ()
    taken_rate: Annotated[float, Field(gt=0.0)] | None = None
    loss: Loss = "l1"
    scale: Literal["median", "mean"] = "median"
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

    def network_settings(self) -> dict[str, Any]:
        """Return what the network's constructor takes beside the number of targets."""
        sizes = {"width": self.width, "hidden": self.hidden}
        if self.network == "composition":
            return sizes
        if reads_compositions(self.network):
            return {**sizes, "n_layers": self.n_layers}
        return {**sizes, "n_layers": self.n_layers, "cutoff": self.cutoff_angstrom}
