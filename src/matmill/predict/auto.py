"""`AutoPredictor`: tries the models that suit a table on inner folds, and fits the best one."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from matmill import registry
from matmill.data.compositions import LabelledCompositions, Table, items
from matmill.data.parts import check_target, divided, is_tested, with_parts
from matmill.data.splits import split
from matmill.errors import DataError, MatmillError
from matmill.predict.networks import NETWORKS
from matmill.predict.protocol import Predictor
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child, child_seed
from matmill.training.checkpoint import write_atomically

_TRIAL_SECONDS = 180.0  # a network on many rows
_FEW = 5000  # rows; below, descriptors beat networks from scratch, and folds are affordable


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How one model did on the inner folds.

    Attributes:
        model: Name in the registry.
        errors: Mean absolute error of each fold, of two classes the Brier score.
        seconds: Time that it took.
        failed: Why it could not be tried; empty when it could.
    """

    model: str
    errors: tuple[float, ...] = ()
    seconds: float = 0.0
    failed: str = ""

    @property
    def error(self) -> float:
        """Mean over the folds; infinite when it failed."""
        return sum(self.errors) / len(self.errors) if self.errors else math.inf


class AutoPredictor:
    """Chooses a model by cross-validation inside the training rows.

    What `fit` returns is the predictor of the chosen model, whose card says under ``"choice"``
    what was tried, with which error, and why this one was taken.
    """

    reads: ClassVar[str] = "composition"  # it takes both kinds of tables

    @classmethod
    def fit(
        cls,
        table: Table,
        target: str,
        *,
        folder: Path,
        seed: int = 0,
        on_event: OnEvent = ignore,
        models: tuple[str, ...] | None = None,
    ) -> Any:  # noqa: ANN401 - the predictor of whichever model was chosen
        """Return the fitted predictor of the model with the smallest inner error.

        Args:
            table: Labelled crystals or compositions.
            target: Column to predict.
            folder: Where finished trials are kept, so that a killed choice goes on.
            seed: Of folds and models.
            on_event: Told about progress.
            models: Candidates; by default those that suit kind and number of rows.

        Raises:
            DataError: If the target cannot be learned, or no candidate can be fitted.
        """
        column = table.column_name(target)
        check_target(table, column)
        # Before any trial: rows that the chosen model is scored on must not choose it.
        table = divided(table, seed=seed)
        candidates = models or suitable(table)
        trials = []
        for place, model in enumerate(candidates):
            on_event(Event(stage="choose model", done=place, total=len(candidates), message=model))
            trials.append(_kept_trial(model, table, column, folder, seed))
        on_event(Event(stage="choose model", done=len(candidates), total=len(candidates)))
        best = min(trials, key=lambda trial: trial.error)
        if not math.isfinite(best.error):
            raise DataError(
                "No model could be fitted: " + "; ".join(f"{t.model}: {t.failed}" for t in trials)
            )
        choice = {
            "model": best.model,
            "why": reason(trials),
            "tried": {
                t.model: {"errors": t.errors, "seconds": t.seconds, "failed": t.failed}
                for t in trials
            },
        }
        on_event(Event(stage="choose model", message=choice["why"]))
        final = registry.predictors.load(best.model).fit(
            table, column, folder=folder / best.model, seed=seed, on_event=on_event
        )
        final.card["choice"] = choice
        return final


def suitable(table: Table) -> tuple[str, ...]:
    """Return the models worth trying on a table, cheapest first.

    Without structures: descriptors and Roost. With few structures: descriptors and CGCNN. With
    many, descriptors no longer keep up with the graph networks.
    """
    if isinstance(table, LabelledCompositions):
        return ("tabular", "roost")
    return ("tabular", "cgcnn") if len(table) < _FEW else ("cgcnn", "transformer")


def reason(trials: list[Trial]) -> str:
    """Return one sentence that says what was chosen, from what, and by how much."""
    done = sorted((t for t in trials if t.errors), key=lambda t: t.error)
    if not done:
        return "nothing could be fitted"
    listed = ", ".join(f"{t.model} {t.error:.4g}" for t in done)
    text = f"{done[0].model}: smallest error on {len(done[0].errors)} inner fold(s) ({listed})"
    failed = [t.model for t in trials if not t.errors]
    return text + (f"; could not be fitted: {', '.join(failed)}" if failed else "")


def _kept_trial(model: str, table: Table, column: str, folder: Path, seed: int) -> Trial:
    """Return a trial, from the folder when it was finished before on the same rows."""
    path = folder / f"trial-{model}.json"
    facts = {"table": table.hash, "column": column, "seed": seed, "model": model}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["facts"] == facts:
            return Trial(**{**kept["trial"], "errors": tuple(kept["trial"]["errors"])})
    trial = _tried(model, table, column, folder / f"trial-{model}", seed)
    plain = {name: getattr(trial, name) for name in Trial.__slots__}
    write_atomically(path, json.dumps({"facts": facts, "trial": plain}, indent=1).encode())
    return trial


def _tried(model: str, table: Table, column: str, folder: Path, seed: int) -> Trial:
    started = time.perf_counter()
    errors = []
    try:
        for fold, (train, test) in enumerate(_inner_folds(table, seed)):
            part = _with_validation(table.select(train), child_seed(seed, "validation", str(fold)))
            predictor: Predictor = registry.predictors.load(model).fit(
                part,
                column,
                folder=folder / str(fold),
                seed=child_seed(seed, model, str(fold)),
                **_trial_settings(model, len(part)),
            )
            held = table.select(test)
            truth = held.column(column).double()
            guess = predictor.predict(items(held)).mean  # pyright: ignore[reportArgumentType]
            is_class = bool(((truth == 0) | (truth == 1)).all())
            error = (guess - truth).square() if is_class else (guess - truth).abs()
            errors.append(float(error[torch.isfinite(truth)].mean()))
    except MatmillError as error:
        return Trial(model=model, seconds=time.perf_counter() - started, failed=str(error))
    return Trial(model=model, errors=tuple(errors), seconds=round(time.perf_counter() - started, 1))


def _trial_settings(model: str, n_rows: int) -> dict[str, Any]:
    """Return what keeps a trial affordable: one network instead of an ensemble, and a time limit.

    One member ranks models as well as three; the chosen model is fitted in full.
    """
    if model not in NETWORKS:
        return {}
    return {"n_members": 1, **({"seconds_per_member": _TRIAL_SECONDS} if n_rows >= _FEW else {})}


def _inner_folds(table: Table, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return train and test rows of the inner folds: three for few rows, else one hold-out.

    Test rows of the table's own column "split" stay out; no formula is on both sides.
    """
    rows = torch.nonzero(~is_tested(table)).flatten()
    inner = table.select(rows)
    n_folds = 3 if len(rows) < _FEW else 5
    folds = range(n_folds) if len(rows) < _FEW else range(1)
    found = [
        split(inner, "formula", seed=seed, n_folds=n_folds, fold=fold, fractions=(1.0, 0.0, 0.0))
        for fold in folds
    ]
    return [(rows[part.train], rows[part.test]) for part in found]


def _with_validation(table: Table, seed: int) -> Table:
    """Return the table with a tenth of its rows named "val", for models that need some."""
    order = torch.randperm(len(table), generator=child(seed, "rows"))
    is_val = torch.zeros(len(table), dtype=torch.bool)
    is_val[order[: max(1, len(table) // 10)]] = True
    return with_parts(table, ["val" if flag else "train" for flag in is_val.tolist()])
