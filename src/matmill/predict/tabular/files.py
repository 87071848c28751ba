"""A tabular predictor in a file: tensors in safetensors, everything else on the card."""

from pathlib import Path
from typing import Any

from torch import Tensor

from matmill.errors import DataError, UnknownNameError
from matmill.predict.domain import Domain
from matmill.predict.intervals import CalibrationRows
from matmill.predict.tabular.candidate import Fitted
from matmill.predict.tabular.columns import Preparation
from matmill.predict.tabular.forest import Forest
from matmill.predict.tabular.predictor import KIND, TabularPredictor
from matmill.predict.tabular.spread import ErrorModel
from matmill.training import checkpoint


def save_predictor(predictor: TabularPredictor, path: Path | str) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json``."""
    tensors = _under("domain", predictor.domain.tensors())
    tensors |= _under("nearby", predictor.nearby.tensors())
    tensors |= _under("calibration", predictor.calibration_rows.tensors())
    for number, member in enumerate(predictor.members):
        tensors |= _under(f"member{number}", member.tensors())
    card: dict[str, Any] = {
        **predictor.card,
        "members": [member.as_card() for member in predictor.members],
        "nearby": predictor.nearby.as_card(),
        "errors": None,
    }
    if predictor.errors is not None:
        tensors |= _under("errors.forest", predictor.errors.forest.tensors())
        tensors |= _under("errors.columns", predictor.errors.preparation.tensors())
        card["errors"] = {
            "columns": predictor.errors.preparation.as_card(),
            "floor": predictor.errors.floor,
        }
    return checkpoint.save(path, tensors, card)


def open_predictor(path: Path, column: str | None = None) -> TabularPredictor:
    """Return the predictor in a file.

    Args:
        path: The tensor file, or its name without the suffix.
        column: Property that it must predict; any by default.

    Raises:
        DataError: If the file is missing, damaged or no tabular predictor.
        UnknownNameError: If it predicts another property.
    """
    stored, card = checkpoint.load(path)
    # A tensor inside the file's buffer may start anywhere, and products of unaligned memory can
    # differ in the last bit: copies start where those that were trained started.
    tensors = {name: values.clone() for name, values in stored.items()}
    if card.get("kind") != KIND:
        raise DataError(f"{path} holds a {card.get('kind')}, no tabular predictor.")
    own = card["columns"][0]
    if column is not None and column != own and not own.startswith(f"{column}_"):
        raise UnknownNameError("property of this predictor", column, [own])
    try:
        return _assembled(own, tensors, card)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error} is missing or unknown.") from error


def _assembled(own: str, tensors: dict[str, Tensor], card: dict[str, Any]) -> TabularPredictor:
    errors = None
    if card["errors"] is not None:
        errors = ErrorModel(
            Preparation.of(card["errors"]["columns"], _below("errors.columns", tensors)),
            Forest.of(_below("errors.forest", tensors)),
            card["errors"]["floor"],
        )
    members = tuple(
        Fitted.of(entry, _below(f"member{number}", tensors))
        for number, entry in enumerate(card["members"])
    )
    return TabularPredictor(
        column=own,
        members=members,
        errors=errors,
        domain=Domain.of(_below("domain", tensors)),
        nearby=Preparation.of(card["nearby"], _below("nearby", tensors)),
        calibration_rows=CalibrationRows.of(_below("calibration", tensors)),
        card=card,
    )


def _under(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{head}.{name}": values for name, values in tensors.items()}


def _below(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{head}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
