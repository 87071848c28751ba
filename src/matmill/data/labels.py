"""Reading a CSV of targets: which column is the id, which are numbers, which cells are empty."""

import csv
from dataclasses import dataclass
from pathlib import Path

from matmill.errors import DataError, UnknownNameError
from matmill.quantities import find

ID_NAMES = ("id", "material_id", "ids", "name", "file", "filename", "cif_id", "mp_id", "jid")
_EMPTY = frozenset({"", "nan", "na", "n/a", "none", "null", "-", "?"})
_FLAGS = {"true": 1.0, "false": 0.0}
_MAX_SHOWN = 5  # examples in a message; the count is always given


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The cells of a CSV, column by column.

    Attributes:
        path: The file.
        id_column: Name of the column that identifies a row.
        columns: Stripped cells of each column, ``n_rows`` each.
    """

    path: Path
    id_column: str
    columns: dict[str, tuple[str, ...]]

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each row."""
        return self.columns[self.id_column]

    def numbers(self, name: str) -> list[float] | None:
        """Return a column as numbers, NaN for empty cells; None where a cell is other text."""
        values = []
        for cell in self.columns[name]:
            value = parse_number(cell)
            if value is None:
                return None
            values.append(value)
        return values

    def check_target(self, name: str) -> None:
        """Check that ``name`` stands for a column of numbers.

        Raises:
            UnknownNameError: If there is no such column; lists those that exist.
            DataError: If cells are neither numbers nor empty; names rows and cells.
        """
        column = match_column(name, list(self.columns))
        if column is None:
            raise UnknownNameError(f"column of {self.path.name}", name, list(self.columns))
        wrong = [
            f"{self.ids[row]}: '{cell}'"
            for row, cell in enumerate(self.columns[column])
            if parse_number(cell) is None
        ]
        if wrong:
            raise DataError(
                f"Column '{column}' of {self.path} has {len(wrong)} cell(s) that are not numbers: "
                f"{shown(wrong)}. Write plain numbers, and leave the cell empty where the value "
                "is not known."
            )


def parse_number(cell: str) -> float | None:
    """Return the number in a cell: NaN when it is empty, 1 or 0 for flags, None for other text."""
    lowered = cell.strip().lower()
    if lowered in _EMPTY:
        return float("nan")
    if lowered in _FLAGS:
        return _FLAGS[lowered]
    try:
        return float(lowered)
    except ValueError:
        return None


def match_column(name: str, columns: list[str]) -> str | None:
    """Return the column that ``name`` stands for, None where there is none or more than one.

    In this order: the name itself, the column of a known property (``"band_gap"`` for
    ``"band_gap_ev"``), the only column that starts so (``"gap"`` for ``"gap_ev"``).
    """
    if name in columns:
        return name
    try:
        quantity = find(name)
    except UnknownNameError:
        pass
    else:
        for candidate in (quantity.column, quantity.name):
            if candidate in columns:
                return candidate
    starts = [column for column in columns if column.startswith(f"{name}_")]
    return starts[0] if len(starts) == 1 else None


def shown(items: list[str]) -> str:
    """Return the first few items as text, and how many more there are."""
    more = len(items) - _MAX_SHOWN
    return ", ".join(items[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_labels(path: Path, id_column: str | None = None) -> Labels:
    """Read a CSV with one row per crystal.

    A file whose first row already holds a number in its second cell has no header (the
    ``id_prop.csv`` of CGCNN); its columns are then called ``id``, ``target``, ``target_2``, ….

    Args:
        path: The CSV; commas, semicolons or tabs.
        id_column: Column with the ids; by default the first one with a usual name (``id``,
            ``material_id``, ``name``, ``file``, …), else the first column.

    Raises:
        UnknownNameError: If ``id_column`` is not a column; lists those that exist.
        DataError: If the file cannot be read, has ragged rows, or ids are missing or repeated.
    """
    columns = read_cells(path)
    labels = Labels(path=path, id_column=_find_id(path, list(columns), id_column), columns=columns)
    _check_ids(labels)
    return labels


def read_cells(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the stripped cells of a CSV by column; see `read_labels` for files without header.

    Raises:
        DataError: If the file cannot be read, is empty or has ragged rows.
    """
    try:
        # CIF text inside a cell can be longer than the default limit of 128 kB.
        csv.field_size_limit(2**31 - 1)
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            rows = [row for row in csv.reader(file, delimiter=delimiter) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read {path} as CSV: {error}.") from error
    if not rows:
        raise DataError(f"{path} is empty: expected a header and one row per crystal.")
    header = [name.strip() for name in rows[0]]
    if len(header) > 1 and parse_number(header[1]) is not None and header[1]:
        extra = [f"target_{i}" for i in range(2, len(header))]
        header = ["id", "target", *extra]
    else:
        rows = rows[1:]
    ragged = [str(line) for line, row in enumerate(rows, 1) if len(row) != len(header)]
    if ragged:
        raise DataError(
            f"{len(ragged)} row(s) of {path} do not have {len(header)} cells: row {shown(ragged)}."
        )
    if len(set(header)) != len(header):
        raise DataError(f"{path} names a column twice: {', '.join(header)}.")
    return {
        name: tuple(row[position].strip() for row in rows) for position, name in enumerate(header)
    }


def _find_id(path: Path, header: list[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in header:
            raise UnknownNameError(f"column of {path.name}", wanted, header)
        return wanted
    usual = {name.lower(): name for name in header}
    return next((usual[name] for name in ID_NAMES if name in usual), header[0])


def _check_ids(labels: Labels) -> None:
    missing = [str(row) for row, name in enumerate(labels.ids, 1) if not name]
    if missing:
        raise DataError(
            f"{len(missing)} row(s) of {labels.path} have no id in '{labels.id_column}': "
            f"row {shown(missing)}."
        )
    check_unique(labels.ids, f"'{labels.id_column}' of {labels.path}")


def check_unique(ids: tuple[str, ...], where: str) -> None:
    """Check that no id occurs twice.

    Raises:
        DataError: Naming the repeated ids and their rows.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ids, 1):
        rows.setdefault(name, []).append(row)
    repeated = [
        f"{name} (rows {', '.join(map(str, at))})" for name, at in rows.items() if len(at) > 1
    ]
    if repeated:
        raise DataError(
            f"{len(repeated)} id(s) in {where} occur more than once: {shown(repeated)}. "
            "Give each row its own id, or remove the repeated rows."
        )
