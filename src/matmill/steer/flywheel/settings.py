"""What a flywheel is made of: data, predictors, a generator, filters, arms, and how often."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from matmill.config import Settings
from matmill.predict.settings import PRESETS

Mode = Literal["supervised", "semi-supervised"]
Law = Literal["kde", "flat", "beyond"]
Label = Literal["condition", "predictor"]
Mixing = Literal["plain", "weighted", "finetuned"]
Stability = Literal["off", "single-point", "relaxed"]
OWN = "own"
COVERAGE = 0.9
"""Of the labeller's intervals, where nothing else is asked for."""


class PredictorChoice(Settings):
    """A predictor that the wheel trains.

    Attributes:
        model: Name in the registry.
        settings: Of its training. One that says ``calibration = "held-out"`` also gets the
            validation rows, which it must not learn from; any other never sees them.
    """

    model: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def holds_out(self) -> bool:
        """Whether it keeps validation rows for its error bars, and does not learn from them."""
        return self.settings.get("calibration") == "held-out"

    def longer(self, times: float) -> "PredictorChoice | None":
        """Return the same with so many times the epochs; None where no number of them is given.

        Trees have none, and a network that chooses its own number is not held against longer
        training.
        """
        epochs = {**PRESETS.get(self.settings.get("preset", ""), {}), **self.settings}.get("epochs")
        if epochs is None:
            return None
        return PredictorChoice(
            model=self.model, settings={**self.settings, "epochs": round(epochs * times)}
        )


FAMILY = "concdvae"
SHIPPED_STARTS = {"concdvae": "concdvae", "flow-adapter": "flow", "augment": None}
SCRATCH = "scratch"
FINETUNING = {
    "batch_size": 32,
    "fit": {"max_steps": 150, "learning_rate": 5e-4, "warmup_steps": 15},
    "prior_fit": {"max_steps": 500},
}
"""How Con-CDVAE is fine-tuned from given weights where nothing else is said: on a few hundred
crystals, about half a CPU minute."""
SMALL_FLOW = {
    "size": "tiny",
    "n_tokens": 800,
    "symmetric_passes": 0,
    "fit": {
        "max_steps": 800,
        "learning_rate": 2e-3,
        "warmup_steps": 40,
        "decay": "cosine",
        "ema_decay": 0.99,
        "validate_every_share": 0.0,
    },
}
"""How a flow is trained on the table alone, where an adapter has no other to extend: about half a
CPU minute too."""


