"""Stores made by older versions of matmill: brought to today's tables, step by step, on opening.

Each step is written in SQL as it was right when it was made, and never changed afterwards: today's
tables in `campaign.schema` may move on, an old store still becomes what the next step expects.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, inspect, select, text

from matmill.campaign.database import Database, put
from matmill.campaign.schema import SCHEMA_VERSION, from_json, metadata, run, to_json
from matmill.errors import StoreError

Step = Callable[[Connection], None]

_TABLES_OF_2 = (
    """CREATE TABLE IF NOT EXISTS task (
        key VARCHAR(64) NOT NULL PRIMARY KEY,
        kind VARCHAR NOT NULL,
        status VARCHAR NOT NULL,
        result TEXT,
        error TEXT,
        seconds FLOAT NOT NULL,
        attempts INTEGER NOT NULL,
        updated FLOAT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS ix_task_kind ON task (kind)",
    """CREATE TABLE IF NOT EXISTS round_value (
        round INTEGER NOT NULL,
        key VARCHAR NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (round, key))""",
    """CREATE TABLE IF NOT EXISTS artifact (
        name VARCHAR NOT NULL PRIMARY KEY,
        kind VARCHAR NOT NULL,
        round INTEGER,
        hash VARCHAR(64) NOT NULL,
        path VARCHAR NOT NULL,
        card TEXT NOT NULL,
        created FLOAT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS meter (
        name VARCHAR NOT NULL PRIMARY KEY,
        most FLOAT)""",
    """CREATE TABLE IF NOT EXISTS charge (
        meter VARCHAR NOT NULL,
        key VARCHAR NOT NULL,
        amount FLOAT NOT NULL,
        PRIMARY KEY (meter, key))""",
    """CREATE TABLE IF NOT EXISTS submission (
        evaluator VARCHAR NOT NULL,
        structure VARCHAR(32) NOT NULL REFERENCES structure (id),
        batch VARCHAR NOT NULL,
        submitted FLOAT NOT NULL,
        returned FLOAT,
        used_round INTEGER,
        PRIMARY KEY (evaluator, structure))""",
    "CREATE INDEX IF NOT EXISTS ix_submission_batch ON submission (batch)",
)


def _to_2(connection: Connection) -> None:
    """Add what drivers of many rounds need: tasks, values of rounds, artifacts, budget, batches."""
    for statement in _TABLES_OF_2:
        connection.execute(text(statement))


# Version n to version n + 1, under n.
STEPS: dict[int, Step] = {1: _to_2}


def bring_up_to_date(database: Database) -> None:
    """Make the tables of a new store, or bring an older store to today's version.

    All steps happen in one transaction; of an SQLite file a copy is kept beside it before.

    Raises:
        StoreError: If a newer version of matmill made the store.
    """
    with database.reading() as connection:
        version = _version(connection)
    if version == SCHEMA_VERSION:
        return
    with database.writing() as connection:
        if database.schema:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {database.schema}"))
        version = _version(connection)  # another process may have been faster
        if version is None:
            metadata.create_all(connection)
        elif version > SCHEMA_VERSION:
            raise StoreError(
                f"The store {database.shown} was made by a newer matmill (schema {version}; this "
                f"one reads up to {SCHEMA_VERSION}). Update matmill to open it."
            )
        else:
            _back_up(database, version)
            for step in range(version, SCHEMA_VERSION):
                STEPS[step](connection)
        put(connection, run, [{"key": "schema_version", "value": to_json(SCHEMA_VERSION)}])


def backup_path(file: Path, version: int) -> Path:
    """Return where the copy of an SQLite store of an older version is kept."""
    return file.with_name(f"{file.name}.schema-{version}.bak")


def _version(connection: Connection) -> int | None:
    """Return the version of the tables; None where there are none."""
    if not inspect(connection).has_table("run"):
        return None
    stored = connection.scalar(select(run.c.value).where(run.c.key == "schema_version"))
    # Version 1 made its tables first and noted the version then; it may have died in between.
    return 1 if stored is None else int(from_json(stored))


def _back_up(database: Database, version: int) -> None:
    """Copy what is committed, while nobody else can write."""
    if database.file is None:
        return
    target = backup_path(database.file, version)
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(database.file)) as old,
            closing(sqlite3.connect(temporary)) as copy,
        ):
            old.backup(copy)
        os.replace(temporary, target)
    except (sqlite3.Error, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"The store {database.shown} must be brought from schema {version} to "
            f"{SCHEMA_VERSION}, but no copy of it can be made first: {error}."
        ) from error
