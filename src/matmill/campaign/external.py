"""External evaluators: crystals are handed out in folders, and results are taken in as they come.

What is out is kept in the store, so a campaign may be closed for days and goes on where it was. A
batch is updated with when most of it is back; what comes later enters the store all the same, and
the next update.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from matmill.campaign.budget import Budget
from matmill.campaign.database import put
from matmill.campaign.evaluators import FAILED, OK, TIMED_OUT, Cost, settings_hash
from matmill.campaign.handout import SETTLE_S, Answers, Wanted, read_answers, write_batch
from matmill.campaign.records import Candidate, Evaluation
from matmill.campaign.schema import evaluation, round_value, submission, to_json
from matmill.campaign.store import Store
from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.quantities import BY_COLUMN

SHARE = 0.75  # of a batch, that must be back before an update
_SETTING = "external"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """How far a batch is.

    Attributes:
        name: Its folder.
        n: Crystals that were handed out.
        n_back: How many of them have an answer, failures and time-outs included.
        submitted: When it was handed out, in seconds since 1970.
    """

    name: str
    n: int
    n_back: int
    submitted: float

    def is_ready(self, share: float = SHARE) -> bool:
        """Return whether enough is back for an update."""
        return self.n_back >= share * self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a look into the folders brought.

    Attributes:
        new: Evaluations that were not there before.
        problems: One line for each thing that cannot be used; nothing of it is lost.
        n_out: Crystals that are still out.
    """

    new: list[Evaluation]
    problems: list[str]
    n_out: int


