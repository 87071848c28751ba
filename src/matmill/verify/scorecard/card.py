"""`Scorecard`: everything an evaluation found, and the files it is written to."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from matmill import __version__
from matmill.crystals.records import atomic
from matmill.errors import DataError
from matmill.verify.protocols import Basis
from matmill.verify.scorecard.number import Number
from matmill.verify.signatures import Signature
from matmill.verify.statuses import Status

SCHEMA = "matmill.scorecard/1"


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """The answer of an evaluation.

    Attributes:
        name: Of the set.
        basis: Protocol and all else that the numbers depend on.
        counts: n_requested, n_parsed, n_valid, n_relaxed.
        groups: Numbers by heading, in the order of the table.
        statuses: How many samples have each status, zeros left out; those that were requested but
            never found are counted as "missing".
        signatures: Ways to break that were looked for.
        notes: What was left out and why, and what else one must know.
        rows: One dictionary a sample: name, file, status, reason and all values.
        seconds: What each stage took.
        seed: Of draws and resamples.
    """

    name: str
    basis: Basis
    counts: dict[str, int]
    groups: dict[str, list[Number]]
    statuses: dict[str, int]
    signatures: list[Signature] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def numbers(self) -> dict[str, Number]:
        """All numbers by key."""
        return {number.key: number for numbers in self.groups.values() for number in numbers}

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the rows, as JSON can hold it."""
        return {
            "schema": SCHEMA,
            "matmill": __version__,
            "name": self.name,
            "protocol_id": self.basis.id,
            "basis": self.basis.model_dump(mode="json"),
            "seed": self.seed,
            "counts": self.counts,
            "statuses": self.statuses,
            "groups": {
                title: [number.as_dict() for number in numbers]
                for title, numbers in self.groups.items()
            },
            "signatures": [asdict(signature) for signature in self.signatures],
            "notes": self.notes,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    @classmethod
    def read(cls, path: Path) -> "Scorecard":
        """Read a scorecard that `write` wrote as JSON, or the one in a folder; rows stay away.

        Raises:
            DataError: If it is none, or if its id does not fit its protocol.
        """
        path = path / "scorecard.json" if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            assert content["schema"] == SCHEMA
            card = cls(
                name=content["name"],
                basis=Basis.model_validate(content["basis"]),
                counts=content["counts"],
                groups={
                    title: [Number.from_dict(number) for number in numbers]
                    for title, numbers in content["groups"].items()
                },
                statuses=content["statuses"],
                signatures=[Signature(**signature) for signature in content["signatures"]],
                notes=content["notes"],
                seconds=content["seconds"],
                seed=content["seed"],
            )
        except (OSError, ValueError, KeyError, TypeError, AssertionError, ValidationError) as error:
            kind = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DataError(f"{path} is no scorecard of 'matmill evaluate' ({kind}).") from error
        if card.basis.id != content["protocol_id"]:
            raise DataError(f"{path} was changed: its protocol does not have its id any more.")
        return card


def count_statuses(statuses: Sequence[Status], n_requested: int) -> dict[str, int]:
    """Return how many samples have each status, in the order of the stages."""
    counts = Counter(statuses)
    found = {status.value: counts[status] for status in Status if counts[status]}
    n_missing = n_requested - len(statuses)
    return {**found, "missing": n_missing} if n_missing > 0 else found


def structures_table(card: Scorecard) -> pa.Table:
    """Return one row a sample."""
    names = list(dict.fromkeys(name for row in card.rows for name in row))
    columns = {name: [row.get(name) for row in card.rows] for name in names}
    return _with_protocol(pa.table(columns), card)


def metrics_table(card: Scorecard) -> pa.Table:
    """Return one row a number."""
    rows = [
        {"group": title, **number.as_dict()}
        for title, numbers in card.groups.items()
        for number in numbers
    ]
    return _with_protocol(pa.Table.from_pylist(rows), card)


def write_json(card: Scorecard, path: Path) -> None:
    """Write everything but the rows."""
    with atomic(path) as temporary:
        text = json.dumps(plain(card.as_dict()), indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet."""
    with atomic(path) as temporary:
        pq.write_table(table, temporary)


def plain(value: Any) -> Any:  # noqa: ANN401 - walks any JSON-like value
    """Return the value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _with_protocol(table: pa.Table, card: Scorecard) -> pa.Table:
    about = {
        "protocol_id": card.basis.id,
        "protocol": card.basis.protocol.name,
        "basis": card.basis.model_dump(mode="json"),
        "counts": card.counts,
        "matmill": __version__,
    }
    return table.replace_schema_metadata({"matmill": json.dumps(about, ensure_ascii=False)})
