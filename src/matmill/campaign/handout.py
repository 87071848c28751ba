"""Folders of crystals that somebody else computes or measures: inputs out, results in, days later.

A batch is one folder: ``manifest.json`` says what is asked, ``cif/<id>.cif`` and
``crystals.extxyz`` hold the crystals. Whoever does the work puts ``results.csv`` or
``results.parquet`` beside them, with a column ``id`` and one for each value, or one
``results/<id>.json`` a crystal, in any order and over any time.
"""

import csv
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matmill.campaign.evaluators import problem_with
from matmill.crystals import files
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import SYMPREC

MANIFEST = "manifest.json"
SETTLE_S = 2.0  # a file that changed since then may still be growing
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One value that is asked for.

    Attributes:
        column: Its name, with the unit.
        unit: The unit, for people.
        low: Smallest plausible value; what lies outside was most likely given in another unit.
        high: Largest plausible value.
    """

    column: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a folder held.

    Attributes:
        values: Values by column, by crystal.
        failures: Why the work failed, by crystal, as whoever did it says.
        problems: One line for each thing that cannot be used; it stays where it is.
    """

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def write_batch(
    folder: Path,
    name: str,
    batch: CrystalBatch,
    wanted: Sequence[Wanted],
    *,
    evaluator: str,
    evaluator_hash: str,
) -> Path:
    """Write the inputs of a batch as a whole or not at all, and return its folder.

    Args:
        folder: Where batches are.
        name: Name of this one; nothing happens when it is there already.
        batch: Crystals, with their content hashes as ids.
        wanted: What is asked for.
        evaluator: What people call who does the work.
        evaluator_hash: Goes into the manifest, so that batches of others are recognised.
    """
    target = folder / name
    if (target / MANIFEST).exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "cif").mkdir(parents=True)
    for i, one in enumerate(batch.ids):
        files.write(batch.select([i]), temporary / "cif" / f"{one}.cif", symprec=SYMPREC)
    files.write(batch, temporary / "crystals.extxyz")
    columns = ", ".join(["id", *(w.column for w in wanted)])
    manifest = {
        "format": FORMAT,
        "batch": name,
        "evaluator": evaluator,
        "evaluator_hash": evaluator_hash,
        "wanted": [
            {"column": w.column, "unit": w.unit, "low": w.low, "high": w.high} for w in wanted
        ],
        "answer": f"Write results.csv (or .parquet) here with the columns {columns}; or one "
        "results/<id>.json a crystal. A crystal that failed: the id and a text under 'error'.",
        "crystals": [
            {"id": one, "formula": formula, "n_atoms": int(n), "cif": f"cif/{one}.cif"}
            for one, formula, n in zip(batch.ids, batch.formula, batch.n_atoms, strict=True)
        ],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    with (temporary / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return target


def read_answers(
    folder: Path,
    ids: Sequence[str],
    wanted: Sequence[Wanted],
    *,
    settle_s: float = SETTLE_S,
) -> Answers:
    """Return what has arrived in the folder of a batch, checked row by row.

    Args:
        folder: The folder of the batch.
        ids: The crystals that were asked for.
        wanted: What was asked for.
        settle_s: Leave files alone that changed within the last seconds.
    """
    answers, disputed = Answers(), set()
    for path, rows in _tables(folder, answers.problems, settle_s):
        for place, row in rows:
            where = f"{path.relative_to(folder.parent)}{place}"
            _take(answers, disputed, where, row, {*ids}, wanted)
    for one in disputed:
        del answers.values[one]  # nobody knows which is right until somebody says so
    return answers


Rows = list[tuple[str, Mapping[str, Any]]]


def _tables(folder: Path, problems: list[str], settle_s: float) -> Iterator[tuple[Path, Rows]]:
    """Yield each readable file of results with its rows and where each row stands."""
    singles = sorted((folder / "results").glob("*.json"))
    for path in [folder / "results.csv", folder / "results.parquet", *singles]:
        if not path.exists():
            continue
        name = path.relative_to(folder.parent)
        if time.time() - path.stat().st_mtime < settle_s:
            problems.append(f"{name}: still being written; looked at again next time.")
            continue
        try:
            if path.suffix == ".csv":
                rows = _csv_rows(path)
            elif path.suffix == ".parquet":
                rows = _parquet_rows(path)
            else:
                record = json.loads(path.read_text(encoding="utf-8-sig"))
                if not isinstance(record, dict):
                    raise ValueError("no record of values")
                rows: Rows = [("", {"id": path.stem, **record})]
        except Exception as error:  # whatever a foreign file does to its reader
            words = " ".join(str(error).split())[:160]
            problems.append(f"{name}: cannot be read: {words}")
            continue
        yield path, rows


def _csv_rows(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head, *rest = file.read().splitlines() or [""]
        delimiter = next((mark for mark in (",", ";", "\t") if mark in head), ",")
        names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
        rows: Rows = []
        for number, cells in enumerate(csv.reader(rest, delimiter=delimiter), start=2):
            if any(cell.strip() for cell in cells):
                cells += [""] * (len(names) - len(cells))
                row = dict(zip(names, (c.strip() for c in cells), strict=False))
                rows.append((f", line {number}", row))
    return rows


def _parquet_rows(path: Path) -> Rows:
    import pyarrow.parquet as pq

    table = pq.read_table(path).to_pylist()
    return [(f", row {number}", row) for number, row in enumerate(table, start=1)]


def _take(
    answers: Answers,
    disputed: set[str],
    place: str,
    row: Mapping[str, Any],
    ids: set[str],
    wanted: Sequence[Wanted],
) -> None:
    """Add one row to the answers, or one line to their problems."""
    one = str(row.get("id") or "").strip()
    if not one:
        answers.problems.append(f"{place}: there is no column id.")
        return
    if one not in ids:
        answers.problems.append(f"{place}: {one[:40]} is not a crystal of this batch.")
        return
    said = row.get("error")
    if isinstance(said, str) and said.strip():
        if one not in answers.values:
            answers.failures[one] = " ".join(said.split())
        return
    values, problem = _values(row, wanted)
    if problem:
        answers.problems.append(f"{place}: {one}: {problem}.")
        return
    before = answers.values.get(one)
    if before is not None and before != values:
        disputed.add(one)
        answers.problems.append(f"{place}: {one} is answered elsewhere with other values.")
        return
    answers.failures.pop(one, None)
    answers.values[one] = values


def _values(row: Mapping[str, Any], wanted: Sequence[Wanted]) -> tuple[dict[str, Any], str]:
    """Return the values that were asked for, and why they cannot be used."""
    optional = {f"{w.column}_std" for w in wanted}
    named = {w.column for w in wanted} | optional
    strange = sorted(
        name
        for name in row
        if name and name not in named | {"id", "formula", "unit", "note", "error"}
    )
    values: dict[str, Any] = {}
    for name in sorted(named & {*row}):
        number = _number(row[name])
        if number is not None or name not in optional:
            values[name] = number
    for w in wanted:
        if w.column not in row and strange:
            return (
                {},
                f"{w.column} is missing; {strange[0]} was not asked for (unit {w.unit or '1'})",
            )
        unit = str(row.get("unit") or w.unit).strip()
        if len(wanted) == 1 and unit != w.unit:
            return {}, f"the unit is {unit}, asked for was {w.unit}"
    problem = problem_with(values, [*(w.column for w in wanted), *(optional & {*values})])
    if problem:
        return {}, problem
    for w in wanted:
        if not w.low <= values[w.column] <= w.high:
            return {}, (
                f"{w.column} = {values[w.column]:g} is outside {w.low:g} to {w.high:g} {w.unit}: "
                "another unit?"
            )
    note = row.get("note")
    return {**values, "note": str(note)} if note else values, ""


def _number(value: Any) -> Any:  # noqa: ANN401 - a cell of a foreign table
    """Return a number where a text is one, None where it is empty."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text
