"""What drivers of many rounds remember: values of each round, and the files that rounds made."""

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from matmill.campaign.database import put
from matmill.campaign.schema import artifact, from_json, round_value, to_json
from matmill.campaign.store import Store
from matmill.errors import StoreError

KEEP_LAST = 3
KEEP_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that a round made, e.g. a checkpoint.

    Attributes:
        name: Unique in the store, e.g. ``"policy-12"``.
        kind: What it is, e.g. ``"policy"``.
        round: Round that made it; None when none did.
        hash: SHA-256 of the file.
        path: Where it is, relative to the folder of the run.
        card: What it was made from.
    """

    name: str
    kind: str
    hash: str
    path: str
    round: int | None = None
    card: dict[str, Any] = field(default_factory=dict)


def note_round(store: Store, number: int, **values: Any) -> None:  # noqa: ANN401 - JSON values
    """Store or replace values of a round, all in one transaction."""
    rows = [{"round": number, "key": k, "value": to_json(v)} for k, v in values.items()]
    with store.transaction() as connection:
        put(connection, round_value, rows)


def round_values(store: Store, number: int) -> dict[str, Any]:
    """Return what was noted of a round; empty when nothing was."""
    query = select(round_value).where(round_value.c.round == number)
    with store.reading() as connection:
        return {row.key: from_json(row.value) for row in connection.execute(query)}


def series(store: Store, key: str) -> dict[int, Any]:
    """Return one value of all rounds that have it, by round, in order."""
    query = select(round_value).where(round_value.c.key == key).order_by(round_value.c.round)
    with store.reading() as connection:
        return {row.round: from_json(row.value) for row in connection.execute(query)}


def last_round(store: Store) -> int | None:
    """Return the newest round of which something was noted."""
    with store.reading() as connection:
        return connection.scalar(select(func.max(round_value.c.round)))


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file as a whole or not at all, and return its SHA-256.

    It is on the disk, under its name, when this returns: a store may then refer to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return hashlib.sha256(data).hexdigest()


def add_artifact(
    store: Store,
    name: str,
    path: Path,
    *,
    kind: str,
    base: Path,
    round_number: int | None = None,
    card: dict[str, Any] | None = None,
) -> Artifact:
    """Remember a file that is already on the disk.

    Args:
        store: Where to remember it.
        name: Unique; an artifact of the same name is replaced.
        path: The file.
        kind: What it is.
        base: Folder of the run: what is below it may be moved with it.
        round_number: Round that made it.
        card: What it was made from.
    """
    inside = path.resolve().relative_to(base.resolve()) if _is_below(path, base) else path.resolve()
    made = Artifact(
        name=name,
        kind=kind,
        hash=_hash_of(path),
        path=inside.as_posix(),
        round=round_number,
        card=card or {},
    )
    row = {
        "name": name,
        "kind": kind,
        "round": round_number,
        "hash": made.hash,
        "path": made.path,
        "card": to_json(made.card),
        "created": time.time(),
    }
    with store.transaction() as connection:
        put(connection, artifact, [row])
    return made


def artifacts(store: Store, kind: str | None = None) -> list[Artifact]:
    """Return what is remembered, of one kind or of all, oldest first."""
    query = select(artifact).order_by(artifact.c.round, artifact.c.created, artifact.c.name)
    if kind is not None:
        query = query.where(artifact.c.kind == kind)
    with store.reading() as connection:
        return [
            Artifact(
                name=row.name,
                kind=row.kind,
                hash=row.hash,
                path=row.path,
                round=row.round,
                card=from_json(row.card),
            )
            for row in connection.execute(query)
        ]


def find_artifact(store: Store, name: str, *, base: Path) -> tuple[Artifact, Path]:
    """Return an artifact and its file, checked against its hash.

    Raises:
        StoreError: If it is unknown, gone or changed.
    """
    found = next((one for one in artifacts(store) if one.name == name), None)
    if found is None:
        raise StoreError(f"The store {store.url} has no artifact called {name}.")
    path = base / found.path
    if not path.exists():
        raise StoreError(f"{path} is gone; the store {store.url} needs it as {name}.")
    if _hash_of(path) != found.hash:
        raise StoreError(f"{path} was changed after the store {store.url} took it as {name}.")
    return found, path


def prune(
    store: Store,
    kind: str,
    *,
    base: Path,
    keep_last: int = KEEP_LAST,
    keep_every: int = KEEP_EVERY,
) -> list[str]:
    """Delete old artifacts of a kind and their files; return their names.

    The newest ``keep_last`` stay, those of every ``keep_every``-th round, and those of no round.
    """
    of_rounds = [one for one in artifacts(store, kind) if one.round is not None]
    old = [one for one in of_rounds[:-keep_last] if one.round % keep_every]
    for one in old:
        # The row first: a row without its file would be an error, a file without a row is waste.
        with store.transaction() as connection:
            connection.execute(artifact.delete().where(artifact.c.name == one.name))
        (base / one.path).unlink(missing_ok=True)
    return [one.name for one in old]


def _is_below(path: Path, base: Path) -> bool:
    return path.resolve().is_relative_to(base.resolve())


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
