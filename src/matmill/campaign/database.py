"""The database behind a store: one SQLite file, or a PostgreSQL server, with the same promises.

Both have one writer at a time and readers that never wait. SQLite does so by itself once a
transaction says at its beginning that it will write; PostgreSQL is told to by a lock that writing
transactions of one store take. So code above may read, decide and write without races.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.event import listen
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)

from matmill.errors import StoreError

PATIENCE_S = 30.0  # how long to wait for another process that is writing
_CONNECT_S = 10
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_WRITES = "matmill_writes"


class Database:
    """An opened database.

    Args:
        url: Path of an SQLite file, or a URL: ``sqlite:///…``, ``postgresql://user@host/name``.
            With ``?schema=gap2``, several stores share one PostgreSQL database.
        patience_s: How long to wait for another process that is writing, in seconds.

    Raises:
        StoreError: If the URL cannot be used, or the package that speaks to it is missing.
    """

    def __init__(self, url: str | Path, *, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        parsed = _parse(url)
        self.shown = parsed.render_as_string(hide_password=True)
        self.file = None
        self.schema = ""
        if parsed.get_backend_name() == "sqlite":
            self.shown = self.shown.removeprefix("sqlite:///")
            if parsed.database not in (None, "", ":memory:"):
                self.file = Path(str(parsed.database))
            self.engine = self._sqlite(parsed)
        else:
            parsed, self.schema = _without_schema(parsed)
            self.engine = self._postgresql(parsed)
        digest = hashlib.sha256(f"matmill {self.schema}".encode()).digest()
        self._lock_key = int.from_bytes(digest[:8], "big", signed=True)

    @property
    def is_postgresql(self) -> bool:
        """Whether this is a server; otherwise it is a file."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Look at the store as it is at one moment."""
        engine = self.engine
        if self.is_postgresql:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._explained(), engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write all that the block writes, or nothing; no other process writes meanwhile."""
        engine = self.engine.execution_options(**{_WRITES: True})
        with self._explained(), engine.begin() as connection:
            if self.is_postgresql:
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": self._lock_key})
            yield connection

    def close(self) -> None:
        """Release the file or the connections."""
        self.engine.dispose()

    def _sqlite(self, url: URL) -> Engine:
        engine = create_engine(url)

        def tune(connection: sqlite3.Connection, _record: object) -> None:
            """Let readers work beside the writer, and survive a killed process.

            WAL with ``synchronous=NORMAL`` keeps every committed transaction when the process
            dies; only a power cut may lose the last ones, never the consistency of the file.
            """
            connection.isolation_level = None  # transactions begin where `begin` says so
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={int(1000 * self.patience_s)}")
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

        def begin(connection: Connection) -> None:
            """Say at once whether this writes: a reader that starts to write may be refused."""
            writes = connection.get_execution_options().get(_WRITES, False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        listen(engine, "connect", tune)
        listen(engine, "begin", begin)
        return engine

    def _postgresql(self, url: URL) -> Engine:
        options = [f"-c lock_timeout={int(1000 * self.patience_s)}"]
        if self.schema:
            options.append(f"-c search_path={self.schema}")
        given = url.query.get("options")
        if given:
            options.insert(0, given if isinstance(given, str) else " ".join(given))
        arguments = {"options": " ".join(options), "connect_timeout": _CONNECT_S}
        arguments |= {"application_name": "matmill"}
        url = url.difference_update_query(["options"])
        try:
            return create_engine(url, connect_args=arguments, pool_pre_ping=True)
        except ImportError as error:
            raise StoreError(
                f"The store {self.shown} needs: pip install 'matmill[postgres]' ({error})."
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the outside world did to the database into one line."""
        try:
            yield
        except DatabaseError as error:
            if not isinstance(error, OperationalError | InternalError) and (
                type(error) is not DatabaseError
            ):
                raise  # a broken rule of the tables is a mistake of the program
            raise StoreError(f"The store {self.shown} {self._cause(error)}") from error

    def _cause(self, error: DatabaseError) -> str:
        said = " ".join(str(error.orig).split())
        low = said.lower()
        if "locked" in low or "lock timeout" in low:
            return (
                f"is locked by another process (waited {self.patience_s:g} s). Wait until that has "
                "finished or end it; then resume."
            )
        if "disk is full" in low or "no space left" in low:
            return (
                "cannot be written: the disk is full. Free some space, then resume; nothing that "
                "was stored is lost."
            )
        if "readonly" in low or "read-only" in low:
            return "cannot be written: it is read-only."
        if self.is_postgresql:
            return f"cannot be reached or used: {said}"
        return f"cannot be used: {said}."


def put(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keep: bool = False,
) -> None:
    """Insert rows; where one with the same primary key exists, replace it.

    Args:
        connection: A writing transaction.
        table: Where to.
        rows: All with the same columns.
        keep: Leave existing rows as they are instead.
    """
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    keys = [column.name for column in table.primary_key]
    others = [name for name in rows[0] if name not in keys]
    if keep or not others:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    else:
        new = {name: statement.excluded[name] for name in others}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=new)
    connection.execute(statement, [dict(row) for row in rows])


def _parse(url: str | Path) -> URL:
    if "://" not in str(url):
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(str(url))
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError(f"The store's URL cannot be read: {error}") from error
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(
            f"No store on {backend}. Give the path of an SQLite file, or a URL like "
            "postgresql://user@host/database."
        )
    return parsed


def _without_schema(url: URL) -> tuple[URL, str]:
    """Take our own part out of a PostgreSQL URL."""
    schema = url.query.get("schema", "")
    if not schema:
        return url, ""
    if not isinstance(schema, str) or not _SCHEMA_NAME.fullmatch(schema):
        raise StoreError(
            f"The store's schema '{schema}' is no name: use small letters, digits and _."
        )
    return url.difference_update_query(["schema"]), schema
