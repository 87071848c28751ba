"""Parsers of the formats in which public data sets are published; plain dictionaries to crystals.

Structures are read straight from their JSON: building a pymatgen object for each of 100,000 rows
would take minutes and give nothing.
"""

import csv
import gzip
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from matmill.crystals.batch import concatenate
from matmill.crystals.elements import number
from matmill.crystals.records import Complaint, ReadResult, Record, collect
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, MatmillError

_ISOTOPES = {"D": "H", "T": "H"}
_SYMBOL = re.compile(r"[A-Z][a-z]?")

Geometry = tuple[np.ndarray, np.ndarray, list[int]]


@dataclass
class Collector:
    """Gathers published rows; one that cannot be used becomes a complaint.

    Attributes:
        source: Name of the data set or file, for messages.
    """

    source: str
    entries: list[Record | Complaint] = field(default_factory=list)

    def add(
        self,
        row: int,
        name: str,
        read_geometry: Callable[[Any], Geometry],
        raw: object,
        values: dict[str, float],
    ) -> None:
        """Add row number ``row`` (from 1), whose structure is ``read_geometry(raw)``."""
        try:
            lattice, frac, numbers = read_geometry(raw)
        except (MatmillError, KeyError, TypeError, ValueError, IndexError) as error:
            reason = str(error).strip() or type(error).__name__
            if isinstance(error, KeyError | TypeError):
                reason = f"the structure is missing or incomplete ({reason})"
            remedy = "Nothing can be done about it here; the row was left out."
            self.entries.append(Complaint(self.source, row, f"{name}: {reason}", remedy))
            return
        self.entries.append(
            Record(
                row=row,
                lattice=lattice,
                frac_coords=frac,
                numbers=np.array(numbers, dtype=np.int64),
                name=name,
                values=values,
            )
        )

    def result(self) -> ReadResult:
        """Return all rows added so far, checked."""
        return collect(self.source, self.entries)

    def table(self) -> LabelledCrystals:
        """Return all rows added so far as a table.

        Raises:
            DataError: If no row is usable.
        """
        return _table(self.source, [self.result()])


def _table(
    name: str, results: Sequence[ReadResult], notes: dict[str, tuple[str | None, ...]] | None = None
) -> LabelledCrystals:
    crystals = concatenate([result.crystals for result in results])
    complaints = tuple(c for result in results for c in result.complaints)
    if not len(crystals):
        first = f" First problem: {complaints[0].reason}." if complaints else ""
        raise DataError(f"{name} gave no usable crystal.{first}")
    return LabelledCrystals(
        crystals=crystals, notes=notes or {}, source=name, complaints=complaints
    )


def as_number(value: Any) -> float:  # noqa: ANN401 - cells of foreign files
    """Return a published value as a number; NaN for None, ``"na"``, text and the like."""
    if isinstance(value, list | dict) or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return {"true": 1.0, "false": 0.0}.get(str(value).strip().lower(), math.nan)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers of a row under our names; ``"a.b"`` looks inside a dictionary."""
    values = {}
    for theirs, ours in columns.items():
        value: Any = row.get(theirs)
        if theirs not in row:
            value = row
            for step in theirs.split("."):
                value = value.get(step) if isinstance(value, Mapping) else None
        values[ours] = as_number(value)
    return values


def from_pymatgen(raw: Mapping[str, Any]) -> Geometry:
    """Read a structure that pymatgen serialised."""
    numbers = []
    for site in raw["sites"]:
        species = site["species"]
        if len(species) != 1 or abs(species[0].get("occu", 1) - 1) > 1e-6:
            raise DataError("a site is shared between elements or partly empty")
        numbers.append(_number(species[0]["element"]))
    frac = np.array([site["abc"] for site in raw["sites"]], dtype=np.float64)
    return _lattice(raw["lattice"]["matrix"]), frac, numbers


def from_jarvis(raw: Mapping[str, Any]) -> Geometry:
    """Read an ``atoms`` dictionary of JARVIS."""
    lattice = _lattice(raw["lattice_mat"])
    coords = np.array(raw["coords"], dtype=np.float64).reshape(-1, 3)
    if raw.get("cartesian") in (True, "true", "True"):
        coords = coords @ np.linalg.inv(lattice)
    return lattice, coords, [_number(symbol) for symbol in raw["elements"]]


def from_optimade(raw: Mapping[str, Any]) -> Geometry:
    """Read the attributes of an OPTIMADE structure."""
    if raw.get("nperiodic_dimensions", 3) != 3:
        raise DataError("it is not periodic in three dimensions")
    symbols = {}
    for species in raw["species"]:
        # A single, fully occupied element; vacancies and mixtures are not crystals to us.
        if len(species["chemical_symbols"]) != 1 or species.get("concentration", [1])[0] < 1 - 1e-6:
            raise DataError(f"species '{species['name']}' is disordered")
        symbols[species["name"]] = species["chemical_symbols"][0]
    lattice = _lattice(raw["lattice_vectors"])
    coords = np.array(raw["cartesian_site_positions"], dtype=np.float64).reshape(-1, 3)
    numbers = [_number(symbols[name]) for name in raw["species_at_sites"]]
    return lattice, coords @ np.linalg.inv(lattice), numbers


def from_cif(text: str) -> Geometry:
    """Read CIF text with pymatgen."""
    import warnings

    from pymatgen.core import Structure

    with warnings.catch_warnings():
        # pymatgen warns about rounding in nearly every published CIF.
        warnings.simplefilter("ignore")
        structure = Structure.from_str(text, fmt="cif")
    if not structure.is_ordered:
        raise DataError("a site is shared between elements or partly empty")
    return structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure]


def read_cif_texts(texts: Sequence[str], names: Sequence[str], source: str) -> ReadResult:
    """Read one CIF text per row, under these names."""
    collector = Collector(source)
    for row, (name, text) in enumerate(zip(names, texts, strict=True), 1):
        collector.add(row, name, from_cif, text, {})
    return collector.result()


def parse_matbench(path: Path, name: str, columns: Mapping[str, str]) -> LabelledCrystals:
    """Read a matbench task: gzipped JSON of a data frame, structures as pymatgen dictionaries.

    Ids are the row numbers from 1, as matbench spells them (``mb-jdft2d-001``).
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            frame = json.load(file)
        header = frame["columns"]
        place = header.index("structure")
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not a matbench task with structures: {error}.") from error
    collector = Collector(name)
    width = len(str(len(frame["data"])))
    task = name.removeprefix("matbench_").replace("_", "-")
    for row, cells in enumerate(frame["data"], 1):
        values = renamed(dict(zip(header, cells, strict=True)), columns)
        collector.add(row, f"mb-{task}-{row:0{width}d}", from_pymatgen, cells[place], values)
    return collector.table()


