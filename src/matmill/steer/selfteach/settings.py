"""What a generator that learns from its own verified output is made of."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from matmill.config import Settings

Arm = Literal["verified", "deduplicated", "raw", "none"]
ARMS: tuple[Arm, ...] = ("verified", "deduplicated", "raw", "none")
"""What joins the training crystals after each round: verified crystals; unique valid ones; any that
could be read; or as many training crystals once more."""


class SelfteachSettings(Settings):
    """Rounds of generate, verify, fine-tune.

    Attributes:
        data: Crystals that the generator was trained on: they are replayed, and nothing that is
            among them is novel.
        split: Take only rows of this split, where the table has one.
        generator: Weights of a flow, or its name.
        arms: Which controls to run beside ``verified``.
        rounds: Fine-tunings; round 0 is the generator as given.
        n_samples: Crystals of each round, which are both judged and learned from.
        max_above_hull_ev_per_atom: Of a crystal that is learned from, and of a metastable one.
        most_of_a_formula: Crystals of one reduced formula that a round may add.
        replay: Share of training crystals in what a round learns from; the rest is its own.
        n_replayed: Training crystals drawn for the rounds.
        steps: Of one fine-tuning.
        learning_rate: Of a fine-tuning.
        n_steps: Network steps of a sample.
        seed: Of everything random.
        crystals_a_task: Crystals that are relaxed in one task; four times as many are drawn in one.
        fewest_alike: Stop an arm when the effective number of elements falls below this share of
            that of round 0.
    """

    data: Path
    split: str | None = "train"
    generator: str = "flow"
    arms: tuple[Arm, ...] = ARMS
    rounds: Annotated[int, Field(ge=1)] = 4
    n_samples: Annotated[int, Field(ge=10)] = 1000
    max_above_hull_ev_per_atom: float = 0.1
    most_of_a_formula: Annotated[int, Field(ge=1)] = 3
    replay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    n_replayed: Annotated[int, Field(ge=1)] = 4000
    steps: Annotated[int, Field(ge=1)] = 300
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-4
    n_steps: Annotated[int, Field(ge=1)] = 50
    seed: Annotated[int, Field(ge=0)] = 0
    crystals_a_task: Annotated[int, Field(ge=1)] = 50
    fewest_alike: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