class GeneratorChoice(Settings):
    """The generator that the wheel trains.

    Attributes:
        family: ``concdvae``, trained on the table; ``flow-adapter``: an adapter on a flow; or
            ``augment``: training crystals whose label is near the condition, strained and rattled,
            which tells what a generator adds to plain augmentation.
        start: Weights that training starts from, by default the shipped ones of the family;
            ``scratch`` for none: the table is all that is learnt from.
        settings: Of its training; by default `FINETUNING` for Con-CDVAE with a start. An adapter
            from scratch has under ``base`` those of its flow, by default `SMALL_FLOW`.
        guidance: Weight of the condition, of a flow.
    """

    family: Literal["concdvae", "flow-adapter", "augment"] = FAMILY
    start: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    guidance: Annotated[float, Field(ge=0.0)] = 1.5

    @model_validator(mode="before")
    @classmethod
    def _decided(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        """Say in full what is used, so that the record beside the output has it."""
        if not isinstance(given, dict):
            return given
        family = given.get("family", FAMILY)
        start = given.get("start", SHIPPED_STARTS.get(family))
        start = None if start == SCRATCH else start
        settings = given.get("settings")
        if family == "concdvae" and start is not None and settings is None:
            settings = FINETUNING
        if family == "flow-adapter" and start is None:
            settings = {"base": SMALL_FLOW, **(settings or {})}
        return {**given, "settings": settings or {}, "start": start}


class FilterSettings(Settings):
    """Which synthetic crystals may teach. Each can be switched off; all drops are counted.

    Attributes:
        valid: Leave out crystals that are none: overlapping atoms, absurd cells.
        min_distance_ratio: Smallest distance over the sum of the covalent radii, with ``valid``.
        neutral: Leave out compositions whose charges cannot balance.
        copies: Leave out crystals that the matcher takes for a training row or an earlier one;
            not with the generator ``augment``, which makes nothing else.
        near: Leave out crystals farther from every training row, by AMD, than training rows are
            from each other in the 99th percentile.
        known_elements: Leave out crystals with an element that no training row has.
        agreement: Leave out crystals whose predicted value is farther from their condition than
            this coverage of the labeller's own residuals; 0 switches it off. By default 0.9 where
            a crystal is labelled with its condition, and off where the labeller's value counts.
        certainty: Leave out this share of the crystals, those with the largest predicted error.
        stability: ``single-point`` asks the potential for energies as generated, ``relaxed``
            relaxes first and goes on with the relaxed crystals.
        max_above_hull_ev_per_atom: With ``stability``.
    """

    valid: bool = True
    min_distance_ratio: Annotated[float, Field(ge=0.0)] = 0.5
    neutral: bool = False
    copies: bool = True
    near: bool = True
    known_elements: bool = True
    agreement: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    certainty: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    stability: Stability = "off"
    max_above_hull_ev_per_atom: float = 0.5

    @classmethod
    def none(cls) -> "FilterSettings":
        """Return settings that let everything through but what cannot be read as a crystal."""
        return cls(
            min_distance_ratio=0.0, copies=False, near=False, known_elements=False, agreement=0
        )


PREDICTORS = {
    "cgcnn-reference": PredictorChoice(
        model="cgcnn", settings={"preset": "reference", "calibration": "held-out"}
    ),
    "cgcnn": PredictorChoice(
        model="cgcnn", settings={"n_members": 1, "epochs": 60, "calibration": "held-out"}
    ),
    "cgcnn-long": PredictorChoice(
        model="cgcnn", settings={"n_members": 1, "epochs": 300, "calibration": "held-out"}
    ),
    "tabular": PredictorChoice(
        model="tabular",
        settings={
            "preset": "fast",
            "n_folds": 3,
            "n_scales": 1,
            "learners": ["extra-trees", "support-vectors"],
        },
    ),
}
"""Predictors by name: CGCNN as published; CGCNN by our recipe, briefly and until it has learnt what
few rows can teach; and trees with kernels on descriptors, the strongest that seconds can train."""


class FlywheelSettings(Settings):
    """A study of the flywheel on one table.

    Attributes:
        data: Table with structures.
        target: Column.
        predictors: Names in `PREDICTORS`, or of entries of ``more_predictors``.
        more_predictors: Predictors of your own by name.
        labeller: Which of them labels and judges synthetic crystals; ``own`` for each arm's own.
        generator: What makes synthetic crystals.
        modes: ``supervised`` has all labels of the training rows, ``semi-supervised`` a share.
        n_runs: Runs that differ in split and seeds; all arms of a run share both.
        seed: Of the first run.
        fractions: Of training, validation and test rows; no formula is in two parts.
        labelled_share: Of the training rows, in semi-supervised runs.
        max_labels: Training rows at most, for learning curves.
        rounds: Turns of the semi-supervised wheel.
        synthetic_ratio: Synthetic crystals asked for, over training rows.
        conditions: Law of the conditions: density of the labels, ``flat`` over their range, or
            ``beyond`` it.
        label: What a synthetic crystal is labelled with: its condition, or the labeller's value.
        mixing: ``plain`` counts every row alike, ``weighted`` counts synthetic rows by the
            labeller's error and at most as much as the real ones, ``finetuned`` learns from
            synthetic rows first and from real ones after (networks only).
        synthetic_weight: Factor on the weight of synthetic rows.
        filters: Which synthetic crystals may teach.
        controls: Also train on shuffled synthetic labels; on real rows alone for as many steps as
            with synthetic ones; and an ensemble on real rows.
        control_members: Fits in that ensemble. The report tells what they cost, and the wheel.
    """

    data: Path
    target: str
    predictors: tuple[str, ...] = ("cgcnn", "tabular")
    more_predictors: dict[str, PredictorChoice] = Field(default_factory=dict)
    labeller: str = "tabular"
    generator: GeneratorChoice = GeneratorChoice()
    modes: tuple[Mode, ...] = ("supervised", "semi-supervised")
    n_runs: Annotated[int, Field(ge=1)] = 10
    seed: Annotated[int, Field(ge=0)] = 0
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    labelled_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    max_labels: Annotated[int, Field(ge=20)] | None = None
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    synthetic_ratio: Annotated[float, Field(gt=0.0)] = 1.0
    conditions: Law = "kde"
    label: Label = "predictor"
    mixing: Mixing = "weighted"
    synthetic_weight: Annotated[float, Field(gt=0.0)] = 1.0
    filters: FilterSettings = FilterSettings()
    controls: bool = True
    control_members: Annotated[int, Field(ge=2)] = 3

    @model_validator(mode="after")
    def _known_predictors(self) -> Self:
        known = [*PREDICTORS, *self.more_predictors]
        wanted = [*self.predictors, *([] if self.labeller == OWN else [self.labeller])]
        for name in wanted:
            if name not in known:
                raise ValueError(f"there is no predictor '{name}'; known: {', '.join(known)}")
        if self.mixing == "finetuned":
            slow = [n for n in self.predictors if self.predictor(n).model == "tabular"]
            if slow:
                raise ValueError(f"mixing='finetuned' needs networks, and {slow[0]} is none")
            if self.synthetic_weight != 1.0:
                raise ValueError("mixing='finetuned' has no weights; leave out synthetic_weight")
        return self

    @property
    def sieve(self) -> FilterSettings:
        """The filters, with what depends on labels and generator decided.

        A crystal that misses its condition has a wrong label only if that is its label. Filtered
        by agreement all the same, 71 % of generated crystals were lost, and half of what they
        taught (`benchmarks/flywheel.md`). Augmented crystals are copies by intention.
        """
        needed = self.filters.agreement
        if needed is None:
            needed = COVERAGE if self.label == "condition" else 0.0
        copies = self.filters.copies and self.generator.family != "augment"
        return self.filters.model_copy(update={"agreement": needed, "copies": copies})

    def predictor(self, name: str) -> PredictorChoice:
        """Return a predictor by its name."""
        return self.more_predictors.get(name) or PREDICTORS[name]