def parse_jarvis(path: Path, name: str, columns: Mapping[str, str]) -> LabelledCrystals:
    """Read a JARVIS set: a zip with one JSON list of records."""
    try:
        with zipfile.ZipFile(path) as bundle:
            inside = next(item for item in bundle.namelist() if item.endswith(".json"))
            records = json.loads(bundle.read(inside))
    except (OSError, StopIteration, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a zip with a JARVIS JSON list: {error}.") from error
    collector = Collector(name)
    for row, record in enumerate(records, 1):
        values = renamed(record, columns)
        label = str(record.get("jid", row))
        collector.add(row, label, from_jarvis, record.get("atoms"), values)
    return collector.table()


def parse_cif_csv(
    paths: Mapping[str, Path], name: str, columns: Mapping[str, str]
) -> LabelledCrystals:
    """Read CSV files with a ``cif`` column, one file per part of a published split.

    Args:
        paths: File of each part; the part becomes the text column ``split``.
        name: Of the data set.
        columns: Their numeric columns and our names.
    """
    # CIF text inside a cell can be longer than the default limit of 128 kB.
    csv.field_size_limit(2**31 - 1)
    results, parts = [], []
    for part, path in paths.items():
        collector = Collector(f"{name}/{part}")
        with path.open(encoding="utf-8", newline="") as file:
            for row, record in enumerate(csv.DictReader(file), 1):
                if "cif" not in record:
                    raise DataError(f"{path} has no column 'cif', only: {', '.join(record)}.")
                label = record.get("material_id") or f"{part}-{row}"
                collector.add(row, label, from_cif, record["cif"], renamed(record, columns))
        results.append(collector.result())
        parts += [part] * len(results[-1].crystals)
    return _table(name, results, {"split": tuple(parts)})


def parse_summaries(
    documents: Iterable[Mapping[str, Any]], name: str, columns: Mapping[str, str]
) -> LabelledCrystals:
    """Read summary documents of the Materials Project."""
    collector = Collector(name)
    for row, document in enumerate(documents, 1):
        label = str(document.get("material_id", row))
        values = renamed(document, columns)
        collector.add(row, label, from_pymatgen, document.get("structure"), values)
    return collector.table()


def parse_optimade(entries: Iterable[Mapping[str, Any]], name: str) -> LabelledCrystals:
    """Read OPTIMADE structure entries; numbers in provider fields (``_mp_…``) become columns."""
    collector = Collector(name)
    for row, entry in enumerate(entries, 1):
        attributes = entry["attributes"]
        values = {
            key: float(value)
            for key, value in attributes.items()
            if key.startswith("_") and isinstance(value, int | float)
        }
        collector.add(row, str(entry["id"]), from_optimade, attributes, values)
    return collector.table()


def _lattice(rows: Any) -> np.ndarray:  # noqa: ANN401
    lattice = np.array(rows, dtype=np.float64)
    if lattice.shape != (3, 3):
        raise DataError("the lattice is missing or incomplete")
    return lattice


def _number(symbol: str) -> int:
    """Return Z; tolerates oxidation states (``Fe3+``) and isotopes (``D``)."""
    found = _SYMBOL.match(symbol.strip())
    plain = found.group() if found else symbol
    return number(_ISOTOPES.get(plain, plain))