class ExternalEvaluator:
    """Somebody else's work on a folder: a cluster, a laboratory.

    Args:
        store: Holds the crystals and what is out.
        folder: Where batches are handed out and answers are put.
        columns: What is asked for, e.g. ``["band_gap_ev"]``; columns that matmill does not know
            need a plausible range.
        name: What people call it.
        ranges: Plausible (low, high) by column, over those of `quantities`.
        version: Change it whenever the work is done in another way: results are kept apart.
        cost: What one crystal costs, its class, and when to give up waiting.
        settle_s: Leave files alone that changed within the last seconds.

    Raises:
        InputError: If a column has no plausible range.
    """

    def __init__(
        self,
        store: Store,
        folder: Path | str,
        columns: Sequence[str],
        *,
        name: str = "external",
        ranges: dict[str, tuple[float, float]] | None = None,
        version: str = "1",
        cost: Cost | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.store = store
        self.folder = Path(folder).absolute()
        self.columns = tuple(columns)
        self.name = name
        self.version = version
        self.cost = cost or Cost(cost_class="external")
        self.settle_s = settle_s
        self.wanted = [_wanted(column, (ranges or {}).get(column)) for column in self.columns]
        self.hash = settings_hash("external", name, version=version, columns=list(self.columns))

    def submit(self, batch: CrystalBatch, *, budget: Budget | None = None) -> str | None:
        """Hand out those crystals that nobody has answered or works on; return the batch's name.

        The store knows first, then the folder appears as a whole: a kill in between is repaired
        by the next call of `submit` or `collect`. None when there is nothing to hand out, or
        when the budget does not allow any.
        """
        batch = batch.with_ids(batch.hashes)
        self._remember()
        first = {one: i for i, one in reversed(list(enumerate(batch.ids)))}
        out = self._rows()
        known = self.store.evaluations(self.hash, batch.ids)
        new = sorted(one for one in first if one not in known and one not in out)
        if budget is not None and new:
            charges = self.cost.charges()
            granted = budget.grant([(f"{self.hash}/{one}", charges) for one in new])
            new = [one for one, may in zip(new, granted, strict=True) if may]
        name = None
        if new:
            digest = hashlib.sha256("/".join([self.hash, *new]).encode()).hexdigest()
            name, now = f"batch-{digest[:12]}", time.time()
            rows = [
                {
                    "evaluator": self.hash,
                    "structure": one,
                    "batch": name,
                    "submitted": now,
                    "returned": None,
                    "used_round": None,
                }
                for one in new
            ]
            with self.store.transaction() as connection:
                picked = batch.select([first[one] for one in new])
                self.store.add_structures(picked, connection=connection)
                put(connection, submission, rows, keep=True)
        self._write_folders()
        return name

    def collect(self) -> Collected:
        """Take in what has arrived, and give up what is overdue.

        A crystal that is answered after it was given up enters the next update.
        """
        self._write_folders()
        new: list[Evaluation] = []
        problems: list[str] = []
        rows = self._rows()
        before = self.store.evaluations(self.hash, [*rows])
        for name in dict.fromkeys(row.batch for row in rows.values()):
            ids = [one for one, row in rows.items() if row.batch == name]
            answers = read_answers(self.folder / name, ids, self.wanted, settle_s=self.settle_s)
            problems += answers.problems
            found = self._new(answers, before, problems)
            known = {*before, *(e.structure for e in found)}
            found += self._overdue([row for one, row in rows.items() if one in ids], known)
            self._keep(found)
            new += found
        n_out = sum(row.returned is None for row in self._rows().values())
        return Collected(new=new, problems=problems, n_out=n_out)

    def batches(self) -> list[BatchState]:
        """Return the state of every batch, oldest first."""
        groups: dict[str, list[Any]] = {}
        for row in self._rows().values():
            groups.setdefault(row.batch, []).append(row)
        states = [
            BatchState(
                name=name,
                n=len(rows),
                n_back=sum(row.returned is not None for row in rows),
                submitted=min(row.submitted for row in rows),
            )
            for name, rows in groups.items()
        ]
        return sorted(states, key=lambda state: (state.submitted, state.name))

    def asked(self) -> set[str]:
        """Return the crystals that were handed out, answered or not."""
        return {*self._rows()}

    def is_ready(self, share: float = SHARE) -> bool:
        """Return whether the newest batch is back far enough for an update."""
        states = self.batches()
        return bool(states) and states[-1].is_ready(share)

    def take(self, round_number: int) -> dict[str, Evaluation]:
        """Return the evaluations that the update of this round uses, by crystal.

        These are all that came since the last update, late ones included. A round that is
        repeated after a kill gets what it got the first time.
        """
        key = f"taken/{self.hash}"
        mine = submission.c.evaluator == self.hash
        with self.store.transaction() as connection:
            where = (round_value.c.round == round_number) & (round_value.c.key == key)
            if connection.scalar(select(round_value.c.value).where(where)) is None:
                fresh = (
                    mine & submission.c.returned.is_not(None) & submission.c.used_round.is_(None)
                )
                connection.execute(update(submission).where(fresh).values(used_round=round_number))
                row = {"round": round_number, "key": key, "value": "true"}
                put(connection, round_value, [row])
            query = select(submission.c.structure).where(
                mine & (submission.c.used_round == round_number)
            )
            ids = sorted(connection.scalars(query))
        return self.store.evaluations(self.hash, ids)

    def _rows(self) -> dict[str, Any]:
        query = select(submission).where(submission.c.evaluator == self.hash)
        query = query.order_by(submission.c.submitted, submission.c.batch, submission.c.structure)
        with self.store.reading() as connection:
            return {row.structure: row for row in connection.execute(query)}

    def _write_folders(self) -> None:
        """Write the folders of batches that are out and have none."""
        missing: dict[str, list[str]] = {}
        for one, row in self._rows().items():
            if not (self.folder / row.batch).exists():
                missing.setdefault(row.batch, []).append(one)
        for name, ids in missing.items():
            write_batch(
                self.folder,
                name,
                self.store.batch(ids),
                self.wanted,
                evaluator=self.name,
                evaluator_hash=self.hash,
            )

    def _new(
        self, answers: Answers, before: dict[str, Evaluation], problems: list[str]
    ) -> list[Evaluation]:
        found = [
            Evaluation(structure=one, status=OK, values=values)
            for one, values in answers.values.items()
        ]
        found += [
            Evaluation(structure=one, status=FAILED, values={"error": text})
            for one, text in answers.failures.items()
        ]
        new = []
        for item in found:
            old = before.get(item.structure)
            if old is None or (old.status != OK and item.status == OK):
                new.append(item)  # an answer after all replaces a failure or a time-out
            elif old.status == OK and item.status == OK and old.values != item.values:
                problems.append(
                    f"{item.structure}: answered again with other values; the first ones stay."
                )
        return new

    def _overdue(self, rows: Sequence[Any], known: set[str]) -> list[Evaluation]:
        if self.cost.timeout_s is None:
            return []
        last = time.time() - self.cost.timeout_s
        days = self.cost.timeout_s / 86400.0
        return [
            Evaluation(
                structure=row.structure,
                status=TIMED_OUT,
                values={"error": f"no answer within {days:.3g} days"},
            )
            for row in rows
            if row.submitted < last and row.structure not in known
        ]

    def _keep(self, found: list[Evaluation]) -> None:
        """Store evaluations and that their crystals are back, in one transaction."""
        rows = [
            {
                "structure": item.structure,
                "evaluator": self.hash,
                "status": item.status,
                "result": None,
                "values": to_json(item.values),
                "seconds": 0.0,
            }
            for item in found
        ]
        mine = submission.c.evaluator == self.hash
        with self.store.transaction() as connection:
            put(connection, evaluation, rows)
            for item in found:
                back = update(submission).where(mine & (submission.c.structure == item.structure))
                connection.execute(back.values(returned=time.time(), used_round=None))

    def _remember(self) -> None:
        """Note how to open this evaluator again."""
        known = self.store.setting(_SETTING) or {}
        entry = {
            "folder": str(self.folder),
            "columns": list(self.columns),
            "ranges": {w.column: [w.low, w.high] for w in self.wanted},
            "name": self.name,
            "version": self.version,
            "cost_class": self.cost.cost_class,
            "money": self.cost.money,
            "timeout_s": self.cost.timeout_s,
        }
        if known.get(self.hash) != entry:
            self.store.set_settings(**{_SETTING: {**known, self.hash: entry}})


def reopen(store: Store, *, settle_s: float = SETTLE_S) -> list[ExternalEvaluator]:
    """Return the external evaluators that a store has handed out crystals to."""
    return [
        ExternalEvaluator(
            store,
            entry["folder"],
            entry["columns"],
            name=entry["name"],
            ranges={column: (low, high) for column, (low, high) in entry["ranges"].items()},
            version=entry["version"],
            cost=Cost(
                cost_class=entry["cost_class"],
                money=entry["money"],
                timeout_s=entry["timeout_s"],
            ),
            settle_s=settle_s,
        )
        for entry in (store.setting(_SETTING) or {}).values()
    ]


def _wanted(column: str, given: tuple[float, float] | None) -> Wanted:
    quantity = BY_COLUMN.get(column)
    if given is None and quantity is None:
        known = ", ".join(sorted(BY_COLUMN))
        raise InputError(
            f"The column {column} is new: give its plausible range. Known columns: {known}."
        )
    low, high = given or (quantity.low, quantity.high)  # pyright: ignore[reportOptionalMemberAccess]
    return Wanted(column=column, unit=quantity.unit if quantity else "", low=low, high=high)


def collect_all(store: Store) -> list[str]:
    """Take in what external evaluators of a store have answered; return lines for people."""
    lines = []
    for evaluator in reopen(store):
        found = evaluator.collect()
        lines += found.problems
        if found.new or found.n_out:
            lines.append(
                f"{evaluator.name} answered {len(found.new)} crystals since the last look; "
                f"{found.n_out} are still out in {evaluator.folder}."
            )
    return lines


def with_measured(store: Store, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with what external evaluators said of them, as ``measured_…`` columns.

    Where several of them gave one column, the one that was asked first counts.
    """
    values: dict[str, dict[str, Any]] = {}
    for evaluator in reversed(reopen(store)):
        for one, item in store.evaluations(
            evaluator.hash, [c.structure for c in candidates]
        ).items():
            if item.status == OK:
                named = {f"measured_{name}": value for name, value in item.values.items()}
                values.setdefault(one, {}).update({**named, "measured_by": evaluator.name})
    return [
        replace(c, values={**c.values, **values[c.structure]}) if c.structure in values else c
        for c in candidates
    ]
