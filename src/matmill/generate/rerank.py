"""Best of k: draw each crystal k times and keep the one that a predictor likes most.

Cheap and independent of how the generator works. It moves crystals only as far as chance spreads
them, and it can be fooled where the predictor is; so what the predictor says of the first draws
is reported beside what it says of those that were kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError


class Predicted(Protocol):
    """A prediction with its standard deviation."""

    @property
    def mean(self) -> Float[Tensor, " b"]:
        """Best guess."""
        ...

    @property
    def std(self) -> Float[Tensor, " b"]:
        """Standard deviation of its error."""
        ...


class Judge(Protocol):
    """What predicts a property of crystals."""

    @property
    def column(self) -> str:
        """Name of the property with its unit."""
        ...

    def predict(self, batch: CrystalBatch) -> Predicted:
        """Return the property of each crystal."""
        ...


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A range of one property, and who judges it.

    Attributes:
        judge: The predictor.
        low: Smallest value that is as wanted; -inf for none.
        high: Largest value that is as wanted; inf for none.
        unit_step: A difference that matters, by which several properties are compared.
    """

    judge: Judge
    low: float
    high: float
    unit_step: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """What was kept of k draws each.

    Attributes:
        chosen: Position of the draw that was kept for each crystal, ``(n,)``.
        k: Draws a crystal.
        kappa: Standard deviations by which a prediction was distrusted.
        scores: Of every draw, higher is better, ``(k * n,)``.
        raw: For each property, what the judge says of the first draws.
        kept: The same of the draws that were kept.
    """

    chosen: Int[Tensor, " n"]
    k: int
    kappa: float
    scores: Float[Tensor, " m"]
    raw: list[dict[str, Any]]
    kept: list[dict[str, Any]]


def best_of(
    crystals: CrystalBatch, wanted: Sequence[Wanted], *, k: int, kappa: float = 1.0
) -> Reranked:
    """Choose among k draws of each crystal.

    The score of a draw is minus its distance from the wanted range, as predicted, and minus
    ``kappa`` standard deviations: of two draws the surer one is kept. A draw that cannot be
    predicted is kept only when all others cannot either.

    Args:
        crystals: Draws: crystal i of n has the rows i, i + n, i + 2 n, …
        wanted: What is wanted; distances are added up.
        k: Draws a crystal.
        kappa: How much to distrust uncertain predictions.

    Raises:
        InputError: If nothing is wanted, or the rows are no multiple of k.
    """
    if not wanted:
        raise InputError("There is nothing to judge by: give at least one target.")
    if k < 1 or len(crystals) % k:
        raise InputError(f"{len(crystals)} crystals are not {k} draws each.")
    n = len(crystals) // k
    scores = torch.zeros(len(crystals), dtype=torch.float64)
    values = []
    for wish in wanted:
        found = wish.judge.predict(crystals)
        mean, std = found.mean.double(), found.std.double()
        away = (wish.low - mean).clamp_min(0.0) + (mean - wish.high).clamp_min(0.0)
        scores -= (away + kappa * std) / wish.unit_step
        values.append(mean)
    scores = scores.nan_to_num(nan=-torch.inf)
    best = scores.view(k, n).argmax(0) if n else torch.zeros(0, dtype=torch.int64)
    chosen = best * n + torch.arange(n)
    first = torch.arange(n)
    return Reranked(
        chosen=chosen,
        k=k,
        kappa=kappa,
        scores=scores,
        raw=[_tally(wish, mean[first]) for wish, mean in zip(wanted, values, strict=True)],
        kept=[_tally(wish, mean[chosen]) for wish, mean in zip(wanted, values, strict=True)],
    )


def _tally(wish: Wanted, values: Float[Tensor, " n"]) -> dict[str, Any]:
    """Return how many values are as wanted, of how many, and their median."""
    hits = (values >= wish.low) & (values <= wish.high)
    return {
        "column": wish.judge.column,
        "hits": int(hits.sum()),
        "n": len(values),
        "median": float(values.nanmedian()) if len(values) else None,
    }
