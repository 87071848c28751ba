"""The store of a campaign: crystals, candidates, verdicts and evaluations in one SQL database.

Everything is written in transactions, so a process that is killed at any moment loses at most
the task it was working on. The default is one SQLite file; a PostgreSQL URL works alike.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Connection, func, select

from matmill.campaign.database import PATIENCE_S, Database, put
from matmill.campaign.migrations import bring_up_to_date
from matmill.campaign.records import BEFORE, PASSED, STAGES, Candidate, Evaluation, Row
from matmill.campaign.schema import (
    candidate,
    clean,
    evaluation,
    event,
    from_blob,
    from_json,
    parts,
    run,
    structure,
    to_blob,
    to_json,
    verdict,
)
from matmill.crystals.batch import CrystalBatch
from matmill.errors import StoreError


class Store:
    """A campaign on disk or on a server.

    Args:
        url: Path of an SQLite file, or a database URL; see `campaign.database.Database`.
        patience_s: How long to wait for another process that is writing, in seconds.

    Attributes:
        url: Where it is, for people: without a password.

    Raises:
        StoreError: If it cannot be opened, or a newer version of matmill made it.
    """

    def __init__(self, url: str | Path, *, patience_s: float = PATIENCE_S) -> None:
        self.database = Database(url, patience_s=patience_s)
        self.url = self.database.shown
        try:
            bring_up_to_date(self.database)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file or the connections."""
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write all that the block writes, or nothing; one process at a time."""
        with self.database.writing() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Look at the store as it is at one moment."""
        with self.database.reading() as connection:
            yield connection

    # Settings of the run -------------------------------------------------------------------

    def setting(self, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a stored setting; None where there is none."""
        with self.reading() as connection:
            text = connection.scalar(select(run.c.value).where(run.c.key == key))
        return None if text is None else from_json(text)

    def set_settings(self, **values: Any) -> None:  # noqa: ANN401 - any JSON value
        """Store or replace settings."""
        rows = [{"key": key, "value": to_json(value)} for key, value in values.items()]
        with self.transaction() as connection:
            put(connection, run, rows)

    # Crystals ------------------------------------------------------------------------------

    def add_structures(
        self, batch: CrystalBatch, *, connection: Connection | None = None
    ) -> tuple[str, ...]:
        """Keep crystals under their content hash and return these ids; known ones cost nothing."""
        if connection is None:
            with self.transaction() as own:
                return self.add_structures(batch, connection=own)
        rows = {}
        for i, structure_id in enumerate(batch.hashes):
            atoms = batch.atoms_of(i)
            rows[structure_id] = {
                "id": structure_id,
                "formula": batch.formula[i],
                "n_atoms": int(batch.n_atoms[i]),
                "lattice": to_blob(batch.lattice[i], "<f8"),
                "frac_coords": to_blob(batch.frac_coords[atoms], "<f8"),
                "atomic_numbers": to_blob(batch.atomic_numbers[atoms], "<i8"),
            }
        put(connection, structure, list(rows.values()), keep=True)
        return batch.hashes

    def batch(self, ids: Sequence[str]) -> CrystalBatch:
        """Return the crystals with these ids, in this order, repeated where an id repeats.

        Raises:
            StoreError: If an id is not in the store.
        """
        found = {}
        with self.reading() as connection:
            for part in parts(sorted(set(ids))):
                for row in connection.execute(select(structure).where(structure.c.id.in_(part))):
                    found[row.id] = row
        missing = next((one for one in ids if one not in found), None)
        if missing is not None:
            raise StoreError(f"The store {self.url} has no crystal {missing}.")
        if not ids:
            return CrystalBatch.empty()
        rows = [found[one] for one in ids]
        coords = [from_blob(row.frac_coords, "<f8").reshape(-1, 3) for row in rows]
        return CrystalBatch(
            lattice=torch.stack([from_blob(row.lattice, "<f8").reshape(3, 3) for row in rows]),
            frac_coords=torch.cat(coords),
            atomic_numbers=torch.cat([from_blob(row.atomic_numbers, "<i8") for row in rows]),
            n_atoms=torch.tensor([row.n_atoms for row in rows]),
            ids=tuple(ids),
        )

    # Candidates ----------------------------------------------------------------------------

    def add(self, batch: CrystalBatch, *, round_number: int, task: int, origin: str) -> list[int]:
        """Add proposed crystals and return their numbers.

        A task (one call of the generator) is added as a whole or, when it was there already,
        not again: so a resumed round may simply propose once more.
        """
        with self.transaction() as connection:
            same = (candidate.c.round == round_number) & (candidate.c.task == task)
            query = select(candidate.c.number).where(same).order_by(candidate.c.number)
            existing = list(connection.scalars(query))
            if existing:
                return existing
            start = connection.scalar(select(func.count()).select_from(candidate)) or 0
            ids = self.add_structures(batch, connection=connection)
            rows = [
                {
                    "number": start + i,
                    "structure": structure_id,
                    "round": round_number,
                    "task": task,
                    "origin": origin,
                }
                for i, structure_id in enumerate(ids)
            ]
            if rows:
                connection.execute(candidate.insert(), rows)
        return [row["number"] for row in rows]

    def finish(
        self,
        stage: str,
        rows: Iterable[Row],
        *,
        structures: CrystalBatch | None = None,
        evaluator: str | None = None,
        evaluations: Iterable[Evaluation] = (),
    ) -> None:
        """Write what a stage found, its new crystals and paid evaluations, in one transaction."""
        rows = list(rows)
        with self.transaction() as connection:
            if structures is not None and len(structures):
                self.add_structures(structures, connection=connection)
            paid = [
                {
                    "structure": item.structure,
                    "evaluator": evaluator,
                    "status": clean(item.status),
                    "result": item.result,
                    "values": to_json(item.values),
                    "seconds": item.seconds,
                }
                for item in evaluations
            ]
            put(connection, evaluation, paid)
            found = [
                {
                    "candidate": row.candidate,
                    "stage": stage,
                    "fate": str(row.fate),
                    "reason": clean(row.reason),
                    "structure": row.structure,
                    "values": to_json(row.values),
                }
                for row in rows
            ]
            put(connection, verdict, found)

    def evaluations(self, evaluator: str, ids: Sequence[str]) -> dict[str, Evaluation]:
        """Return the paid evaluations of these crystals by this evaluator, by crystal."""
        found = {}
        with self.reading() as connection:
            for part in parts(sorted(set(ids))):
                where = evaluation.c.structure.in_(part) & (evaluation.c.evaluator == evaluator)
                for row in connection.execute(select(evaluation).where(where)):
                    found[row.structure] = Evaluation(
                        structure=row.structure,
                        status=row.status,
                        result=row.result,
                        values=from_json(row.values),
                        seconds=row.seconds,
                    )
        return found

    def log(self, stage: str, message: str, **values: float) -> None:
        """Append to the run's log."""
        with self.transaction() as connection:
            connection.execute(
                event.insert().values(
                    time=time.time(), stage=stage, message=clean(message), values=to_json(values)
                )
            )

    def seconds_by_stage(self) -> dict[str, float]:
        """Return the wall time that each stage has taken, over all rounds and sittings."""
        seconds: dict[str, float] = {}
        with self.reading() as connection:
            for row in connection.execute(select(event).order_by(event.c.id)):
                spent = from_json(row.values).get("seconds", 0.0)
                seconds[row.stage] = round(seconds.get(row.stage, 0.0) + spent, 3)
        return seconds

    def entrants(self, stage: str, *, round_number: int | None = None) -> list[int]:
        """Return the candidates that reach ``stage`` (passed the one before), in order.

        The answer does not depend on how far ``stage`` itself has got, so work that is cut into
        tasks by it is cut the same way again after a resume.
        """
        query = select(candidate.c.number).order_by(candidate.c.number)
        before = BEFORE[stage]
        if before is not None:
            query = query.join(verdict, verdict.c.candidate == candidate.c.number).where(
                (verdict.c.stage == before) & (verdict.c.fate == PASSED)
            )
        if round_number is not None:
            query = query.where(candidate.c.round == round_number)
        with self.reading() as connection:
            return list(connection.scalars(query))

    def unfinished(self, stage: str, *, round_number: int | None = None) -> list[int]:
        """Return the candidates that wait for ``stage``, in order: resuming starts here."""
        with self.reading() as connection:
            query = select(verdict.c.candidate).where(verdict.c.stage == stage)
            done = set(connection.scalars(query))
        return [n for n in self.entrants(stage, round_number=round_number) if n not in done]

    def candidates(self, numbers: Sequence[int] | None = None) -> list[Candidate]:
        """Return candidates with everything found about them, in order of their number."""
        wanted = None if numbers is None else set(numbers)
        with self.reading() as connection:
            proposed = connection.execute(select(candidate).order_by(candidate.c.number)).all()
            verdicts: dict[int, list[Any]] = {}
            for row in connection.execute(select(verdict)):
                verdicts.setdefault(row.candidate, []).append(row)
        return [
            _assemble(row, verdicts.get(row.number, []))
            for row in proposed
            if wanted is None or row.number in wanted
        ]

    def has_task(self, round_number: int, task: int) -> bool:
        """Return whether this call of the generator was stored already."""
        where = (candidate.c.round == round_number) & (candidate.c.task == task)
        with self.reading() as connection:
            return connection.scalar(select(candidate.c.number).where(where).limit(1)) is not None

    def n_candidates(self) -> int:
        """Return how many crystals were proposed so far."""
        with self.reading() as connection:
            return connection.scalar(select(func.count()).select_from(candidate)) or 0


def _assemble(row: Any, verdicts: list[Any]) -> Candidate:  # noqa: ANN401 - database rows
    structure, fate, stage, reason = row.structure, PASSED, "propose", ""
    values: dict[str, Any] = {}
    for found in sorted(verdicts, key=lambda found: STAGES.index(found.stage)):
        structure = found.structure or structure
        if fate == PASSED:
            fate, stage, reason = found.fate, found.stage, found.reason
        values.update(from_json(found.values))
    return Candidate(
        number=row.number,
        proposed=row.structure,
        structure=structure,
        round=row.round,
        origin=row.origin,
        fate=fate,
        stage=stage,
        reason=reason,
        values=values,
    )
