"""Budget meters: what a campaign may spend, what it has spent, and a hard stop.

What can be counted (proposals, relaxations, evaluations, money) is charged **before** the work,
under a key made from its content: work that does not fit is not begun, work that fails has still
been paid for, and work that is repeated after a kill is not paid twice. Time cannot be known
beforehand; it is noted as it passes, and a spent meter of time stops the run at the next finished
task, so it is overdrawn by at most what was running then.
"""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field
from sqlalchemy import Connection, func, select

from matmill.campaign.database import put
from matmill.campaign.schema import charge, meter, parts
from matmill.campaign.store import Store
from matmill.config import Settings
from matmill.errors import InputError, MatmillError

PROPOSALS, RELAXATIONS = "proposals", "relaxations"
WALL, CPU, MONEY = "wall_seconds", "cpu_seconds", "money"
EVALUATIONS = "evaluations."  # with the cost class
_TIMES = (WALL, CPU)
_ROUNDING = 1e-9  # sums of amounts like 0.1 may exceed a limit by rounding alone

Request = tuple[str, Mapping[str, float]]
"""Key of a piece of work, and what it costs by meter."""


class BudgetSpentError(MatmillError):
    """A meter has reached its limit: nothing more is begun."""


class BudgetSettings(Settings):
    """What a campaign may spend; None for no limit.

    Attributes:
        proposals: Crystals asked of the generator.
        relaxations: Crystals relaxed in full.
        evaluations: Property evaluations by cost class, e.g. ``{"dft": 20}``.
        wall_hours: Wall time over all sittings.
        cpu_hours: Time of all worker processes and of the driver.
        money: In the currency of the declared costs.
    """

    proposals: Annotated[int, Field(ge=0)] | None = None
    relaxations: Annotated[int, Field(ge=0)] | None = None
    evaluations: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    wall_hours: Annotated[float, Field(ge=0)] | None = None
    cpu_hours: Annotated[float, Field(ge=0)] | None = None
    money: Annotated[float, Field(ge=0)] | None = None

    def limits(self) -> dict[str, float]:
        """Return the limit of each meter that has one."""
        given = {
            PROPOSALS: self.proposals,
            RELAXATIONS: self.relaxations,
            WALL: None if self.wall_hours is None else 3600.0 * self.wall_hours,
            CPU: None if self.cpu_hours is None else 3600.0 * self.cpu_hours,
            MONEY: self.money,
        }
        given |= {f"{EVALUATIONS}{name}": most for name, most in self.evaluations.items()}
        return {name: float(most) for name, most in given.items() if most is not None}


def parse_budget(texts: Sequence[str]) -> dict[str, float]:
    """Return limits by meter from texts like ``"relaxations=200"`` or ``"evaluations.dft=20"``.

    Raises:
        InputError: If a text is not of that form, or names no meter.
    """
    found: dict[str, object] = {}
    classes: dict[str, object] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        place, key = found, name
        if name.startswith(EVALUATIONS):
            place, key = classes, name.removeprefix(EVALUATIONS)
        elif name not in BudgetSettings.model_fields or name == "evaluations":
            equals = ""
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not equals or not key or not math.isfinite(number) or number < 0:
            known = [n for n in BudgetSettings.model_fields if n != "evaluations"]
            raise InputError(
                f"--budget '{text}' is not of the form name=number. Names: {', '.join(known)}, "
                "evaluations.CLASS."
            )
        whole = "hours" not in name and name != MONEY
        place[key] = int(number) if whole else number
    return BudgetSettings.model_validate({**found, "evaluations": classes}).limits()


