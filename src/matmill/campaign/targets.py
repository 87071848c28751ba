"""What a user asks for: targets as people write them, and the whole request.

``"band_gap = 2.0 eV"``, ``"bulk_modulus > 150 GPa"``, ``"band_gap = 1.5..2.5"``,
``"0.5 < density < 5"``, ``"max bulk_modulus"``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from matmill.errors import InputError
from matmill.quantities import QUANTITIES, Quantity, find
from matmill.units import convert, units_like

# A point target is met within this share of its value, or of the quantity's plausible range
# where that is more: 2 eV ± 0.2 eV, 150 GPa ± 15 GPa, 0 eV ± 0.2 eV.
POINT_TOLERANCE = 0.10
POINT_TOLERANCE_OF_RANGE = 0.01

_NUMBER = r"([-+]?(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_NAME = r"([A-Za-z_][\w -]*?)"
_UNIT = r"([^\d\s<>=~.±+-][^<>=~±]*)?"
_BETWEEN = re.compile(rf"{_NUMBER}\s*{_UNIT}\s*(<=?)\s*{_NAME}\s*(<=?)\s*{_NUMBER}\s*{_UNIT}")
_RANGE = re.compile(rf"{_NAME}\s*(?:=|==|:|\bin\b)\s*{_NUMBER}\s*\.\.\s*{_NUMBER}\s*{_UNIT}")
_PLUS_MINUS = re.compile(
    rf"{_NAME}\s*(?:=|==|~)\s*{_NUMBER}\s*(?:±|\+-|\+/-)\s*{_NUMBER}\s*{_UNIT}"
)
_BOUND = re.compile(rf"{_NAME}\s*(<=|>=|==|=|<|>|~)\s*{_NUMBER}\s*{_UNIT}")
_BOUND_REVERSED = re.compile(rf"{_NUMBER}\s*{_UNIT}\s*(<=|>=|<|>)\s*{_NAME}")
_EXTREME = re.compile(rf"(max|min)(?:imi[sz]e)?\s*:?\s+{_NAME}", re.IGNORECASE)
_FORMS = (
    '"band_gap = 2.0 eV", "band_gap = 2.0 ± 0.2 eV", "bulk_modulus > 150 GPa", '
    '"band_gap = 1.5..2.5", "0.5 < density < 5", "max bulk_modulus"'
)


class Goal(StrEnum):
    """What a target asks of its property."""

    POINT = "point"
    WINDOW = "window"
    MAXIMISE = "maximise"
    MINIMISE = "minimise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One wish about one property, in the unit of its column.

    Attributes:
        quantity: The property.
        goal: Point, window, maximise or minimise.
        low: Smallest value that meets the target; -inf when there is none.
        high: Largest value that meets the target; inf when there is none.
        value: The value asked for, of a point target only.
        text: As the user wrote it.
    """

    quantity: Quantity
    goal: Goal
    low: float = -math.inf
    high: float = math.inf
    value: float | None = None
    text: str = ""

    @property
    def column(self) -> str:
        """Column of the property, with its unit."""
        return self.quantity.column

    def describe(self) -> str:
        """Return the target in one form, with the range that counts as met."""
        name, unit = self.quantity.name, f" {self.quantity.unit}" if self.quantity.unit else ""
        if self.goal in (Goal.MAXIMISE, Goal.MINIMISE):
            return f"{self.goal} {name}"
        if self.value is not None:
            return f"{name} = {self.value:g}{unit} (met in {self.low:g}..{self.high:g})"
        if math.isinf(self.high):
            return f"{name} >= {self.low:g}{unit}"
        if math.isinf(self.low):
            return f"{name} <= {self.high:g}{unit}"
        return f"{name} = {self.low:g}..{self.high:g}{unit}"


def parse_target(text: str, added: Sequence[Quantity] = ()) -> Target:
    """Return the target that ``text`` describes.

    Args:
        text: What the user wrote.
        added: Properties that only this caller knows, such as those of adapters.

    Raises:
        InputError: If the text has no known form, or the unit is not one of the property's.
        UnknownNameError: If there is no such property.

    Example:
        >>> parse_target("bulk_modulus > 150 GPa").low
        150.0
    """
    plain = text.strip().replace("≥", ">=").replace("≤", "<=").replace("−", "-")
    target = (
        _extreme(plain, added)
        or _between(plain, added)
        or _range(plain, added)
        or _bound(plain, added)
    )
    if target is None:
        raise InputError(
            f"Target '{text}' cannot be read. Write one of: {_FORMS}. "
            f"Properties: {', '.join(sorted([*QUANTITIES, *(q.name for q in added)]))}."
        )
    if target.low > target.high:
        raise InputError(f"Target '{text}' is empty: its lower bound is above its upper bound.")
    _check_plausible(target, text)
    return replace(target, text=text)


