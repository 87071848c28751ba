"""`LabelledCrystals`: crystals with their labels and where they came from, and how to open them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.records import ReadResult, atomic
from matmill.data.labels import Labels, check_unique, read_labels, shown
from matmill.data.rows import LabelledRows, Notes, require_target
from matmill.errors import DataError, InputError
from matmill.progress import OnEvent, ignore

_STRUCTURE_SUFFIXES = (".cif", ".vasp", ".poscar", ".xyz", ".extxyz", ".json")
TEXT_COLUMNS = ("cif", "cif_text", "structure")
_NOT_NOTES = frozenset({"material_id", "formula"})


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledCrystals(LabelledRows[CrystalBatch]):
    """Crystals whose properties are labels, with text columns beside them.

    Attributes:
        crystals: The structures; numeric labels are its ``properties``, NaN where unknown.
    """

    crystals: CrystalBatch

    @property
    def batch(self) -> CrystalBatch:
        """The structures."""
        return self.crystals

    def _with(self, batch: CrystalBatch, notes: Notes) -> Self:
        return replace(self, crystals=batch, notes=notes)

    def save(self, path: Path) -> None:
        """Write the table; Parquet keeps the text columns, other formats what they can hold."""
        from matmill.crystals.files import write

        write(self.crystals, path)
        if path.suffix == ".parquet" and self.notes:
            _add_notes(path, self.notes)


def open_table(
    path: str | os.PathLike[str],
    *,
    structures: str | os.PathLike[str] | None = None,
    target: str | None = None,
    id_column: str | None = None,
    on_missing: Literal["error", "drop"] | None = None,
    on_event: OnEvent = ignore,
) -> LabelledCrystals:
    """Open a table of crystals with labels.

    Args:
        path: A CSV of labels (with ``structures``, or a column of CIF text), a folder with one
            CSV and structure files, a Parquet file, an ASE database, or any structure file.
        structures: Folder with one structure file per row of the CSV, named like the row's id.
        target: Column that must be there; see `LabelledCrystals.column_name`.
        id_column: Column of the CSV with the ids; guessed by default.
        on_missing: What to do with rows whose target is empty. By default an error for a CSV,
            where an empty cell is likely a slip, and ``"drop"`` (with one complaint) elsewhere,
            where empty means not known.
        on_event: Told about progress.

    Raises:
        InputError: If the path does not exist.
        UnknownNameError: If a column is missing; lists those that exist.
        DataError: If structures are missing for rows, ids repeat, or a target is not a number.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file or folder '{path}'.")
    folder = Path(structures) if structures is not None else None
    if path.is_dir():
        sheets = sorted(path.glob("*.csv"))
        if len(sheets) > 1:
            names = ", ".join(sheet.name for sheet in sheets)
            raise InputError(f"{path} has several CSV files ({names}): open one of them.")
        folder, path = (path, sheets[0]) if sheets else (None, path)
    is_csv = path.suffix.lower() == ".csv"
    if is_csv:
        table = _open_csv(path, folder, target, id_column, on_event)
    else:
        from matmill.crystals.files import read

        result = read(path, on_event=on_event)
        notes = _read_notes(path, result)
        complaints = tuple(result.complaints)
        table = LabelledCrystals(
            crystals=result.crystals, notes=notes, source=str(path), complaints=complaints
        )
        if table.crystals.ids and path.suffix.lower() in {".parquet", ".db"}:
            check_unique(table.crystals.ids, str(path))
    if target is None:
        return table
    return require_target(table, target, on_missing or ("error" if is_csv else "drop"))


def _open_csv(
    path: Path, folder: Path | None, target: str | None, id_column: str | None, on_event: OnEvent
) -> LabelledCrystals:
    labels = read_labels(path, id_column)
    text_column = next((name for name in TEXT_COLUMNS if name in labels.columns), None)
    if target is not None:
        labels.check_target(target)
    if folder is not None:
        crystals = _read_named(labels, folder, on_event)
    elif text_column is not None:
        crystals = _read_texts(labels, text_column)
    else:
        raise InputError(
            f"{path} has labels but no structures. Give the folder of structure files "
            "(--structures cifs/), or a column 'cif' with CIF text."
        )
    numbers: dict[str, Tensor] = {}
    notes: Notes = {}
    for name, cells in labels.columns.items():
        if name in {labels.id_column, text_column}:
            continue
        values = labels.numbers(name)
        if values is None:
            notes[name] = tuple(cell or None for cell in cells)
        else:
            numbers[name] = torch.tensor(values, dtype=torch.float64)
    crystals = replace(crystals, properties=numbers, ids=labels.ids)
    return LabelledCrystals(crystals=crystals, notes=notes, source=str(path))


def _read_named(labels: Labels, folder: Path, on_event: OnEvent) -> CrystalBatch:
    """Read the structure file of each row, found by the row's id."""
    if not folder.is_dir():
        raise InputError(f"There is no folder '{folder}' with structures.")
    present = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    files, missing = [], []
    for name in labels.ids:
        names = (name, *(f"{name}{suffix}" for suffix in _STRUCTURE_SUFFIXES))
        file = next((present[option] for option in names if option in present), None)
        if file is None:
            missing.append(f"{name}.cif")
        else:
            files.append(file)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(labels.ids)} rows of {labels.path} have no structure in "
            f"{folder}: {shown(missing)}. Add these files, or remove the rows; files are found "
            f"by the id in column '{labels.id_column}'."
        )
    from matmill.crystals.files import read

    result = read(files, on_event=on_event)
    if result.complaints or len(result.crystals) != len(files):
        problems = [f"{Path(c.file).name}: {c.reason}" for c in result.complaints]
        raise DataError(
            f"{len(problems) or 'Some'} structure file(s) in {folder} cannot be used one to one "
            f"({len(result.crystals)} crystals in {len(files)} files). {shown(problems)}. "
            f"Repair them, or remove their rows from {labels.path}."
        )
    return result.crystals


def _read_texts(labels: Labels, column: str) -> CrystalBatch:
    """Parse a column of CIF text."""
    from matmill.data.formats import read_cif_texts

    result = read_cif_texts(labels.columns[column], labels.ids, str(labels.path))
    if result.complaints:
        raise DataError(
            f"{len(result.complaints)} cell(s) in column '{column}' of {labels.path} are not a "
            f"usable CIF: {shown([f'row {c.row}: {c.reason}' for c in result.complaints])}. "
            "Repair or remove these rows."
        )
    return result.crystals


def _read_notes(path: Path, result: ReadResult) -> Notes:
    """Read the text columns of a Parquet file for the rows that became crystals."""
    if path.suffix.lower() != ".parquet":
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    names = [
        column.name
        for column in schema
        if (pa.types.is_string(column.type) or pa.types.is_large_string(column.type))
        and column.name not in _NOT_NOTES
    ]
    if not names:
        return {}
    sheet = pq.read_table(path, columns=names)
    places = (result.rows - 1).tolist()
    is_whole = len(places) == sheet.num_rows
    notes = {}
    for name in names:
        cells = sheet.column(name).to_pylist()
        notes[name] = tuple(cells) if is_whole else tuple(cells[place] for place in places)
    return notes


def _add_notes(path: Path, notes: Notes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sheet = pq.read_table(path)
    for name, cells in notes.items():
        if name not in sheet.column_names:
            sheet = sheet.append_column(name, pa.array(cells, type=pa.string()))
    with atomic(path) as part:
        pq.write_table(sheet, part, compression="zstd")
