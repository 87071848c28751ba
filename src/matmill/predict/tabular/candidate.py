"""One way from features to a prediction: blocks of columns, a scale of the target, a learner."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.descriptors.table import Features
from matmill.predict.tabular.columns import Preparation, prepare
from matmill.predict.tabular.learners import LEARNERS, Model, Task, Variant, score
from matmill.predict.tabular.targets import Facts, TargetScale, fit_scale


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is tried.

    Attributes:
        blocks: Blocks of columns.
        scale: Name in `targets.FORMS`; ``"class"`` for two classes.
        learner: Name in `learners.LEARNERS`.
    """

    blocks: tuple[str, ...]
    scale: str
    learner: str

    @property
    def name(self) -> str:
        """For people: learner, scale and blocks."""
        return f"{self.learner} | {self.scale} | {'+'.join(self.blocks)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Features, facts and values of the same rows.

    Attributes:
        features: Columns of all blocks.
        facts: Sizes and the like, for the scales of the target.
        values: The target in its unit, or classes 0 and 1.
        weights: How much each row counts in training, 1 on average; None for all alike.
    """

    features: Features
    facts: dict[str, Float[Tensor, " n"]]
    values: Float[Tensor, " n"]
    weights: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def select(self, index: Tensor) -> "Rows":
        """Return these rows."""
        return Rows(
            features=self.features.select_rows(index),
            facts={name: values[index] for name, values in self.facts.items()},
            values=self.values[index],
            weights=None if self.weights is None else self.weights[index],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A candidate after training.

    Attributes:
        candidate: What was trained.
        preparation: From features to its columns.
        scale: From learned to original values; None for classes.
        models: One for each variant or group of variants.
        slope: For classes: factor on the score before it becomes a probability.
        offset: For classes: added to it.
    """

    candidate: Candidate
    preparation: Preparation
    scale: TargetScale | None
    models: tuple[Model, ...]
    slope: float = 1.0
    offset: float = 0.0

    def each(self, features: Features, facts: Facts) -> Float[Tensor, "n_variants n"]:
        """Return what each variant says: values in the unit of the target, or scores."""
        columns = self.preparation.apply(features)
        said = [model.predict(columns) for model in self.models]
        if self.scale is None:
            return torch.stack([score(self.candidate.learner, s, classify=True) for s in said])
        return torch.stack([self.scale.original(s, facts) for s in said])

    def predict(self, features: Features, facts: Facts) -> Float[Tensor, " n"]:
        """Return the median over the variants: values, or probabilities of class 1."""
        middle = median(self.each(features, facts))
        if self.scale is None:
            return torch.sigmoid(self.slope * middle + self.offset)
        return middle

    def with_odds(self, slope: float, offset: float) -> "Fitted":
        """Return the same with a line from scores to log odds."""
        return replace(self, slope=slope, offset=offset)

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored as tensors; see `as_card` for the rest."""
        found = {f"columns.{name}": t for name, t in self.preparation.tensors().items()}
        for number, model in enumerate(self.models):
            found |= {f"model{number}.{name}": t for name, t in model.tensors().items()}
        return found

    def as_card(self) -> dict[str, Any]:
        """Return everything that is no tensor as plain values."""
        return {
            "blocks": list(self.candidate.blocks),
            "scale_name": self.candidate.scale,
            "learner": self.candidate.learner,
            "columns": self.preparation.as_card(),
            "scale": None if self.scale is None else self.scale.as_card(),
            "n_models": len(self.models),
            "slope": self.slope,
            "offset": self.offset,
        }

    @classmethod
    def of(cls, card: dict[str, Any], tensors: dict[str, Tensor]) -> "Fitted":
        """Return the candidate that was stored."""
        kind = LEARNERS[card["learner"]].kind
        return cls(
            candidate=Candidate(
                blocks=tuple(card["blocks"]), scale=card["scale_name"], learner=card["learner"]
            ),
            preparation=Preparation.of(card["columns"], _below("columns.", tensors)),
            scale=None if card["scale"] is None else TargetScale(**card["scale"]),
            models=tuple(kind.of(_below(f"model{i}.", tensors)) for i in range(card["n_models"])),
            slope=card["slope"],
            offset=card["offset"],
        )


def median(each: Float[Tensor, "n_variants n"]) -> Float[Tensor, " n"]:
    """Return the median over variants; the mean of the middle two when their number is even."""
    return each[0] if len(each) == 1 else each.quantile(0.5, dim=0)


def variants_of(candidate: Candidate, rows: Rows, seed: int) -> list[Variant]:
    """Return the settings that a candidate tries on these rows."""
    n_columns = sum(name.split(".")[0] in candidate.blocks for name in rows.features.names)
    return LEARNERS[candidate.learner].variants(len(rows), min(n_columns, 256), seed)


def fit_candidate(
    candidate: Candidate,
    rows: Rows,
    variants: Sequence[Variant],
    *,
    seed: int,
    is_final: bool,
    prepared: dict[tuple[Any, ...], Preparation] | None = None,
) -> Fitted:
    """Return a candidate trained on rows.

    Args:
        candidate: What to train.
        rows: Training rows.
        variants: Settings of the learner.
        seed: Of everything random.
        is_final: Train with all care; otherwise just well enough to compare.
        prepared: Preparations of the same rows that other candidates can share; added to.
    """
    learner = LEARNERS[candidate.learner]
    classify = candidate.scale == "class"
    scale = None if classify else fit_scale(candidate.scale, rows.values, rows.facts)
    target = rows.values if scale is None else scale.learned(rows.values, rows.facts)
    seen = candidate.scale if learner.view == "ranked" else ""
    key = (candidate.blocks, learner.view, seen)
    prepared = {} if prepared is None else prepared
    if key not in prepared:
        prepared[key] = prepare(rows.features, target, blocks=candidate.blocks, view=learner.view)
    preparation = prepared[key]
    task = Task(
        columns=preparation.apply(rows.features),
        target=target,
        classify=classify,
        seed=seed,
        is_final=is_final,
        weights=rows.weights,
    )
    models = tuple(learner.fit(task, variants))
    return Fitted(candidate=candidate, preparation=preparation, scale=scale, models=models)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
