"""Scales on which a property is learned, chosen by what the property is made of.

Every scale is the same four steps: divide by a size of the crystal (an exfoliation energy is close
to a constant per area, not per atom), bend (logarithm, inverse hyperbolic sine, log odds), subtract
a simple law, and centre. Each step can be undone, grows with the value, and depends on nothing that
a rotation, a shift or a supercell would change.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import DataError

Bend = Literal["none", "log", "asinh", "logit"]
Facts = Mapping[str, Float[Tensor, " n"]]
LAYER_SIZE = "area_per_atom_a2"
BULK_SIZE = "volume_per_atom_a3"
_MARGIN = 0.25  # of the trained range; learners that extrapolate farther are held back
_EDGE = 1e-3  # distance of a share from 0 and 1 below which its log odds would run away
_LEAST_RATIO = 3.0  # of the 95th to the 5th percentile; below it a logarithm changes little
_LEAST_TAIL = 2.0  # farthest percentile from the median in half interquartile ranges, over normal's


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a scale is made of, before it is fitted.

    Attributes:
        bend: Function after the division.
        size: Fact to divide by; None for none.
        has_law: Subtract a law that is linear in the logarithms of all facts.
    """

    bend: Bend
    size: str | None = None
    has_law: bool = False


FORMS: dict[str, Form] = {
    "identity": Form(bend="none"),
    "log": Form(bend="log"),
    "asinh": Form(bend="asinh"),
    "logit": Form(bend="logit"),
    "per area": Form(bend="none", size=LAYER_SIZE),
    "asinh per area": Form(bend="asinh", size=LAYER_SIZE),
    "per volume": Form(bend="none", size=BULK_SIZE),
    "log minus law": Form(bend="log", has_law=True),
    "asinh minus law": Form(bend="asinh", has_law=True),
}
"""Scales by name."""


@dataclass(frozen=True, kw_only=True)
class TargetScale:
    """A scale fitted to training rows.

    Attributes:
        name: In `FORMS`.
        unit: Values are divided by it before they are bent.
        law: Factor on the logarithm of each fact, and ``""`` for the constant.
        typical: Median of each fact, for crystals where it is not defined.
        center: Subtracted from bent values.
        spread: Divides them.
        low: Smallest learned value that is taken at its word.
        high: Largest.
        floor: Values below it do not come out; None where any may.
        ceiling: Values above it do not come out.
    """

    name: str
    unit: float = 1.0
    law: dict[str, float] = field(default_factory=dict)
    typical: dict[str, float] = field(default_factory=dict)
    center: float = 0.0
    spread: float = 1.0
    low: float = -torch.inf
    high: float = torch.inf
    floor: float | None = None
    ceiling: float | None = None

    @property
    def form(self) -> Form:
        """What the scale is made of."""
        return FORMS[self.name]

    def learned(self, values: Float[Tensor, " n"], facts: Facts) -> Float[Tensor, " n"]:
        """Return values of the column on the learned scale."""
        bent = _bend(self.form.bend, values / self._size(values, facts) / self.unit)
        return (bent - self._law(values, facts) - self.center) / self.spread

    def original(self, learned: Float[Tensor, " n"], facts: Facts) -> Float[Tensor, " n"]:
        """Return learned values in the unit of the column, held near the trained range."""
        kept = learned.clamp(self.low, self.high)
        bent = kept * self.spread + self.center + self._law(kept, facts)
        values = _unbend(self.form.bend, bent) * self.unit * self._size(kept, facts)
        return values.clamp(self.floor, self.ceiling) if self._is_bounded else values

    @property
    def _is_bounded(self) -> bool:
        return self.floor is not None or self.ceiling is not None

    def _size(self, like: Tensor, facts: Facts) -> Tensor:
        size = self.form.size
        return torch.ones_like(like) if size is None else self._fact(size, facts)

    def _law(self, like: Tensor, facts: Facts) -> Tensor:
        total = torch.full_like(like, self.law.get("", 0.0))
        for name, factor in self.law.items():
            if name:
                total = total + factor * self._fact(name, facts).log()
        return total

    def _fact(self, name: str, facts: Facts) -> Tensor:
        values = facts[name].double()
        is_known = torch.isfinite(values) & (values > 0)
        return torch.where(is_known, values, self.typical[name])

    def as_card(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def candidates(values: Float[Tensor, " n"], facts: Facts, *, is_layered: bool) -> list[str]:
    """Return the names of the scales that may suit a column, whatever it is called.

    Args:
        values: Training values, all known.
        facts: Of the same rows.
        is_layered: Nearly all rows are single layers.
    """
    values = values.double()
    quantiles = values.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double())
    low, first, middle, third, high = quantiles.tolist()
    half = max(0.5 * (third - first), 1e-12)
    tail = max(high - middle, middle - low) / half / 2.44  # 2.44: that of a normal distribution
    found = ["identity"]
    is_positive = float(values.min()) > 0.0
    is_wide = is_positive and high > _LEAST_RATIO * low
    is_share = float(values.min()) >= 0.0 and float(values.max()) <= 1.0
    if is_wide:
        found.append("log")
    if tail > _LEAST_TAIL and not is_positive:
        found.append("asinh")
    if is_share:
        found.append("logit")
    if is_layered and LAYER_SIZE in facts:
        found += ["asinh", "per area", "asinh per area"]
    elif BULK_SIZE in facts:
        found.append("per volume")
        if is_wide:
            found.append("log minus law")
    return list(dict.fromkeys(found))


