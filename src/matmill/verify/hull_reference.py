"""Hulls of files that people bring: DFT energies, or those of another potential.

A table in Parquet, CSV or JSON has a composition in each row, as ``formula`` or as the lists
``elements_z`` and ``counts``, and an energy:

- ``formation_energy_per_atom_ev``: taken as corrected by the Materials Project's scheme of 2020
  unless a scheme is named;
- ``energy_per_atom_ev``, or ``energy_ev`` of the composition as written: total energies, whose
  scheme must be named;
- any other column of energies, by its name; ``formation`` in the name says which kind.

Where there is a column ``recommended``, only its rows are used for the formation energies. A row
without a value is left out; one that is no number is an error.

Candidates have total energies. A hull of formation energies is turned into one of total energies by
adding, for each atom, the energy of its element: DFT's where a table of them is at hand, else the
embedded potential's own. The hull's name says which.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from matmill.crystals.composition import parse_formula
from matmill.crystals.elements import SYMBOLS, number
from matmill.errors import DataError, InputError, MatmillError
from matmill.verify.hull import Hull
from matmill.verify.hull_entries import counts_from_lists, lowest_of_each_formula
from matmill.verify.schemes import SCHEMES

FORMATION = "formation_energy_per_atom_ev"
TOTALS = ("energy_per_atom_ev", "energy_ev_per_atom", "energy_ev")
ELEMENTS_FILE = "element_references.parquet"
_ROW = "matmill: row of the file"


def read_hull(
    path: str | Path,
    *,
    energy: str | None = None,
    scheme: str | None = None,
    elements: str | Path | None = None,
) -> Hull:
    """Read a hull: a table of matmill's own, or one with the columns named above.

    Args:
        path: Parquet, CSV or JSON.
        energy: Column with the energies.
        scheme: One of `schemes.SCHEMES`, or the name of the potential that computed them.
        elements: Table with the total energy of each element in ``energy_per_atom_ev``, for
            formation energies; looked for beside the file and in ``MATMILL_DATA`` unless given.

    Raises:
        DataError: If the file is missing, lacks a column or has rows that cannot be used.
        InputError: If the scheme of total energies is not named.
    """
    path = Path(path)
    table = _read(path)
    if b"matmill" in (table.schema.metadata or {}):
        return Hull.load(path)
    column = _energy_column(path, table, energy)
    is_formation = "formation" in column
    if scheme is None and not is_formation:
        raise InputError(
            f"{path} has total energies in {column}; name their scheme with --hull-scheme: "
            f"{', '.join(SCHEMES)}, or the potential that computed them."
        )
    scheme = scheme or "mp2020-corrected"
    table = table.append_column(_ROW, pa.array(np.arange(1, len(table) + 1)))
    if column == FORMATION and "recommended" in table.column_names:
        table = table.filter(table["recommended"])
    table = table.filter(table[column].is_valid())
    counts = _compositions(path, table)
    values = _numbers(path, table, column)
    if "per_atom" not in column:
        values = values / counts.sum(1)
    name, potential = f"{path.name}/{column}/{scheme}", None if scheme in SCHEMES else scheme
    if is_formation:
        counts, values, source, owner = _as_totals(path, counts, values, elements)
        name = f"{name}+elements({source})"
        if elements is None and potential not in (None, owner):
            raise InputError(f"{path}: no energies of the elements by {potential} are at hand.")
        potential = potential or owner
    ids = _ids(table)
    ids += [f"element:{SYMBOLS[int(row.argmax())]}" for row in counts[len(ids) :]]
    known = np.isfinite(values)
    entries = lowest_of_each_formula(
        counts[known], values[known], [key for key, good in zip(ids, known, strict=True) if good]
    )
    if not len(entries.ids):
        raise DataError(f"{path} has no row with an energy in {column}.")
    digest = hashlib.sha256(repr(name).encode())
    digest.update(entries.counts.tobytes() + entries.energy_ev_per_atom.tobytes())
    return Hull(
        entries, name=name, hash=digest.hexdigest()[:16], scheme=scheme, potential=potential
    )


def _read(path: Path) -> pa.Table:
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return pq.read_table(path)
        if kind == ".csv":
            # "nan" is a number that is none, not a missing value.
            options = pyarrow.csv.ConvertOptions(null_values=[""])
            return pyarrow.csv.read_csv(path, convert_options=options)
        if kind == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            return pa.table(content) if isinstance(content, dict) else pa.Table.from_pylist(content)
    except (OSError, pa.ArrowException, ValueError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as a hull: {reason}") from error
    raise DataError(f"{path} is no hull: .parquet, .csv and .json can be read.")


def _energy_column(path: Path, table: pa.Table, wanted: str | None) -> str:
    names = table.column_names
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{path} has no column {wanted}; it has {', '.join(names)}.")
        return wanted
    for name in (FORMATION, *TOTALS):
        if name in names:
            return name
    raise DataError(
        f"{path} has no column of energies: {', '.join((FORMATION, *TOTALS))}, "
        "or one that --hull-energy names."
    )


def _compositions(path: Path, table: pa.Table) -> np.ndarray:
    names = set(table.column_names)
    if {"elements_z", "counts"} <= names:
        elements = table["elements_z"].combine_chunks()
        amounts = table["counts"].combine_chunks()
        try:
            flat = elements.flatten().to_numpy()
            whole = amounts.flatten().to_numpy()
            if not ((flat >= 1) & (flat < len(SYMBOLS))).all() or not (whole > 0).all():
                raise ValueError("an atomic number or an amount is out of range")
            counts = counts_from_lists(elements, amounts)
        except (AttributeError, ValueError, IndexError, pa.ArrowException) as error:
            raise DataError(f"{path}: elements_z and counts cannot be used: {error}.") from error
        if len(counts) and not counts.any(1).all():
            row = _row(table, int(np.argmin(counts.any(1))))
            raise DataError(f"{path}, row {row}: no element.")
        return counts
    if "formula" not in names:
        raise DataError(f"{path} has no compositions: it needs formula, or elements_z and counts.")
    counts = np.zeros((len(table), len(SYMBOLS)), dtype=np.int32)
    for row, formula in enumerate(table["formula"].to_pylist()):
        try:
            for symbol, n in parse_formula(str(formula or "")).items():
                counts[row, number(symbol)] += n
        except MatmillError as error:
            raise DataError(f"{path}, row {_row(table, row)}: {error}") from error
        if not counts[row].any():
            raise DataError(f"{path}, row {_row(table, row)}: no formula.")
    return counts


def _numbers(path: Path, table: pa.Table, column: str) -> np.ndarray:
    try:
        values = table[column].cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {column} is not all numbers.") from error
    bad = np.nonzero(~np.isfinite(values))[0]
    if len(bad):
        raise DataError(f"{path}, row {_row(table, int(bad[0]))}: {column} is {values[bad[0]]}.")
    return values


def _row(table: pa.Table, position: int) -> int:
    """Return where a row of what is left stands in the file, from 1."""
    return table[_ROW][position].as_py() if _ROW in table.column_names else position + 1


def _ids(table: pa.Table) -> list[str]:
    for name in ("material_id", "id"):
        if name in table.column_names:
            return [str(key) for key in table[name].to_pylist()]
    return [f"row-{row + 1}" for row in range(len(table))]


def _as_totals(
    path: Path, counts: np.ndarray, values: np.ndarray, elements: str | Path | None
) -> tuple[np.ndarray, np.ndarray, str, str | None]:
    """Return compositions and total energies with the elements added, and whose elements they are.

    Rows with an element that has no reference get NaN.
    """
    energies, source, owner = _element_energies(path, elements)
    fractions = counts / counts.sum(1, keepdims=True)
    # A missing reference must not spoil rows without that element: 0 times NaN is NaN.
    missing = np.isnan(energies)
    totals = values + fractions @ np.where(missing, 0.0, energies)
    totals[(counts[:, missing] > 0).any(1)] = np.nan
    known = np.nonzero(~missing)[0]
    alone = np.zeros((len(known), counts.shape[1]), dtype=counts.dtype)
    alone[np.arange(len(known)), known] = 1
    return np.concatenate([counts, alone]), np.concatenate([totals, energies[known]]), source, owner


def _element_energies(path: Path, given: str | Path | None) -> tuple[np.ndarray, str, str | None]:
    """Return eV per atom by atomic number, their source, and the potential that they are by."""
    energies = np.full(len(SYMBOLS), np.nan)
    folders = [path.parent, Path(os.environ.get("MATMILL_DATA") or path.parent)]
    found = [folder / ELEMENTS_FILE for folder in folders if (folder / ELEMENTS_FILE).is_file()]
    file = Path(given) if given is not None else next(iter(found), None)
    if file is None:
        own = Hull.load()
        rows = np.nonzero((own.entries.counts > 0).sum(1) == 1)[0]
        energies[own.entries.counts[rows].argmax(1)] = own.entries.energy_ev_per_atom[rows]
        return energies, own.name, own.potential
    table = _read(file)
    if "energy_per_atom_ev" not in table.column_names:
        raise DataError(f"{file} has no column energy_per_atom_ev.")
    counts, values = _compositions(file, table), _numbers(file, table, "energy_per_atom_ev")
    for row, value in zip(counts, values, strict=True):
        if (row > 0).sum() == 1:
            z = int(row.argmax())
            energies[z] = np.fmin(energies[z], value)
    return energies, file.name, None
