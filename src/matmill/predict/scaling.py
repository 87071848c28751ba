"""Targets on the scale that networks learn: logarithms for moduli, then centred and scaled."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import DataError
from matmill.quantities import BY_COLUMN, Quantity
from matmill.randomness import child

_PLAIN_SAMPLE = 500
_SMALLEST = 0.1  # GPa and the like; smaller values go in as this, the logarithm needs one


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScale:
    """How one column is turned into a learnable number and back.

    Attributes:
        column: Name with unit.
        is_log: True when the logarithm is learned.
        center: Median of the (logarithms of the) training values.
        spread: Mean absolute deviation from it.
        floor: Smallest value that may come out; None when any may.
        low: Smallest training value, in the column's unit.
        high: Largest training value.
        is_class: True when the values are 0 and 1: what is learned is then the probability of 1.
    """

    column: str
    is_log: bool
    center: float
    spread: float
    floor: float | None
    low: float
    high: float
    is_class: bool = False

    @classmethod
    def of(
        cls, column: str, values: Float[Tensor, " n"], *, is_plain: bool = False, seed: int = 0
    ) -> "TargetScale":
        """Return the scale for these training values; NaN are left out.

        Args:
            column: Name with unit.
            values: In that unit.
            is_plain: Take mean and standard deviation of at most 500 values, no logarithm and no
                floor, as the original CGCNN does.
            seed: Chooses these 500.

        Raises:
            DataError: If fewer than two different values are known.
        """
        known = values[torch.isfinite(values)].double()
        if len(known) < 2 or float(known.max()) == float(known.min()):
            raise DataError(
                f"'{column}' has {len(known)} known value(s) to train on, all alike: nothing can "
                "be learned from it. Give a column with at least two different values."
            )
        if bool(((known == 0.0) | (known == 1.0)).all()):
            # Learned as -1 and 1, so that the two classes lie alike whatever their shares.
            return cls(
                column=column,
                is_log=False,
                center=0.5,
                spread=0.5,
                floor=0.0,
                low=0.0,
                high=1.0,
                is_class=True,
            )
        if is_plain:
            order = torch.randperm(len(known), generator=child(seed, "scale", column))
            sample = known[order[:_PLAIN_SAMPLE]]
            return cls(
                column=column,
                is_log=False,
                center=float(sample.mean()),
                spread=float(sample.std()) or 1.0,
                floor=None,
                low=float(known.min()),
                high=float(known.max()),
            )
        quantity: Quantity | None = BY_COLUMN.get(column)
        is_log = quantity is not None and quantity.log
        has_floor = quantity is not None and quantity.low == 0.0
        # An unknown column with many zeros and nothing below is one of gaps, moments or the like.
        n_zeros = int((known == 0.0).sum())
        has_floor |= quantity is None and float(known.min()) == 0.0 and n_zeros > 0.01 * len(known)
        inner = known.clamp_min(_SMALLEST).log10() if is_log else known
        center = float(inner.median())
        return cls(
            column=column,
            is_log=is_log,
            center=center,
            spread=float((inner - center).abs().mean()),
            floor=0.0 if has_floor else None,
            low=float(known.min()),
            high=float(known.max()),
        )

    def to_learned(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return values of the column on the learned scale; NaN stay NaN."""
        inner = values.clamp_min(_SMALLEST).log10() if self.is_log else values
        return (inner - self.center) / self.spread

    def from_learned(self, learned: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return values in the column's unit, never below its floor; probabilities of classes."""
        inner = learned * self.spread + self.center
        values = torch.pow(10.0, inner) if self.is_log else inner
        if self.is_class:
            return values.clamp(0.0, 1.0)
        return values if self.floor is None else values.clamp_min(self.floor)

    def std_from_learned(
        self, learned: Float[Tensor, "*n"], std: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """Return a standard deviation in the column's unit, to first order for logarithms."""
        inner = std * self.spread
        if not self.is_log:
            return inner
        return inner * torch.log(torch.tensor(10.0)) * self.from_learned(learned)

    def as_card(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