class Budget:
    """The meters of a store.

    Args:
        store: Where they are kept.
        limits: Limits to set or change, by meter; the others stay as they are.
    """

    def __init__(self, store: Store, limits: Mapping[str, float] | None = None) -> None:
        self.store = store
        self._session = f"{time.time():.3f}-{os.getpid()}"
        self._wall, self._cpu = time.monotonic(), time.process_time()
        if limits:
            rows = [{"name": name, "most": float(most)} for name, most in limits.items()]
            with store.transaction() as connection:
                put(connection, meter, rows)
        with store.reading() as connection:
            self._limits = _limits(connection)

    def grant(self, requests: Sequence[Request]) -> list[bool]:
        """Charge what still fits and return which pieces of work may be done.

        Each piece is granted as a whole, in order; one that does not fit does not stop a later,
        cheaper one. What was granted before under the same key is granted again for nothing.
        """
        for key, costs in requests:
            wrong = [name for name, x in costs.items() if not (math.isfinite(x) and x >= 0)]
            if wrong:
                raise InputError(f"The cost of {key} in {wrong[0]} is not a number above 0.")
        with self.store.transaction() as connection:
            limits = _limits(connection)
            used = _used(connection)
            paid = _paid(connection, [key for key, _ in requests])
            granted, rows = [], []
            for key, costs in requests:
                new = {name: x for name, x in costs.items() if (name, key) not in paid}
                fits = all(
                    used.get(name, 0.0) + amount <= limits.get(name, math.inf) * (1.0 + _ROUNDING)
                    for name, amount in new.items()
                )
                granted.append(fits)
                if not fits:
                    continue
                for name, amount in new.items():
                    used[name] = used.get(name, 0.0) + amount
                    paid.add((name, key))
                    rows.append({"meter": name, "key": key, "amount": float(amount)})
            put(connection, charge, rows, keep=True)
        return granted

    def note(self, name: str, key: str, amount: float) -> None:
        """Add to what a key has used of a meter, whatever its limit."""
        with self.store.transaction() as connection:
            where = (charge.c.meter == name) & (charge.c.key == key)
            before = connection.scalar(select(charge.c.amount).where(where)) or 0.0
            put(connection, charge, [{"meter": name, "key": key, "amount": before + amount}])

    def tick(self, worker_seconds: float = 0.0) -> None:
        """Note the time since the last call, and what workers have spent since then.

        Args:
            worker_seconds: Time of worker processes; the driver's own is added.
        """
        wall, cpu = time.monotonic(), time.process_time()
        self.note(WALL, self._session, wall - self._wall)
        self.note(CPU, self._session, cpu - self._cpu + worker_seconds)
        self._wall, self._cpu = wall, cpu

    def used(self) -> dict[str, float]:
        """Return what every meter has counted."""
        with self.store.reading() as connection:
            return _used(connection)

    def limit(self, name: str) -> float:
        """Return the limit of a meter; infinite where there is none."""
        return self._limits.get(name, math.inf)

    def left(self, name: str) -> float:
        """Return what is left of a meter; infinite where there is no limit."""
        return max(0.0, self.limit(name) - self.used().get(name, 0.0))

    def spent(self, names: Iterable[str] | None = None) -> str:
        """Return in one line which meter is used up; empty while none is.

        Args:
            names: Meters to look at; all when None.
        """
        used = self.used()
        for name in self._limits if names is None else names:
            most = self._limits.get(name, math.inf)
            if used.get(name, 0.0) >= most * (1.0 - _ROUNDING):
                return f"the budget of {describe(name, most)} is spent"
        return ""

    def check_time(self) -> None:
        """Raise when a meter of time is used up.

        Raises:
            BudgetSpentError: Then.
        """
        reason = self.spent(_TIMES)
        if reason:
            raise BudgetSpentError(reason)

    def table(self) -> list[dict[str, float | str | None]]:
        """Return one row a meter: ``meter``, ``used``, ``limit`` and ``left`` (None: no limit)."""
        used = self.used()
        names = sorted({*used, *self._limits})
        return [
            {
                "meter": name,
                "used": used.get(name, 0.0),
                "limit": self._limits.get(name),
                "left": max(0.0, self._limits[name] - used.get(name, 0.0))
                if name in self._limits
                else None,
            }
            for name in names
        ]


def describe(name: str, amount: float) -> str:
    """Return an amount of a meter for people, e.g. ``"2 wall hours"`` or ``"20 relaxations"``."""
    if name in _TIMES:
        return f"{amount / 3600.0:.3g} {name.partition('_')[0]} hours"
    if name.startswith(EVALUATIONS):
        return f"{amount:g} evaluations of class {name.removeprefix(EVALUATIONS)}"
    return f"{amount:g} {name}"


def _limits(connection: Connection) -> dict[str, float]:
    rows = connection.execute(select(meter).order_by(meter.c.name))
    return {row.name: row.most for row in rows if row.most is not None}


def _used(connection: Connection) -> dict[str, float]:
    query = select(charge.c.meter, func.sum(charge.c.amount)).group_by(charge.c.meter)
    return {name: float(amount) for name, amount in connection.execute(query)}


def _paid(connection: Connection, keys: Sequence[str]) -> set[tuple[str, str]]:
    found = set()
    for part in parts(sorted(set(keys))):
        query = select(charge.c.meter, charge.c.key).where(charge.c.key.in_(part))
        found |= {(name, key) for name, key in connection.execute(query)}
    return found
