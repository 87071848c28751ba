"""The leak report: how much of a test part is known from training."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.compositions import CompositionBatch
from matmill.data.groups import prototypes
from matmill.data.redundancy.metrics import (
    METRICS,
    Items,
    batch_of,
    choose,
    compositions_of,
    make_space,
)
from matmill.data.redundancy.spaces import nearest_rows
from matmill.errors import InputError
from matmill.progress import OnEvent, ignore

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # of the threshold


@dataclass(frozen=True, kw_only=True, eq=False)
class LeakReport:
    """How near the test rows are to the training rows.

    Attributes:
        n_train: Training rows.
        n_test: Test rows.
        by: ``composition`` or ``structure``.
        metric: The distance.
        unit: What the distance measures.
        threshold: Below it a test row has a near-copy in training.
        distance: From each test row to the nearest training row, ``(n_test,)``.
        known_formulas: Test rows whose reduced formula occurs in training.
        shared_formulas: Reduced formulas on both sides.
        known_prototypes: Test rows whose anonymous formula and space group occur in training;
            None for compositions.
        shared_prototypes: Pairs of those on both sides; None for compositions.
    """

    n_train: int
    n_test: int
    by: str
    metric: str
    unit: str
    threshold: float
    distance: Float[Tensor, " n_test"]
    known_formulas: int
    shared_formulas: int
    known_prototypes: int | None = None
    shared_prototypes: int | None = None

    @property
    def near_share(self) -> float:
        """Share of the test rows with a training row not further than the threshold."""
        return float((self.distance <= self.threshold).double().mean())

    @property
    def quantiles(self) -> dict[str, float]:
        """Lowest, median and other quantiles of the distances."""
        values = torch.quantile(self.distance, torch.tensor(_QUANTILES, dtype=torch.float64))
        return {f"{q:g}": float(v) for q, v in zip(_QUANTILES, values, strict=True)}

    @property
    def histogram(self) -> list[tuple[float, float, int]]:
        """Lower edge, upper edge and number of test rows; the first bin has the exact repeats.

        A bin holds distances above its lower and up to its upper edge, so that the bins up to the
        threshold are those that `near_share` counts.
        """
        unit = self.threshold or float(self.distance.amax()) / _EDGES[-1] or 1.0
        edges = [edge * unit for edge in _EDGES]
        bins = [(0.0, 0.0, int((self.distance <= 0).sum()))]
        for low, high in zip(edges, [*edges[1:], float("inf")], strict=True):
            inside = (self.distance > low) & (self.distance <= high)
            bins.append((low, high, int(inside.sum())))
        return bins

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the distances as quantiles and histogram."""
        plain = {name: value for name, value in vars(self).items() if name != "distance"}
        return {
            **plain,
            "near_share": self.near_share,
            "quantiles": self.quantiles,
            "histogram": [
                {"above": low, "up_to": None if high == float("inf") else high, "rows": n}
                for low, high, n in self.histogram
            ],
        }


def report(
    train: Items,
    test: Items,
    *,
    by: str = "composition",
    metric: str | None = None,
    threshold: float | None = None,
    on_event: OnEvent = ignore,
) -> LeakReport:
    """Return how near test rows are to training rows.

    Args:
        train: Training rows: a table, crystals or compositions.
        test: Test rows.
        by: ``composition`` or ``structure``.
        metric: See `reduce.reduce`.
        threshold: In the unit of the metric; below it a row counts as a near-copy.
        on_event: Told about progress.

    Raises:
        InputError: If either is empty, or structures are needed and there are none.
        UnknownNameError: If the kind or the metric is unknown.
    """
    name, limit = choose(by, metric, threshold)
    sides = (batch_of(train), batch_of(test))
    if not len(sides[0]) or not len(sides[1]):
        raise InputError(f"There are {len(sides[0])} training and {len(sides[1])} test rows.")
    both = _joined(*sides)
    n_train, n_test = len(sides[0]), len(sides[1])
    space = make_space(both, name, on_event)
    rows = torch.arange(n_train + n_test)
    _, distance = nearest_rows(space, rows[n_train:], rows[:n_train], limit=limit or 1.0)
    formulas = [batch.formula for batch in sides]
    known, shared = _overlap(*formulas)
    prototype_counts: tuple[int, int] | tuple[None, None] = (None, None)
    if isinstance(sides[0], CrystalBatch) and isinstance(sides[1], CrystalBatch):
        prototype_counts = _overlap(prototypes(sides[0]), prototypes(sides[1]))
    return LeakReport(
        n_train=n_train,
        n_test=n_test,
        by=by,
        metric=name,
        unit=METRICS[name].what,
        threshold=limit,
        distance=distance,
        known_formulas=known,
        shared_formulas=shared,
        known_prototypes=prototype_counts[0],
        shared_prototypes=prototype_counts[1],
    )


def _overlap(train: tuple[object, ...], test: tuple[object, ...]) -> tuple[int, int]:
    """Return how many test cells occur in training, and how many different ones they are."""
    trained = set(train)
    found = [cell for cell in test if cell in trained]
    return len(found), len(set(found))


def _joined(
    train: CrystalBatch | CompositionBatch, test: CrystalBatch | CompositionBatch
) -> CrystalBatch | CompositionBatch:
    if isinstance(train, CrystalBatch) and isinstance(test, CrystalBatch):
        return concatenate([train, test])
    if isinstance(train, CompositionBatch) and isinstance(test, CompositionBatch):
        return CompositionBatch(amounts=torch.cat([train.amounts, test.amounts]))
    return _joined(compositions_of(train), compositions_of(test))