def _extreme(text: str, added: Sequence[Quantity]) -> Target | None:
    match = _EXTREME.fullmatch(text)
    if match is None:
        return None
    goal = Goal.MAXIMISE if match[1].lower() == "max" else Goal.MINIMISE
    return Target(quantity=find(match[2], added), goal=goal)


def _between(text: str, added: Sequence[Quantity]) -> Target | None:
    match = _BETWEEN.fullmatch(text)
    if match is None:
        return None
    low, low_unit, _, name, _, high, high_unit = match.groups()
    quantity = find(name, added)
    return _window(
        quantity, _value(low, low_unit or high_unit, quantity), _value(high, high_unit, quantity)
    )


def _range(text: str, added: Sequence[Quantity]) -> Target | None:
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    name, low, high, unit = match.groups()
    quantity = find(name, added)
    return _window(quantity, _value(low, unit, quantity), _value(high, unit, quantity))


def _bound(text: str, added: Sequence[Quantity]) -> Target | None:
    match = _PLUS_MINUS.fullmatch(text)
    if match is not None:
        name, number, tolerance, unit = match.groups()
        quantity = find(name, added)
        return _point(
            quantity, _value(number, unit, quantity), abs(_value(tolerance, unit, quantity))
        )
    match = _BOUND.fullmatch(text)
    if match is not None:
        name, sign, number, unit = match.groups()
    else:
        match = _BOUND_REVERSED.fullmatch(text)
        if match is None:
            return None
        number, unit, sign, name = match.groups()
        sign = sign.translate(str.maketrans("<>", "><"))
    quantity = find(name, added)
    value = _value(number, unit, quantity)
    if sign.startswith(">"):
        return _window(quantity, value, math.inf)
    if sign.startswith("<"):
        return _window(quantity, -math.inf, value)
    return _point(quantity, value, None)


def _value(number: str, unit: str | None, quantity: Quantity) -> float:
    if not unit or not unit.strip():
        return float(number)
    try:
        return convert(float(number), unit.strip(), quantity.unit)
    except InputError:
        allowed = ", ".join(u for u in units_like(quantity.unit) if u) or "none, it is a number"
        raise InputError(
            f"'{unit.strip()}' is not a unit of {quantity.name}. Allowed: {allowed}."
        ) from None


def _window(quantity: Quantity, low: float, high: float) -> Target:
    return Target(quantity=quantity, goal=Goal.WINDOW, low=low, high=high)


def _point(quantity: Quantity, value: float, tolerance: float | None) -> Target:
    if tolerance is None:
        spread = quantity.high - quantity.low
        tolerance = max(POINT_TOLERANCE * abs(value), POINT_TOLERANCE_OF_RANGE * spread)
    return Target(
        quantity=quantity,
        goal=Goal.POINT,
        low=value - tolerance,
        high=value + tolerance,
        value=value,
    )


def _check_plausible(target: Target, text: str) -> None:
    quantity = target.quantity
    outside = target.value if target.value is not None else None
    if outside is None and target.low > quantity.high:
        outside = target.low
    if outside is None and target.high < quantity.low:
        outside = target.high
    if outside is not None and not quantity.low <= outside <= quantity.high:
        raise InputError(
            f"Target '{text}' is impossible: {quantity.name} lies between {quantity.low:g} and "
            f"{quantity.high:g} {quantity.unit}".rstrip()
            + "."
        )


def check_together(targets: tuple[Target, ...]) -> None:
    """Check that one crystal could meet all targets.

    Raises:
        InputError: Naming the first two targets that contradict each other.
    """
    for i, first in enumerate(targets):
        for second in targets[:i]:
            if first.column != second.column:
                continue
            goals = {first.goal, second.goal}
            if goals == {Goal.MAXIMISE, Goal.MINIMISE}:
                raise InputError(f"'{second.text}' and '{first.text}' contradict each other.")
            if max(first.low, second.low) > min(first.high, second.high):
                raise InputError(
                    f"'{second.text}' and '{first.text}' contradict each other: "
                    f"no value of {first.quantity.name} meets both."
                )
