"""Open a table of whichever kind: crystals where there are structures, else compositions."""

import os
from pathlib import Path

from matmill.data.compositions import FORMULA_COLUMNS, Table, open_compositions
from matmill.data.labels import read_cells
from matmill.data.table import TEXT_COLUMNS, open_table
from matmill.errors import DataError
from matmill.progress import OnEvent, ignore


def open_rows(
    path: str | os.PathLike[str],
    *,
    structures: str | os.PathLike[str] | None = None,
    target: str | None = None,
    id_column: str | None = None,
    on_event: OnEvent = ignore,
) -> Table:
    """Open crystals or compositions with labels.

    A CSV without structures (no folder, no column of CIF text) or a Parquet file without cells is
    opened as compositions when it has a column of formulas; all else as crystals.

    Args:
        path: See `data.table.open_table` and `data.compositions.open_compositions`.
        structures: Folder with one structure file per row of the CSV.
        target: Column that must be there; rows of a Parquet file without a value are left out.
        id_column: Column of the CSV with the ids; guessed by default.
        on_event: Told about progress.

    Raises:
        InputError: If the path does not exist.
        UnknownNameError: If a column is missing; lists those that exist.
        DataError: If rows cannot be used.
    """
    path = Path(path)
    if structures is None and path.is_file() and holds_compositions(path):
        return open_compositions(path, target=target, id_column=id_column)
    return open_table(
        path, structures=structures, target=target, id_column=id_column, on_event=on_event
    )


def holds_compositions(path: Path) -> bool:
    """Return whether a CSV or Parquet file has formulas but no structures.

    Raises:
        DataError: If the file cannot be read.
    """
    if path.suffix.lower() == ".csv":
        names = list(read_cells(path))
        has_structures = any(name in TEXT_COLUMNS for name in names)
    elif path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(path).names
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"Cannot read {path} as Parquet: {error}.") from error
        has_structures = "lattice" in names or any(name in TEXT_COLUMNS for name in names)
    else:
        return False
    return not has_structures and any(name.lower() in FORMULA_COLUMNS for name in names)
