"""`LabelledCompositions`: formulas with labels, for materials whose structure nobody knows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch, read_formulas
from matmill.crystals.records import atomic
from matmill.data.labels import (
    ID_NAMES,
    check_unique,
    match_column,
    parse_number,
    read_cells,
    shown,
)
from matmill.data.rows import LabelledRows, Notes, require_target
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError

FORMULA_COLUMNS = (
    "formula",
    "composition",
    "reduced_formula",
    "formula_pretty",
    "pretty_formula",
    "chemical_formula",
    "full_formula",
    "compound",
    "alloy",
)
"""Usual names of a column of formulas, in the order in which they are looked for."""

_Numbers: TypeAlias = dict[str, Float[Tensor, " n_rows"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledCompositions(LabelledRows[CompositionBatch]):
    """Compositions whose properties are labels, with text columns beside them.

    What needs no structure takes these rows as well as `LabelledCrystals`.

    Attributes:
        compositions: What the materials are made of; numeric labels are its ``properties``, NaN
            where unknown.
    """

    compositions: CompositionBatch

    @property
    def batch(self) -> CompositionBatch:
        """What the materials are made of."""
        return self.compositions

    def _with(self, batch: CompositionBatch, notes: Notes) -> Self:
        return replace(self, compositions=batch, notes=notes)

    def save(self, path: Path) -> None:
        """Write the table as Parquet; `open_compositions` reads it back.

        Raises:
            InputError: If the path does not end in ``.parquet``.
        """
        if path.suffix.lower() != ".parquet":
            raise InputError(f"Compositions are written as Parquet; '{path.name}' is not.")
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, pa.Array] = {
            "material_id": pa.array(self.ids),
            "formula": pa.array(written_formulas(self.compositions)),
        }
        for name, values in self.compositions.properties.items():
            columns[name] = pa.array(values.double().numpy(), from_pandas=True)
        for name, cells in self.notes.items():
            columns[name] = pa.array(cells, type=pa.string())
        with atomic(path) as part:
            pq.write_table(pa.table(columns), part, compression="zstd")


Table: TypeAlias = LabelledCrystals | LabelledCompositions


def items(table: Table) -> CrystalBatch | CompositionBatch:
    """Return what a table is about: its crystals or its compositions."""
    return table.batch


def written_formulas(batch: CompositionBatch) -> list[str]:
    """Return the amounts as text that reads back to the same numbers, elements by Z."""
    from matmill.crystals.elements import SYMBOLS

    texts = [""] * len(batch)
    rows, numbers = torch.nonzero(batch.amounts, as_tuple=True)
    amounts = batch.amounts[rows, numbers].tolist()
    for row, z, amount in zip(rows.tolist(), numbers.tolist(), amounts, strict=True):
        texts[row] += SYMBOLS[z] + (f"{amount:.0f}" if amount.is_integer() else repr(amount))
    return texts


def open_compositions(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    formula_column: str | None = None,
    id_column: str | None = None,
) -> LabelledCompositions:
    """Open a CSV or Parquet file with a column of formulas.

    Numbers become labels, ``true`` and ``false`` become 1 and 0, text becomes notes. A row whose
    formula cannot be read is left out, with a complaint.

    Args:
        path: The file.
        target: Column that must be there. An empty cell in it is an error for a CSV, where it is
            likely a slip; such rows of a Parquet file are left out, with one complaint.
        formula_column: Column of the formulas; by default the first with a usual name
            (`FORMULA_COLUMNS`).
        id_column: Column of the ids; by default the first with a usual name (``id``,
            ``material_id``, …) where there is one.

    Raises:
        InputError: If the path does not exist or is of another kind.
        UnknownNameError: If a column is missing; lists those that exist.
        DataError: If no formula can be read, ids repeat, or a target is not a number.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file '{path}'.")
    kind = path.suffix.lower()
    if kind not in {".csv", ".parquet"}:
        raise InputError(f"Compositions are read from .csv or .parquet files, not from '{path}'.")
    if kind == ".csv":
        numbers, texts = _cells_of_csv(path, id_column)
    else:
        numbers, texts = _cells_of_parquet(path)
    name = _formula_column(path, texts, list(numbers), formula_column)
    batch, rows, complaints = read_formulas(texts.pop(name), str(path))
    if not len(batch):
        why = f": {complaints[0].reason}" if complaints else ""
        raise DataError(f"No formula in column '{name}' of {path} can be read{why}.")
    if target is not None:
        _check_target(path, target, numbers, texts)
    ids = _ids(path, numbers, texts, id_column)
    places = rows.tolist()
    batch = replace(
        batch,
        ids=tuple(ids[place] for place in places) if ids else (),
        properties={column: values[rows] for column, values in numbers.items()},
    )
    table = LabelledCompositions(
        compositions=batch,
        notes={column: tuple(cells[p] for p in places) for column, cells in texts.items()},
        source=str(path),
        complaints=tuple(complaints),
    )
    if target is None:
        return table
    return require_target(table, target, "error" if kind == ".csv" else "drop")