def fit_scale(name: str, values: Float[Tensor, " n"], facts: Facts) -> TargetScale:
    """Return a scale fitted to training rows.

    Raises:
        DataError: If all values are alike, or a logarithm is asked for values that are not
            positive.
    """
    values = values.double()
    if len(values) < 2 or float(values.max()) == float(values.min()):
        raise DataError(
            f"The target has {len(values)} known value(s) to train on, all alike: nothing can be "
            "learned from it. Give a column with at least two different values."
        )
    form = FORMS[name]
    if form.bend == "log" and float(values.min()) <= 0.0:
        raise DataError(f"The scale '{name}' needs positive values; some are zero or negative.")
    typical = {
        fact: float(_known(column).median())
        for fact, column in facts.items()
        if len(_known(column))
    }
    bare = TargetScale(name=name, typical=typical)
    sized = values / bare._size(values, facts)
    unit = _unit(form.bend, sized)
    bent = _bend(form.bend, sized / unit)
    law = _fit_law(bent, facts, bare) if form.has_law else {}
    left = bent - TargetScale(name=name, typical=typical, law=law)._law(bent, facts)
    center = float(left.median())
    spread = float((left - center).abs().mean()) * 1.25  # a standard deviation, if normal
    learned = (left - center) / max(spread, 1e-12)
    margin = _MARGIN * float(learned.max() - learned.min())
    return TargetScale(
        name=name,
        unit=unit,
        law=law,
        typical=typical,
        center=center,
        spread=max(spread, 1e-12),
        low=float(learned.min()) - margin,
        high=float(learned.max()) + margin,
        floor=0.0 if float(values.min()) >= 0.0 else None,
        ceiling=1.0 if form.bend == "logit" else (0.0 if float(values.max()) <= 0.0 else None),
    )


def _unit(bend: Bend, sized: Tensor) -> float:
    """Return the value at which an inverse hyperbolic sine turns from linear to logarithmic."""
    if bend != "asinh":
        return 1.0
    size = sized.abs()
    return float(size[size > 0].median())


def _fit_law(bent: Tensor, facts: Facts, scale: TargetScale) -> dict[str, float]:
    """Return the least-squares factors on the logarithms of the facts."""
    names = [name for name in facts if name in scale.typical]
    logs = torch.stack([scale._fact(name, facts).log() for name in names], dim=1)
    keep = [i for i in range(len(names)) if float(logs[:, i].std()) > 1e-6]
    ones = torch.ones(len(bent), 1, dtype=torch.float64)
    matrix = torch.cat([ones, logs[:, keep]], dim=1)
    factors = torch.linalg.lstsq(matrix, bent[:, None]).solution[:, 0].tolist()
    return dict(zip(["", *(names[i] for i in keep)], factors, strict=True))


def _known(column: Tensor) -> Tensor:
    return column[torch.isfinite(column) & (column > 0)].double()


def _bend(bend: Bend, values: Tensor) -> Tensor:
    if bend == "log":
        return values.clamp_min(torch.finfo(torch.float64).tiny).log()
    if bend == "asinh":
        return values.asinh()
    return values.clamp(_EDGE, 1.0 - _EDGE).logit() if bend == "logit" else values


def _unbend(bend: Bend, bent: Tensor) -> Tensor:
    if bend == "log":
        return bent.clamp(-700.0, 700.0).exp()
    if bend == "asinh":
        return bent.clamp(-700.0, 700.0).sinh()
    return bent.sigmoid() if bend == "logit" else bent
