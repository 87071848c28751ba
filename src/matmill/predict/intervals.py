"""Which interval each crystal gets: plain, within its family, or for shifted crystals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.errors import DataError, UnknownNameError
from matmill.predict.calibrate import conformal_quantile
from matmill.predict.conformal import (
    FEW,
    cross_interval,
    effective_size,
    group_factors,
    weighted_factors,
)
from matmill.predict.shift import density_ratio

Kind = Literal["split", "family", "shifted"]
_NO_PROMISE = ", no guarantee"
_SCORES = "scores."


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """How many standard deviations the intervals reach, and what stands behind that.

    Attributes:
        factor: On σ, ``(n_crystals,)`` float64; infinite where nothing can be promised.
        effective_size: Calibration rows that the factor leans on, ``(n_crystals,)``; with weights
            it is how many equally weighted rows would be worth as much.
        names: Kind of interval of each crystal, and "no guarantee" where fewer than 50 rows stand
            behind it.
    """

    factor: Float[Tensor, " n_crystals"]
    effective_size: Float[Tensor, " n_crystals"]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationRows:
    """What is kept of the rows that a predictor was calibrated on.

    Attributes:
        features: Projected features, as `Domain.project` gives them, ``(n_rows, n_axes)``.
        families: Family of compounds of each row, see `predict.chemistry`, ``(n_rows,)``.
        scores: By column, |error| / σ with the σ that is shown, NaN where the value is not
            known, each ``(n_rows,)``. With folds, σ is that of the member that did not see the
            row.
        folds: Which member did not see each row, ``(n_rows,)``; None where no member saw any.
    """

    features: Float[Tensor, "n_rows n_axes"]
    families: Int[Tensor, " n_rows"]
    scores: dict[str, Float[Tensor, " n_rows"]]
    folds: Int[Tensor, " n_rows"] | None = None

    def factors(
        self,
        column: str,
        coverage: float,
        features: Float[Tensor, "n_crystals n_axes"],
        families: Int[Tensor, " n_crystals"],
        *,
        kind: Kind = "split",
        seed: int = 0,
    ) -> Factors:
        """Return the factors for crystals that are asked about.

        Args:
            column: Property whose scores count.
            coverage: Share of true values that the intervals should hold, in (0, 1).
            features: Projected features of the asked crystals.
            families: Their families.
            kind: ``split``: one factor for all. ``family``: one for each family of compounds, so
                that the promise holds within it. ``shifted``: calibration rows weigh the more,
                the more they are like the crystals asked about; for generated crystals. Where
                fewer than 50 effective rows are left nothing is promised, and the interval is at
                least the plain one.
            seed: Of the classifier's folds for ``shifted``.

        Raises:
            UnknownNameError: If there is no such kind or column.
        """
        if kind not in get_args(Kind):
            raise UnknownNameError("kind of interval", kind, list(get_args(Kind)))
        if column not in self.scores:
            raise UnknownNameError("calibrated column", column, list(self.scores))
        known = torch.isfinite(self.scores[column])
        scores = self.scores[column][known]
        m = len(features)
        if kind == "family":
            factor, size, is_own = group_factors(scores, self.families[known], families, coverage)
            names = ["conformal within family" if own else "conformal" for own in is_own.tolist()]
        elif kind == "shifted":
            # The rows of this column, not all: moduli, say, are known of chosen crystals only.
            shift = density_ratio(self.features[known], features, seed=seed)
            factor = weighted_factors(scores, shift.known, shift.asked, coverage)
            size = torch.full((m,), effective_size(shift.known), dtype=torch.float64)
            is_carried = effective_size(shift.known) >= FEW
            if not is_carried:
                # A few rows with nearly all the weight say nothing; their intervals may be tiny.
                factor = factor.clamp_min(conformal_quantile(scores, coverage))
            # From a handful of crystals nobody can tell how their population differs.
            ending = _NO_PROMISE if is_carried and m < FEW else ""
            names = [f"weighted conformal{ending}"] * m
        else:
            whole = conformal_quantile(scores, coverage)
            factor = torch.full((m,), whole, dtype=torch.float64)
            size = torch.full((m,), float(len(scores)), dtype=torch.float64)
            names = ["conformal"] * m
        return Factors(factor=factor, effective_size=size, names=_with_promise(names, size))

    def across_folds(
        self,
        column: str,
        coverage: float,
        means: Float[Tensor, "n_members n_crystals"],
        stds: Float[Tensor, "n_members n_crystals"],
    ) -> tuple[Float[Tensor, " n_crystals"], Float[Tensor, " n_crystals"], Factors]:
        """Return the ends of CV+ intervals, see `conformal.cross_interval`, and what carries them.

        Args:
            column: Property whose scores count.
            coverage: Share of true values that the intervals should hold, in (0, 1).
            means: What each member says; member k did not see the rows of fold k.
            stds: Calibrated σ that each member alone expects.
        """
        assert self.folds is not None
        known = torch.isfinite(self.scores[column])
        low, high = cross_interval(
            self.scores[column][known], self.folds[known], means, stds, coverage
        )
        n = means.shape[1]
        size = torch.full((n,), float(known.sum()), dtype=torch.float64)
        nothing = torch.full((n,), torch.nan, dtype=torch.float64)
        names = _with_promise(["CV+"] * n, size)
        return low, high, Factors(factor=nothing, effective_size=size, names=names)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        scores = {f"{_SCORES}{column}": values for column, values in self.scores.items()}
        folds = {} if self.folds is None else {"folds": self.folds}
        return {"features": self.features, "families": self.families, **folds, **scores}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "CalibrationRows":
        """Return the rows that `tensors` gave.

        Raises:
            DataError: If something is missing.
        """
        try:
            return cls(
                features=tensors["features"].float(),
                families=tensors["families"].long(),
                scores={
                    name.removeprefix(_SCORES): values.float()
                    for name, values in tensors.items()
                    if name.startswith(_SCORES)
                },
                folds=tensors["folds"].long() if "folds" in tensors else None,
            )
        except KeyError as error:
            raise DataError(f"The calibration of this file lacks {error}.") from error


def plain_factors(factor: float, n_calibration: int, n: int) -> Factors:
    """Return the same factor for n crystals: split conformal from a stored table."""
    size = torch.full((n,), float(n_calibration), dtype=torch.float64)
    return Factors(
        factor=torch.full((n,), factor, dtype=torch.float64),
        effective_size=size,
        names=_with_promise(["conformal"] * n, size),
    )


def _with_promise(names: Sequence[str], sizes: Tensor) -> tuple[str, ...]:
    return tuple(
        name if size >= FEW else name + _NO_PROMISE
        for name, size in zip(names, sizes.tolist(), strict=True)
    )
