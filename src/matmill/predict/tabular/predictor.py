"""`TabularPredictor`: descriptors, several learners, and honest weights between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table
from matmill.errors import InputError
from matmill.predict.calibrate import factor_for
from matmill.predict.chemistry import families
from matmill.predict.descriptors.blocks import FROM_FORMULA
from matmill.predict.descriptors.table import Features
from matmill.predict.domain import Domain
from matmill.predict.intervals import CalibrationRows, Kind, plain_factors
from matmill.predict.protocol import DEFAULT_COVERAGE, Prediction, empty_prediction
from matmill.predict.tabular.candidate import Fitted
from matmill.predict.tabular.columns import Preparation
from matmill.predict.tabular.facts import facts_of
from matmill.predict.tabular.rows import features_of
from matmill.predict.tabular.spread import ErrorModel, members_apart
from matmill.progress import OnEvent, ignore

KIND = "matmill tabular predictor"
_LEAST_STD = 1e-3  # of a class: nobody is surer than that from a few thousand rows


@dataclass(frozen=True, kw_only=True, eq=False)
class TabularPredictor:
    """One property from descriptors; implements `predict.protocol.Predictor`.

    Attributes:
        column: Name of the property with its unit.
        members: Candidates that count, trained on all rows.
        errors: Tells how large an error to expect; None for classes, where the probability does.
        domain: What the training rows were like.
        nearby: From features to the columns in which distances are measured.
        calibration_rows: Scores of the training rows, made out of fold.
        card: Settings, choice, data, scores and limits.
    """

    column: str
    members: tuple[Fitted, ...]
    errors: ErrorModel | None
    domain: Domain
    nearby: Preparation
    calibration_rows: CalibrationRows
    card: dict[str, Any] = field(default_factory=dict)

    reads: ClassVar[str] = "composition"  # tables of compositions, and of crystals
    interval_kinds: ClassVar[tuple[str, ...]] = get_args(Kind)

    @classmethod
    def fit(
        cls,
        table: Table,
        target: str,
        *,
        folder: Path,
        seed: int = 0,
        on_event: OnEvent = ignore,
        **settings: Any,  # noqa: ANN401 - see TabularSettings
    ) -> "TabularPredictor":
        """Return a predictor trained on a table; a killed call continues when repeated.

        Candidates are compared on inner folds of the training rows alone, weighted by what they
        said about rows that they had not seen, and trained again on all rows. No rows are set
        aside for the error bars: they come from the same folds.

        Args:
            table: Labelled crystals, or compositions. A note ``split`` divides the rows.
            target: Column to predict. If all its values are 0 or 1 the prediction is the
                probability of 1.
            folder: For descriptors and inner results.
            seed: Everything random follows from it.
            on_event: Told about progress.
            settings: Fields of `TabularSettings`.

        Raises:
            DataError: If there is too little to learn from, or one value only.
            UnknownNameError: If there is no such column, block, learner or scale.
        """
        from matmill.predict.tabular.train import train_tabular

        return train_tabular(
            table, target, folder=folder, seed=seed, on_event=on_event, settings=settings
        )

    @property
    def blocks(self) -> tuple[str, ...]:
        """The descriptor blocks that it needs."""
        return tuple(self.card["blocks"])

    @property
    def _bounds(self) -> tuple[float, float]:
        """Where intervals end."""
        low, high = self.card["bounds"]
        return -torch.inf if low is None else low, torch.inf if high is None else high

    def predict(
        self,
        batch: CrystalBatch | CompositionBatch,
        *,
        coverage: float = DEFAULT_COVERAGE,
        intervals: Kind = "split",
    ) -> Prediction:
        """Return the property of each crystal or composition.

        Args:
            batch: Compositions will do for a predictor that was trained on such.
            coverage: Share of true values that the intervals should hold, in (0, 1).
            intervals: Kind of interval, see `CalibrationRows.factors`.

        Raises:
            InputError: If an atom has no known element, the coverage is not a share, or it needs
                structures and there are none.
        """
        return self.predict_levels(batch, (coverage,), intervals=intervals)[coverage]

    def predict_levels(
        self,
        batch: CrystalBatch | CompositionBatch,
        coverages: Sequence[float],
        *,
        intervals: Kind = "split",
    ) -> dict[float, Prediction]:
        """Return predictions with intervals of several coverages for the work of one."""
        for coverage in coverages:
            if not 0.0 < coverage < 1.0:
                raise InputError(f"coverage is {coverage}; give a share between 0 and 1, e.g. 0.9.")
        if not len(batch):
            return {level: empty_prediction(self.column, level) for level in coverages}
        self._check(batch)
        features = features_of(batch, self.blocks, folder=None, on_event=ignore)
        mean, std = self.estimate(features, facts_of(batch))
        amounts = (CompositionBatch.of(batch) if isinstance(batch, CrystalBatch) else batch).amounts
        near = self.nearby.apply(features).double()
        in_domain, reasons = self.domain.judge(near, amounts)
        found = {}
        for level in coverages:
            if intervals == "split":
                factor = factor_for(self.card["calibration"]["conformal_factors"], level)
                n_rows = self.card["calibration"]["n_calibration"]
                factors = plain_factors(factor, n_rows, len(mean))
            else:
                factors = self.calibration_rows.factors(
                    self.column,
                    level,
                    self.domain.project(near),
                    families(amounts),
                    kind=intervals,
                )
            reach = std * factors.factor
            low, high = self._bounds
            found[level] = Prediction(
                mean=mean,
                std=std,
                low=(mean - reach).clamp(low, high),
                high=(mean + reach).clamp(low, high),
                column=self.column,
                coverage=level,
                in_domain=in_domain,
                reasons=reasons,
                interval=factors.names,
                effective_size=factors.effective_size,
            )
        return found

    def estimate(
        self, features: Features, facts: dict[str, Float[Tensor, " n"]]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return mean and standard deviation for rows whose features are known."""
        each = torch.stack([member.predict(features, facts) for member in self.members])
        weights = torch.tensor(self.card["weights"], dtype=torch.float64)
        mean = weights @ each
        if self.errors is None:
            return mean, class_std(mean)
        spread = self.errors.predict(features, mean, members_apart(each, weights))
        return mean, spread * self.card["calibration"]["std_factor"]

    def save(self, path: Path | str) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``; no pickle, no scikit-learn to read it."""
        from matmill.predict.tabular.files import save_predictor

        return save_predictor(self, path)

    def _check(self, batch: CrystalBatch | CompositionBatch) -> None:
        if isinstance(batch, CrystalBatch):
            numbers = batch.atomic_numbers
            if not bool(((numbers >= 1) & (numbers <= 118)).all()):
                raise InputError("Some atoms are no element (Z outside 1-118); nothing to predict.")
        elif self.card["reads"] == "structure":
            needed = ", ".join(block for block in self.blocks if block not in FROM_FORMULA)
            raise InputError(
                f"This predictor of {self.column} reads structures ({needed}); formulas alone do "
                "not do. Give crystals, or train one on a table of formulas."
            )


class BoostedPredictor(TabularPredictor):
    """Boosted trees alone, on the same descriptors: a strong baseline in one model."""

    @classmethod
    def fit(
        cls,
        table: Table,
        target: str,
        *,
        folder: Path,
        seed: int = 0,
        on_event: OnEvent = ignore,
        **settings: Any,  # noqa: ANN401 - see TabularSettings
    ) -> "TabularPredictor":
        """Return boosted trees trained on a table; see `TabularPredictor.fit`."""
        chosen = {"preset": "fast", "n_scales": 1, **settings, "learners": ("boosted-trees",)}
        return TabularPredictor.fit(
            table, target, folder=folder, seed=seed, on_event=on_event, **chosen
        )


def class_std(chance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the standard deviation of a class 0 or 1 that has this probability of 1."""
    return (chance * (1.0 - chance)).sqrt().clamp_min(_LEAST_STD)
