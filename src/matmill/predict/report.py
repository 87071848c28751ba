"""Predictions for files: read, predict, and a table to print or write."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.files import read
from matmill.crystals.records import Complaint
from matmill.data.compositions import open_compositions
from matmill.data.opening import holds_compositions
from matmill.errors import InputError
from matmill.predict.ensemble import EnsemblePredictor
from matmill.predict.exact import ExactPredictor
from matmill.predict.protocol import (
    DEFAULT_COVERAGE,
    Prediction,
    Predictor,
    kinds_of,
    load_file,
    load_predictor,
    predict_many,
    shipped,
)
from matmill.progress import Event, OnEvent, ignore
from matmill.quantities import BY_COLUMN, Quantity
from matmill.training.checkpoint import card_path, write_atomically

_CHUNK_ATOMS = 20_000
_CHUNK_COMPOSITIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class Report:
    """Predictions of several properties for the crystals of some files.

    Attributes:
        columns: The properties, in the order they were asked for.
        rows: One a crystal: ``id``, ``file``, ``formula``, and for each column its value, and
            ``_std``, ``_low``, ``_high``, ``_interval`` (its kind, and whether anything stands
            behind it), ``_effective_size`` (calibration rows that it leans on), ``_in_domain``,
            ``_reason`` (why it is not).
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
            rows = [{name: _finite(value) for name, value in row.items()} for row in self.rows]
            text = json.dumps({"coverage": self.coverage, "predictions": rows}, indent=2)
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
    intervals: str = "split",
    device: str = "cpu",
    on_event: OnEvent = ignore,
) -> Report:
    """Return predictions for all crystals in files and folders, or all formulas of a sheet.

    Args:
        files: Structure files and folders, or one CSV or Parquet file with a column of formulas.
        properties: What to predict; by default all that the model, or else matmill, offers.
        model: Own predictor in place of the shipped ones.
        coverage: Of the intervals, in (0, 1).
        intervals: Kind of interval, see `predict.intervals`. ``shifted`` compares all crystals
            together with those of calibration.
        device: Where the networks run.
        on_event: Told about progress.

    Raises:
        UnknownNameError: If a property cannot be predicted.
        InputError: If a predictor cannot give this kind of interval.
        DataError: If nothing can be read.
    """
    predictors = _predictors(properties, model)
    _check_kind(predictors, intervals)
    for predictor in predictors:
        if isinstance(predictor, EnsemblePredictor):
            predictor.to(device)
    found = _found(list(files), on_event)
    rows: list[dict[str, Any]] = []
    # A shift is a matter of the whole population, so it cannot be seen in parts.
    whole = [found.items] if len(found.items) else []
    for part in whole if intervals == "shifted" else _parts(found.items):
        predictions = predict_many(part, predictors, coverage=coverage, intervals=intervals)
        cells = {column: _cells(prediction) for column, prediction in predictions.items()}
        ids = part.ids or ("",) * len(part)
        formulas = part.formula if isinstance(part, CrystalBatch) else part.formulas
        for i, (name, formula) in enumerate(zip(ids, formulas, strict=True)):
            row: dict[str, Any] = {"id": name, "file": found.files[len(rows)], "formula": formula}
            for column, fields in cells.items():
                row |= {f"{column}{ending}": values[i] for ending, values in fields.items()}
            rows.append(row)
        on_event(Event(stage="predict", done=len(rows), total=len(found.items)))
    return Report(
        columns=[_quantity(predictor.column) for predictor in predictors],
        rows=rows,
        complaints=list(found.complaints),
        coverage=coverage,
        models={p.column: str(p.card.get("weights_sha256", "")) for p in predictors},
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """What was read: crystals, or compositions where a sheet has formulas and no structures."""

    items: CrystalBatch | CompositionBatch
    files: Sequence[str]
    complaints: Sequence[Complaint]


def _found(files: list[Path], on_event: OnEvent) -> _Found:
    if not (len(files) == 1 and files[0].is_file() and holds_compositions(files[0])):
        result = read(files, on_event=on_event)
        return _Found(result.crystals, result.files, result.complaints)
    table = open_compositions(files[0])
    names = (str(files[0]),) * len(table)
    return _Found(replace(table.compositions, ids=table.ids), names, table.complaints)


def _parts(items: CrystalBatch | CompositionBatch) -> list[CrystalBatch] | list[CompositionBatch]:
    if isinstance(items, CrystalBatch):
        return list(items.chunks(_CHUNK_ATOMS))
    starts = range(0, len(items), _CHUNK_COMPOSITIONS)
    return [
        items.select(range(start, min(start + _CHUNK_COMPOSITIONS, len(items)))) for start in starts
    ]


def _predictors(properties: Sequence[str], model: Path | None) -> list[Predictor]:
    if model is None:
        names = list(properties) or shipped()
        if not names:
            raise InputError("No predictor is installed; train one, or ask for density.")
        predictors = [load_predictor(name) for name in names]
    else:
        columns = _card(model).get("columns") or [None]
        predictors = [load_file(model, column=name) for name in properties or columns]
    return list({predictor.column: predictor for predictor in predictors}.values())


def _card(model: Path) -> dict[str, Any]:
    path = card_path(model)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _check_kind(predictors: Sequence[Predictor], intervals: str) -> None:
    """Refuse a kind of interval that a predictor cannot give; computed values need none."""
    lacking = [
        p.column
        for p in predictors
        if intervals not in ("split", *kinds_of(p)) and not isinstance(p, ExactPredictor)
    ]
    if lacking:
        raise InputError(
            f"The predictor of {', '.join(lacking)} cannot give intervals of the kind "
            f"'{intervals}': it was saved without calibration rows. Train it again, or ask for "
            "plain intervals."
        )


def _cells(prediction: Prediction) -> dict[str, list[Any]]:
    """Return the values of the columns of one property, by the ending of their names."""
    n = len(prediction)
    size = prediction.effective_size
    return {
        "": prediction.mean.tolist(),
        "_std": prediction.std.tolist(),
        "_low": prediction.low.tolist(),
        "_high": prediction.high.tolist(),
        "_interval": list(prediction.interval) or [""] * n,
        "_effective_size": [None] * n if size is None else [round(x, 1) for x in size.tolist()],
        "_in_domain": prediction.in_domain.tolist(),
        "_reason": list(prediction.reasons) or [""] * n,
    }


def _finite(value: Any) -> Any:  # noqa: ANN401 - a cell of any kind
    """Return null for infinities and NaN, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quantity(column: str) -> Quantity:
    """Return what is known of a column; users train on columns that matmill never heard of."""
    plain = Quantity(name=column, column=column, unit="", label=column, low=float("-inf"), high=0.0)
    return BY_COLUMN.get(column, plain)
