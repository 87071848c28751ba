"""Predictions for files: read, predict, and a table to print or write."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matmill.crystals.files import read
from matmill.crystals.records import Complaint
from matmill.errors import InputError
from matmill.predict.ensemble import EnsemblePredictor, load_model
from matmill.predict.protocol import (
    DEFAULT_COVERAGE,
    Predictor,
    load_predictor,
    predict_many,
    shipped,
)
from matmill.progress import Event, OnEvent, ignore
from matmill.quantities import BY_COLUMN, Quantity
from matmill.training.checkpoint import write_atomically

_CHUNK_ATOMS = 20_000


@dataclass(frozen=True, kw_only=True)
class Report:
    """Predictions of several properties for the crystals of some files.

    Attributes:
        columns: The properties, in the order they were asked for.
        rows: One a crystal: ``id``, ``file``, ``formula``, and for each column its value, and
            ``_std``, ``_low``, ``_high``, ``_in_domain``.
        complaints: What could not be read.
        coverage: Of the intervals.
        models: By column, the SHA-256 of the weights; empty for computed properties.
    """

    columns: list[Quantity]
    rows: list[dict[str, Any]]
    complaints: list[Complaint]
    coverage: float
    models: dict[str, str]

    def write(self, path: Path) -> None:
        """Write the table as ``.csv``, ``.json`` or ``.parquet``.

        Raises:
            InputError: If the suffix is none of these.
        """
        suffix = path.suffix.lower()
        if suffix == ".csv":
            buffer = io.StringIO(newline="")
            writer = csv.DictWriter(buffer, list(self.rows[0]) if self.rows else ["id"])
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(path, buffer.getvalue().encode())
        elif suffix == ".json":
            text = json.dumps({"coverage": self.coverage, "predictions": self.rows}, indent=2)
            write_atomically(path, text.encode())
        elif suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(self.rows), buffer, compression="zstd")
            write_atomically(path, buffer.getvalue())
        else:
            raise InputError(f"Cannot write '{path}': use .csv, .json or .parquet.")


def predict_files(
    files: Sequence[Path],
    properties: Sequence[str] = (),
    *,
    model: Path | None = None,
    coverage: float = DEFAULT_COVERAGE,
    device: str = "cpu",
    on_event: OnEvent = ignore,
) -> Report:
    """Return predictions for all crystals in files and folders.

    Args:
        files: Structure files and folders.
        properties: What to predict; by default all that the model, or else matmill, offers.
        model: Own predictor in place of the shipped ones.
        coverage: Of the intervals, in (0, 1).
        device: Where the networks run.
        on_event: Told about progress.

    Raises:
        UnknownNameError: If a property cannot be predicted.
        DataError: If nothing can be read.
    """
    predictors = _predictors(properties, model)
    for predictor in predictors:
        if isinstance(predictor, EnsemblePredictor):
            predictor.to(device)
    found = read(list(files), on_event=on_event)
    crystals = found.crystals
    rows: list[dict[str, Any]] = []
    for part in crystals.chunks(_CHUNK_ATOMS):
        predictions = predict_many(part, predictors, coverage=coverage)
        ids = part.ids or ("",) * len(part)
        for i, (name, formula) in enumerate(zip(ids, part.formula, strict=True)):
            row: dict[str, Any] = {
                "id": name,
                "file": found.files[len(rows)],
                "formula": formula,
            }
            for column, prediction in predictions.items():
                row[column] = float(prediction.mean[i])
                row[f"{column}_std"] = float(prediction.std[i])
                row[f"{column}_low"] = float(prediction.low[i])
                row[f"{column}_high"] = float(prediction.high[i])
                row[f"{column}_in_domain"] = bool(prediction.in_domain[i])
            rows.append(row)
        on_event(Event(stage="predict", done=len(rows), total=len(crystals)))
    return Report(
        columns=[_quantity(predictor.column) for predictor in predictors],
        rows=rows,
        complaints=found.complaints,
        coverage=coverage,
        models={p.column: str(p.card.get("weights_sha256", "")) for p in predictors},
    )


def _predictors(properties: Sequence[str], model: Path | None) -> list[Predictor]:
    if model is None:
        names = list(properties) or shipped()
        if not names:
            raise InputError("No predictor is installed; train one, or ask for density.")
        predictors = [load_predictor(name) for name in names]
    else:
        ensemble = load_model(model)
        predictors = [ensemble.view(name) for name in properties or ensemble.columns]
    return list({predictor.column: predictor for predictor in predictors}.values())


def _quantity(column: str) -> Quantity:
    """Return what is known of a column; users train on columns that matmill never heard of."""
    plain = Quantity(name=column, column=column, unit="", label=column, low=float("-inf"), high=0.0)
    return BY_COLUMN.get(column, plain)