def _cells_of_csv(path: Path, id_column: str | None) -> tuple[_Numbers, Notes]:
    numbers: _Numbers = {}
    texts: Notes = {}
    for name, cells in read_cells(path).items():
        values = [parse_number(cell) for cell in cells]
        is_name = name == id_column or name.lower() in {*ID_NAMES, *FORMULA_COLUMNS}
        if is_name or None in values:
            texts[name] = tuple(cell or None for cell in cells)
        else:
            numbers[name] = torch.tensor(values, dtype=torch.float64)
    return numbers, texts


def _cells_of_parquet(path: Path) -> tuple[_Numbers, Notes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        wanted = [c.name for c in schema if pa.types.is_primitive(c.type) or _is_text(c.type)]
        sheet = pq.read_table(path, columns=wanted)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"Cannot read {path} as Parquet: {error}.") from error
    numbers: _Numbers = {}
    texts: Notes = {}
    for name in wanted:
        column = sheet.column(name)
        kind = column.type
        if _is_text(kind):
            texts[name] = tuple(column.to_pylist())
        elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            numbers[name] = torch.tensor(column.cast(pa.float64()).to_numpy())
    return numbers, texts


def _is_text(kind: object) -> bool:
    return str(kind) in {"string", "large_string", "string_view"}


def _formula_column(path: Path, texts: Notes, numeric: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in texts:
            raise UnknownNameError(f"text column of {path.name}", wanted, list(texts))
        return wanted
    usual = {name.lower(): name for name in reversed(list(texts))}
    found = next((usual[name] for name in FORMULA_COLUMNS if name in usual), None)
    if found is None:
        raise InputError(
            f"{path} has no column of formulas (such as 'formula' or 'composition'); it has "
            f"{', '.join([*texts, *numeric])}. Name it with formula_column."
        )
    return found


def _check_target(path: Path, target: str, numbers: _Numbers, texts: Notes) -> None:
    """Check that the target is a column of numbers."""
    if match_column(target, list(numbers)) is not None:
        return
    column = match_column(target, list(texts))
    if column is None:
        raise UnknownNameError(f"column of {path.name}", target, [*numbers, *texts])
    wrong = [
        f"row {row}: '{cell}'"
        for row, cell in enumerate(texts[column], 1)
        if cell is not None and parse_number(cell) is None
    ]
    raise DataError(
        f"Column '{column}' of {path} has {len(wrong)} cell(s) that are not numbers: "
        f"{shown(wrong)}. Write plain numbers, and leave the cell empty where the value is not "
        "known."
    )


def _ids(path: Path, numbers: _Numbers, texts: Notes, wanted: str | None) -> tuple[str, ...]:
    """Take the column of ids out of the columns; empty where there is none."""
    usual = {name.lower(): name for name in [*numbers, *texts]}
    if wanted is not None and wanted not in (*numbers, *texts):
        raise UnknownNameError(f"column of {path.name}", wanted, [*numbers, *texts])
    name = wanted or next((usual[name] for name in ID_NAMES if name in usual), None)
    if name is None:
        return ()
    if name in numbers:
        ids = tuple(f"{value:.0f}" for value in numbers.pop(name).tolist())
    else:
        ids = tuple(cell or "" for cell in texts.pop(name))
    missing = [str(row) for row, cell in enumerate(ids, 1) if cell in {"", "nan"}]
    if missing:
        raise DataError(f"{len(missing)} row(s) of {path} have no '{name}': row {shown(missing)}.")
    check_unique(ids, f"'{name}' of {path}")
    return ids
