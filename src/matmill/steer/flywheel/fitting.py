"""Tasks of the wheel that train a predictor and ask it: one fit, one list of predictions."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matmill import registry
from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.predict.protocol import Predictor, load_predictor
from matmill.randomness import child_seed
from matmill.steer.flywheel.settings import COVERAGE, PredictorChoice


@dataclass(frozen=True, eq=False, kw_only=True)
class FitInput:
    """One fit.

    Attributes:
        key: Content hash of everything that the fitted predictor depends on.
        choice: Which predictor.
        table: Training rows, with their parts.
        asked: Crystals to predict.
        column: The target.
        seed: Of the fit.
        n_fits: Fits whose predictions are averaged.
        first: Rows to learn from before those of ``table``; networks only.
        coverage: Of the intervals that come back.
    """

    key: str
    choice: PredictorChoice
    table: LabelledCrystals
    asked: CrystalBatch
    column: str
    seed: int
    n_fits: int = 1
    first: LabelledCrystals | None = None
    coverage: float = COVERAGE


@dataclass(frozen=True)
class Fit:
    """Trains and predicts; finished predictors are kept under their key.

    Attributes:
        folder: Where predictors and descriptors are kept.
    """

    folder: Path

    def __call__(self, given: FitInput) -> dict[str, Any]:
        """Return means, deviations, interval ends and domain of the asked crystals."""
        torch.set_num_threads(1)
        started = time.process_time()
        found = [
            self._fitted(given, number).predict(given.asked, coverage=given.coverage)
            for number in range(given.n_fits)
        ]
        mean = torch.stack([p.mean for p in found]).mean(0)
        return {
            "mean": mean.tolist(),
            "std": torch.stack([p.std for p in found]).mean(0).tolist(),
            "low": torch.stack([p.low for p in found]).mean(0).tolist(),
            "high": torch.stack([p.high for p in found]).mean(0).tolist(),
            "in_domain": found[0].in_domain.tolist(),
            "cpu_s": round(time.process_time() - started, 3),
        }

    def _fitted(self, given: FitInput, number: int) -> Predictor:
        path = self.folder / "predictors" / f"{given.key[:24]}-{number}"
        done = path.with_suffix(".safetensors")
        if done.exists() and path.with_suffix(".json").exists():
            return load_predictor(done, column=given.column)
        work = path.with_name(f"{path.name}.work")
        seed = child_seed(given.seed, "fit", str(number))
        settings = dict(given.choice.settings)
        if given.first is not None:
            before = self._train(given.first, given, work / "first", seed, settings)
            before.save(work / "first-learnt")
            settings |= {"start_from": str(work / "first-learnt.safetensors")}
        predictor = self._train(given.table, given, work / "fit", seed, settings)
        predictor.save(path)
        shutil.rmtree(work, ignore_errors=True)
        return predictor

    def _train(
        self,
        table: LabelledCrystals,
        given: FitInput,
        folder: Path,
        seed: int,
        settings: dict[str, Any],
    ) -> Any:  # noqa: ANN401 - any registered predictor
        if given.choice.model == "tabular":
            settings = {**settings, "descriptors": self.folder / "descriptors"}
        kind = registry.predictors.load(given.choice.model)
        return kind.fit(table, given.column, folder=folder, seed=seed, **settings)
