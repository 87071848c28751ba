"""Parquet: the one versioned table of crystals. Read through arrow's buffers, no object per row.

Schema 1: ``material_id`` string, ``formula`` string, ``atomic_numbers`` list<int8>,
``frac_coords`` list<double> (3N, row by row), ``lattice`` list<double> (9, row vectors in Å),
``n_atoms`` int16, then any scalar columns. Single precision and other integer widths are read too.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import reduced_formulas
from matmill.crystals.periodic import wrap
from matmill.crystals.records import Complaint, ReadResult, atomic, screen
from matmill.errors import DataError

SCHEMA_NAME = "matmill.crystals"
SCHEMA_VERSION = 1
STRUCTURE_COLUMNS = ("atomic_numbers", "frac_coords", "lattice")
ID_COLUMNS = ("material_id", "id")
_OWN_COLUMNS = {*STRUCTURE_COLUMNS, *ID_COLUMNS, "n_atoms"}


def read(path: Path) -> ReadResult:
    """Return all crystals of a Parquet file; scalar columns become properties.

    Raises:
        DataError: If it is no Parquet file, lacks the structure columns, or is of a newer schema.
    """
    table = _open(path).read()
    return from_arrow(table, file=str(path))


def iterate(path: Path, n_rows: int) -> Iterator[ReadResult]:
    """Yield the crystals of a large file, ``n_rows`` rows at a time."""
    start = 0
    for part in _open(path).iter_batches(batch_size=n_rows):
        yield from_arrow(pa.Table.from_batches([part]), file=str(path), first_row=start + 1)
        start += len(part)


def from_arrow(table: pa.Table, *, file: str = "table", first_row: int = 1) -> ReadResult:
    """Return the crystals of an arrow table in schema 1.

    Raises:
        DataError: If a structure column is missing or of the wrong type.
    """
    table = table.combine_chunks()
    missing = [name for name in STRUCTURE_COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(
            f"{file} has no column {', '.join(missing)}. A table of crystals needs "
            f"{', '.join(STRUCTURE_COLUMNS)}; this one has {', '.join(table.column_names)}."
        )
    numbers, n_numbers = _lists(table, "atomic_numbers", file, np.int64)
    coords, n_coords = _lists(table, "frac_coords", file, np.float64)
    lattice, n_lattice = _lists(table, "lattice", file, np.float64)
    complaints: list[Complaint] = []
    whole = (n_numbers > 0) & (n_coords == 3 * n_numbers) & (n_lattice == 9)
    for row in np.nonzero(~whole)[0].tolist():
        lengths = (
            f"{n_numbers[row]} atomic numbers, {n_coords[row]} coordinates and "
            f"{n_lattice[row]} lattice entries"
        )
        remedy = "A crystal of N atoms needs N, 3N and 9."
        complaints.append(Complaint(file, first_row + row, f"it has {lengths}", remedy))
    rows = np.arange(first_row, first_row + len(table))
    if complaints:
        numbers = numbers[np.repeat(whole, n_numbers)]
        coords, lattice = coords[np.repeat(whole, n_coords)], lattice[np.repeat(whole, n_lattice)]
        table, n_numbers, rows = table.filter(pa.array(whole)), n_numbers[whole], rows[whole]
    batch = CrystalBatch(
        lattice=torch.from_numpy(lattice).reshape(-1, 3, 3),
        frac_coords=wrap(torch.from_numpy(coords).reshape(-1, 3)),
        atomic_numbers=torch.from_numpy(numbers),
        n_atoms=torch.from_numpy(n_numbers),
        properties=_properties(table),
        ids=_ids(table, rows, Path(file).name.split(".")[0]),
    )
    return screen(file, batch, rows.tolist(), complaints)


def to_arrow(batch: CrystalBatch, extra: Mapping[str, Sequence[Any]] | None = None) -> pa.Table:
    """Return an arrow table in schema 1.

    Args:
        batch: Any number of crystals.
        extra: More columns, one value per crystal, of any type that arrow knows.
    """
    offsets = np.concatenate([[0], batch.n_atoms.cumsum(0).cpu().numpy()]).astype(np.int32)
    numbers = batch.atomic_numbers.cpu().numpy().astype(np.int8)
    coords = batch.frac_coords.double().cpu().numpy().reshape(-1)
    lattice = batch.lattice.double().cpu().numpy().reshape(-1)
    nines = np.arange(0, len(lattice) + 1, 9, dtype=np.int32)
    columns: dict[str, Any] = {
        "material_id": pa.array(batch.ids or [None] * len(batch), pa.string()),
        "formula": pa.array(reduced_formulas(batch), pa.string()),
        "atomic_numbers": pa.ListArray.from_arrays(offsets, pa.array(numbers)),
        "frac_coords": pa.ListArray.from_arrays(3 * offsets, pa.array(coords)),
        "lattice": pa.ListArray.from_arrays(nines, pa.array(lattice)),
        "n_atoms": pa.array(batch.n_atoms.cpu().numpy(), pa.int16()),
    }
    for name, values in batch.properties.items():
        columns[name] = pa.array(values.double().cpu().numpy(), from_pandas=True)  # NaN is null
    for name, values in (extra or {}).items():
        columns[name] = pa.array(list(values))
    metadata = {"schema": SCHEMA_NAME, "schema_version": str(SCHEMA_VERSION)}
    return pa.table(columns).replace_schema_metadata(metadata)


def write(
    batch: CrystalBatch, path: Path, *, extra: Mapping[str, Sequence[Any]] | None = None
) -> None:
    """Write crystals, and columns beside them, as one Parquet file."""
    with atomic(path) as temporary:
        pq.write_table(to_arrow(batch, extra), temporary, compression="zstd")


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {error}.") from error
    metadata = file.schema_arrow.metadata or {}
    version = metadata.get(b"schema_version", b"1")
    if metadata.get(b"schema") == SCHEMA_NAME.encode() and int(version) > SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {version.decode()}, this matmill reads up to "
            f"{SCHEMA_VERSION}. Update matmill, or write the file with an older one."
        )
    return file


def _lists(
    table: pa.Table, name: str, file: str, dtype: type[np.number]
) -> tuple[np.ndarray, np.ndarray]:
    """Return all values of a list column end to end, and the length of each row (null is 0)."""
    column = table[name]
    array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(array.type) for is_kind in kinds):
        raise DataError(f"{file}: column {name} is {array.type}, but must be a list of numbers.")
    lengths = np.nan_to_num(
        pc.call_function("list_value_length", [array]).to_numpy(zero_copy_only=False)
    )
    values = pc.call_function("list_flatten", [array])
    filler = np.nan if np.issubdtype(dtype, np.floating) else 0
    if values.null_count:
        values = pc.fill_null(values, filler)
    return values.to_numpy(zero_copy_only=False).astype(dtype), lengths.astype(np.int64)


def _properties(table: pa.Table) -> dict[str, torch.Tensor]:
    properties = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        is_scalar = (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        )
        if name in _OWN_COLUMNS or not is_scalar:
            continue
        values = pc.fill_null(pc.cast(column, pa.float64()), float("nan"))
        properties[name] = torch.from_numpy(values.to_numpy().copy())
    return properties


def _ids(table: pa.Table, rows: np.ndarray, stem: str) -> tuple[str, ...]:
    for name in ID_COLUMNS:
        if name in table.column_names:
            names = pc.cast(table[name], pa.string()).to_pylist()
            if None in names:
                return tuple(n or f"{stem}-{r}" for n, r in zip(names, rows.tolist(), strict=True))
            return tuple(names)
    return tuple(f"{stem}-{row}" for row in rows.tolist())
