"""The tables of a campaign's store, and how crystals and values are written into them.

A change here needs a new `SCHEMA_VERSION` and a step in `campaign.migrations`.
"""

import json
import math
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

SCHEMA_VERSION = 2  # `migrations` brings older stores here
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
# Version 2: what drivers of many rounds need.
task = Table(
    "task",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("kind", String, nullable=False, index=True),
    Column("status", String, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("seconds", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("updated", Float, nullable=False),
)
round_value = Table(
    "round_value",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)
artifact = Table(
    "artifact",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("round", Integer),
    Column("hash", String(64), nullable=False),
    Column("path", String, nullable=False),
    Column("card", Text, nullable=False),
    Column("created", Float, nullable=False),
)
meter = Table(
    "meter",
    metadata,
    Column("name", String, primary_key=True),
    Column("most", Float),
)
charge = Table(
    "charge",
    metadata,
    Column("meter", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("amount", Float, nullable=False),
)
submission = Table(
    "submission",
    metadata,
    Column("evaluator", String, primary_key=True),
    Column("structure", ForeignKey("structure.id"), primary_key=True),
    Column("batch", String, nullable=False, index=True),
    Column("submitted", Float, nullable=False),
    Column("returned", Float),
    Column("used_round", Integer),
)


def to_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return JSON with sorted keys; NaN and infinity become null."""
    text = json.dumps(_finite(value), sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def clean(text: str) -> str:
    """Return a text that any database takes: no NUL, no halves of characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


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


def _finite(value: Any) -> Any:  # noqa: ANN401 - walks any JSON-like value
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
