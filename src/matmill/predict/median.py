"""The predictor that every other has to beat: always the training median."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table
from matmill.data.parts import is_tested
from matmill.errors import DataError
from matmill.predict.calibrate import conformal_quantile
from matmill.predict.protocol import DEFAULT_COVERAGE, Prediction, empty_prediction
from matmill.progress import OnEvent, ignore
from matmill.training import checkpoint

KIND = "matmill median predictor"
_LEAST_ROWS = 2


@dataclass(frozen=True, eq=False)
class MedianPredictor:
    """Says the training median (of two classes: the share of the second) for every crystal.

    Attributes:
        values: Training labels, sorted, ``(n_rows,)`` float64.
        card: Column, kind and what it was made from.
    """

    values: Float[Tensor, " n_rows"]
    card: dict[str, Any]

    reads: ClassVar[str] = "composition"

    @classmethod
    def fit(
        cls,
        table: Table,
        target: str,
        *,
        folder: Path,  # noqa: ARG003 - every model is fit alike
        seed: int = 0,
        on_event: OnEvent = ignore,  # noqa: ARG003
    ) -> "MedianPredictor":
        """Return the predictor of a table; rows whose note ``split`` is ``test`` stay out.

        Raises:
            DataError: If fewer than two labels are known.
        """
        column = table.column_name(target)
        known = table.column(column).double()
        known = known[torch.isfinite(known) & ~is_tested(table)]
        if len(known) < _LEAST_ROWS:
            raise DataError(f"'{column}' of {table.source or 'the table'} has {len(known)} labels.")
        card = {
            "kind": KIND,
            "columns": [column],
            "is_classification": bool(((known == 0) | (known == 1)).all()),
            "n_rows": len(known),
            "seed": seed,
        }
        return cls(known.sort().values, card)

    @property
    def column(self) -> str:
        """Name of the property with its unit."""
        return self.card["columns"][0]

    def predict(
        self, batch: CrystalBatch | CompositionBatch, *, coverage: float = DEFAULT_COVERAGE
    ) -> Prediction:
        """Return the same value for each row; the interval is conformal."""
        n = len(batch)
        if not n:
            return empty_prediction(self.column, coverage)
        if self.card["is_classification"]:
            center = self.values.mean()
            std = (center * (1 - center)).sqrt()
        else:
            center = self.values.median()
            std = self.values.std()
        reach = conformal_quantile((self.values - center).abs(), coverage)
        return Prediction(
            mean=center.expand(n).clone(),
            std=std.expand(n).clone(),
            low=(center - reach).expand(n).clone(),
            high=(center + reach).expand(n).clone(),
            column=self.column,
            coverage=coverage,
            in_domain=torch.ones(n, dtype=torch.bool),
        )

    def save(self, path: Path | str) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``."""
        return checkpoint.save(path, {"values": self.values}, self.card)


def open_predictor(path: Path, column: str | None) -> MedianPredictor:  # noqa: ARG001 - one column
    """Return the predictor in a file."""
    tensors, card = checkpoint.load(path)
    return MedianPredictor(tensors["values"], card)
