"""The tables of a campaign's store, and how crystals and values are written into them."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from torch import Tensor

_CHUNK = 500  # values in one statement; SQLite's limit is about 1,000
T = TypeVar("T")

SCHEMA_VERSION = 1
metadata = MetaData()
run = Table("run", metadata, Column("key", String, primary_key=True), Column("value", Text))
structure = Table(
    "structure",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("formula", String, nullable=False),
    Column("n_atoms", Integer, nullable=False),
    Column("lattice", LargeBinary, nullable=False),
    Column("frac_coords", LargeBinary, nullable=False),
    Column("atomic_numbers", LargeBinary, nullable=False),
)
candidate = Table(
    "candidate",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("structure", ForeignKey("structure.id"), nullable=False),
    Column("round", Integer, nullable=False, index=True),
    Column("task", Integer, nullable=False),
    Column("origin", String, nullable=False),
)
verdict = Table(
    "verdict",
    metadata,
    Column("candidate", ForeignKey("candidate.number"), primary_key=True),
    Column("stage", String, primary_key=True),
    Column("fate", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("structure", ForeignKey("structure.id")),
    Column("values", Text, nullable=False),
)
evaluation = Table(
    "evaluation",
    metadata,
    Column("structure", ForeignKey("structure.id"), primary_key=True),
    Column("evaluator", String, primary_key=True),
    Column("status", String, nullable=False),
    Column("result", ForeignKey("structure.id")),
    Column("values", Text, nullable=False),
    Column("seconds", Float, nullable=False),
)
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("time", Float, nullable=False),
    Column("stage", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("values", Text, nullable=False),
)


def to_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return JSON with sorted keys; NaN and infinity become null."""
    return json.dumps(_finite(value), sort_keys=True, ensure_ascii=False)


def from_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a JSON text."""
    return json.loads(text)


def to_blob(values: Tensor, dtype: str) -> bytes:
    """Return the bytes of ``values`` as little-endian ``dtype``, row by row."""
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.dtype(dtype)).tobytes()


def from_blob(data: bytes, dtype: str) -> Tensor:
    """Return what `to_blob` wrote, flat."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.dtype(dtype)).copy())


def parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield pieces that fit into one statement."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Let readers work beside the writer, and survive a killed process.

    WAL with ``synchronous=NORMAL`` keeps every committed transaction when the process dies; only
    a power cut may lose the last ones, never the consistency of the file.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _finite(value: Any) -> Any:  # noqa: ANN401 - walks any JSON-like value
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
