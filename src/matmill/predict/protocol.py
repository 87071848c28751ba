"""What every predictor promises, and where predictors come from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill import registry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.quantities import QUANTITIES, find

ASSETS = Path(__file__).parents[1] / "assets" / "predictors"
DEFAULT_COVERAGE = 0.9
# Kind of a file, as its card says -> the function of (path, column) that opens it.
FILE_KINDS = {
    "matmill predictor": "matmill.predict.ensemble:open_predictor",
    "matmill median predictor": "matmill.predict.median:open_predictor",
    "matmill tabular predictor": "matmill.predict.tabular.files:open_predictor",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """One property of many crystals, with its uncertainty.

    Attributes:
        mean: Best guess in the unit of the column, ``(n_crystals,)`` float64.
        std: Standard deviation of its error, same unit.
        low: Lower end of the interval.
        high: Upper end.
        column: Name with unit, e.g. ``"band_gap_ev"``.
        coverage: Share of true values that such intervals hold on crystals like those the
            predictor was calibrated on.
        in_domain: False where the crystal is unlike the training crystals: an element was never
            seen, or the learned features lie far out. No coverage is promised there.
        reasons: Why a crystal is out of domain, one text each, empty inside; empty when the
            predictor does not tell.
        interval: Kind of interval of each crystal, with "no guarantee" where the calibration
            cannot carry it; empty when the predictor does not tell.
        effective_size: Calibration rows that each interval leans on; None when not known.
    """

    mean: Float[Tensor, " n_crystals"]
    std: Float[Tensor, " n_crystals"]
    low: Float[Tensor, " n_crystals"]
    high: Float[Tensor, " n_crystals"]
    column: str
    coverage: float
    in_domain: Bool[Tensor, " n_crystals"]
    reasons: tuple[str, ...] = ()
    interval: tuple[str, ...] = ()
    effective_size: Float[Tensor, " n_crystals"] | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def select(self, index: Tensor) -> "Prediction":
        """Return the predictions of these crystals."""
        rows = torch.arange(len(self))[index].tolist()
        size = self.effective_size
        return replace(
            self,
            mean=self.mean[index],
            std=self.std[index],
            low=self.low[index],
            high=self.high[index],
            in_domain=self.in_domain[index],
            reasons=tuple(self.reasons[row] for row in rows) if self.reasons else (),
            interval=tuple(self.interval[row] for row in rows) if self.interval else (),
            effective_size=None if size is None else size[index],
        )


@runtime_checkable
class Predictor(Protocol):
    """Predicts one property of crystals."""

    @property
    def column(self) -> str:
        """Name of the property with its unit."""
        ...

    @property
    def card(self) -> dict[str, Any]:
        """What it was made from, its measured scores and limits."""
        ...

    def predict(self, batch: CrystalBatch, *, coverage: float = DEFAULT_COVERAGE) -> Prediction:
        """Return the property of each crystal; an empty batch gives empty tensors."""
        ...


def load_predictor(name_or_path: str | Path, *, column: str | None = None) -> Predictor:
    """Return a predictor.

    Args:
        name_or_path: A property (``"band_gap"``) for the shipped predictor, the path of a
            trained one (``NAME.safetensors``), or the name under which another package has
            registered a function that returns its predictor.
        column: Which property, when a file predicts several; not needed when there is one.

    Raises:
        UnknownNameError: If nothing predicts a property of that name.
        DataError: If the file is missing or damaged.
    """
    from matmill.predict.ensemble import load_model
    from matmill.predict.exact import ExactPredictor

    text = str(name_or_path)
    if text in registry.predictors.names() and text not in registry.predictors.targets:
        return registry.predictors.load(text)()
    if text.endswith(".safetensors") or Path(text).with_suffix(".safetensors").is_file():
        return load_file(Path(text), column=column)
    try:
        quantity = find(text)
    except UnknownNameError as error:
        raise UnknownNameError("predictor", text, available()) from error
    if quantity.exact:
        return ExactPredictor(quantity.column)
    for path in shipped_files():
        model = load_model(path)
        if quantity.column in model.columns:
            return model.view(quantity.column)
    raise UnknownNameError("predictor", text, available())


def load_file(path: Path, *, column: str | None = None) -> Predictor:
    """Return the predictor in a file, of whatever kind its card says.

    Raises:
        UnknownNameError: If the file does not predict ``column``.
        DataError: If the file is missing, damaged or no predictor.
    """
    from matmill.training import checkpoint

    file = checkpoint.weights_path(path)
    if not file.exists():
        raise DataError(f"There is no predictor {file}.")
    card_file = checkpoint.card_path(file)
    kind = (
        json.loads(card_file.read_text(encoding="utf-8")).get("kind") if card_file.exists() else ""
    )
    module, _, attribute = FILE_KINDS.get(kind, FILE_KINDS["matmill predictor"]).partition(":")
    return getattr(import_module(module), attribute)(file, column)


@lru_cache(maxsize=1)
def shipped() -> list[str]:
    """Return the names of the properties that shipped networks predict, sorted."""
    from matmill.training.checkpoint import load

    columns = {c for path in shipped_files() for c in load(path)[1].get("columns", [])}
    return sorted(name for name, quantity in QUANTITIES.items() if quantity.column in columns)


def available() -> list[str]:
    """Return all properties that can be predicted or computed without a file of the user."""
    return sorted([*shipped(), *(name for name, q in QUANTITIES.items() if q.exact)])


def predict_many(
    batch: CrystalBatch | CompositionBatch,
    predictors: Sequence[Predictor],
    *,
    coverage: float = DEFAULT_COVERAGE,
    intervals: str = "split",
) -> dict[str, Prediction]:
    """Return predictions by column; predictors of one file share their work.

    Args:
        batch: Crystals, or compositions where all predictors read those.
        predictors: One a column.
        coverage: Share of true values that the intervals should hold.
        intervals: Kind of interval, see `predict.intervals`. Predictors that cannot give it give
            their plain one; `Prediction.interval` says which it is.

    Raises:
        InputError: If two predictors give the same column.
    """
    columns = [predictor.column for predictor in predictors]
    if len(set(columns)) < len(columns):
        raise InputError(f"A property was asked for twice: {', '.join(columns)}.")
    found: dict[str, Prediction] = {}
    for predictor in predictors:
        if predictor.column in found:
            continue
        model = getattr(predictor, "model", None)
        wanted = {"intervals": intervals} if intervals in kinds_of(predictor) else {}
        if model is None or not hasattr(model, "predict_all"):
            # Whether a predictor takes compositions is its own to say, in one line.
            found[predictor.column] = predictor.predict(
                batch,  # pyright: ignore[reportArgumentType]
                coverage=coverage,
                **wanted,
            )
            continue
        mine = [p.column for p in predictors if getattr(p, "model", None) is model]
        found |= model.predict_all(batch, mine, coverage=coverage, **wanted)
    return {column: found[column] for column in columns}


def kinds_of(predictor: Predictor) -> tuple[str, ...]:
    """Return which kinds of interval beside the plain one a predictor can give.

    Those that can have ``interval_kinds`` and take ``intervals=`` in ``predict``.
    """
    return tuple(getattr(predictor, "interval_kinds", ()))


def empty_prediction(column: str, coverage: float) -> Prediction:
    """Return the prediction of no crystals."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return Prediction(
        mean=nothing,
        std=nothing,
        low=nothing,
        high=nothing,
        column=column,
        coverage=coverage,
        in_domain=nothing.bool(),
    )


def shipped_files() -> list[Path]:
    """Return the weight files that ship, sorted by name."""
    return sorted(ASSETS.glob("*.safetensors"))
