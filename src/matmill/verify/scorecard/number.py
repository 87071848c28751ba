"""One number of a scorecard: value, interval, numerator, denominator, and what that counts."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from matmill.verify.confidence import bootstrap, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number.

    Attributes:
        key: Name for programs, the same in every scorecard.
        label: Name for people.
        value: The number; NaN when there is nothing to count.
        low: Lower end of the 95 % interval: Wilson's of shares, bootstrap of all others.
        high: Upper end.
        numerator: For a share how many, otherwise NaN.
        denominator: Out of how many.
        of: What the denominator counts, e.g. ``"requested"``.
        unit: Empty for pure numbers and shares.
        is_share: Whether it is printed in per cent.
        per_valid: For a share, the same out of the valid crystals; NaN where it makes no sense.
        note: What one must know to read it.
    """

    key: str
    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    numerator: float = math.nan
    denominator: int
    of: str
    unit: str = ""
    is_share: bool = False
    per_valid: float = math.nan
    note: str = ""

    def shown(self) -> tuple[str, str, str, str]:
        """Return value, interval, what it is out of, and the share of valid ones, as text."""
        return (
            self.text(self.value),
            "–" if math.isnan(self.low) else f"{self._plain(self.low)} to {self._plain(self.high)}",
            f"{int(self.numerator):,} of {self.denominator:,} {self.of}"
            if self.is_share and not math.isnan(self.numerator)
            else f"{self.denominator:,} {self.of}",
            "" if math.isnan(self.per_valid) else self.text(self.per_valid),
        )

    def text(self, value: float) -> str:
        """Return a value of this number as text."""
        if math.isnan(value):
            return "–"
        unit = "%" if self.is_share else self.unit
        return f"{self._plain(value)} {unit}".rstrip()

    def _plain(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.is_share else f"{value:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields; numbers that are not finite are None, as JSON has none."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Number":
        """Return what `as_dict` made a dictionary of."""
        floats = ("value", "low", "high", "numerator", "per_valid")
        whole: dict[str, Any] = {
            name: math.nan if name in floats and value is None else value
            for name, value in values.items()
        }
        return cls(**whole)


def share_of(key: str, label: str, hits: int, n: int, of: str, *, note: str = "") -> Number:
    """Return a share with Wilson's interval; NaN when there is nothing to count.

    Args:
        key: Name for programs.
        label: Name for people.
        hits: How many.
        n: Out of how many.
        of: What the denominator counts.
        note: What one must know.
    """
    low, high = wilson(hits, n) if n else (math.nan, math.nan)
    return Number(
        key=key,
        label=label,
        value=hits / n if n else math.nan,
        low=low,
        high=high,
        numerator=hits,
        denominator=n,
        of=of,
        is_share=True,
        note=note,
    )


def mean_of(
    key: str, label: str, values: np.ndarray, of: str, *, seed: int, unit: str = "", note: str = ""
) -> Number:
    """Return the mean of the finite values with a bootstrap interval; NaN when there are none.

    Args:
        key: Name for programs.
        label: Name for people.
        values: One each.
        of: What the denominator counts.
        seed: Of the resamples.
        unit: Of the values.
        note: What one must know.
    """
    good = np.asarray(values, dtype=float)
    good = good[np.isfinite(good)]
    low, high = bootstrap(good, lambda v: float(v.mean()), seed=seed)
    return Number(
        key=key,
        label=label,
        value=float(good.mean()) if len(good) else math.nan,
        low=low,
        high=high,
        denominator=len(good),
        of=of,
        unit=unit,
        note=note,
    )
