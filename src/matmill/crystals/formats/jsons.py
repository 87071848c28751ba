"""JSON: pymatgen structures and OPTIMADE entries, as one document or as lines.

Read are: one structure, a list of them, a mapping of ids to them, ``{"structures": [...]}``,
entries that carry a ``structure``, OPTIMADE responses and OPTIMADE entries. In ``.jsonl`` every
line is one of these.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import anonymous_formulas, chemical_systems, reduced_formulas
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.records import BrokenEntryError, Complaint, Record

_ID_KEYS = ("material_id", "entry_id", "id")
_REMEDY = "Write it with pymatgen (Structure.as_dict) or get it from an OPTIMADE source."


def read(path: Path) -> Iterator[Record | Complaint]:
    """Yield a record or a complaint for every structure of a JSON document."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        yield Complaint(str(path), 1, f"this is no JSON ({error})", _REMEDY)
        return
    yield from _records(str(path), enumerate(_entries(document), start=1))


def read_lines(path: Path) -> Iterator[Record | Complaint]:
    """Yield a record or a complaint for every line that holds a structure."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except json.JSONDecodeError as error:
                yield Complaint(str(path), row, f"the line is no JSON ({error})", _REMEDY)
                continue
            if isinstance(document, dict) and "x-optimade" in document:
                continue  # the header line of OPTIMADE JSON lines
            yield from _records(str(path), ((row, entry) for entry in _entries(document)))


def from_optimade(entries: Iterable[dict[str, Any]], source: str) -> Iterator[Record | Complaint]:
    """Yield a record or a complaint for every entry of an OPTIMADE ``data`` list."""
    return _records(source, enumerate(((None, entry) for entry in entries), start=1))


def write(batch: CrystalBatch) -> str:
    """Return pymatgen's JSON: one structure, or a list of them."""
    structures = [structure_dict(batch, i) for i in range(len(batch))]
    return json.dumps(structures[0] if len(structures) == 1 else structures)


def write_lines(batch: CrystalBatch) -> str:
    """Return pymatgen's JSON, one structure a line."""
    return "".join(json.dumps(structure_dict(batch, i)) + "\n" for i in range(len(batch)))


def write_optimade(batch: CrystalBatch) -> str:
    """Return an OPTIMADE response with all crystals."""
    data = optimade_entries(batch)
    meta = {
        "api_version": "1.2.0",
        "data_returned": len(data),
        "data_available": len(data),
        "more_data_available": False,
    }
    return json.dumps({"data": data, "meta": meta})


def write_optimade_lines(batch: CrystalBatch) -> str:
    """Return OPTIMADE JSON lines: a header, then one entry a line."""
    header = {"x-optimade": {"meta": {"api_version": "1.2.0"}}}
    return "".join(json.dumps(line) + "\n" for line in [header, *optimade_entries(batch)])


def structure_dict(batch: CrystalBatch, i: int) -> dict[str, Any]:
    """Return crystal ``i`` as pymatgen's ``Structure.as_dict()`` has it."""
    rows = batch.atoms_of(i)
    symbols = [SYMBOLS[z] for z in batch.atomic_numbers[rows].tolist()]
    properties: dict[str, Any] = _values(batch, i)
    if batch.ids:
        properties["id"] = batch.ids[i]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {"matrix": batch.lattice[i].double().tolist(), "pbc": [True, True, True]},
        "properties": properties,
        "sites": [
            {"species": [{"element": s, "occu": 1}], "abc": frac, "properties": {}, "label": s}
            for s, frac in zip(symbols, batch.frac_coords[rows].double().tolist(), strict=True)
        ],
    }


def optimade_entries(batch: CrystalBatch) -> list[dict[str, Any]]:
    """Return one OPTIMADE ``structures`` entry per crystal; properties get the prefix _matmill_."""
    anonymous, systems = anonymous_formulas(batch), chemical_systems(batch)
    entries = []
    for i, formula in enumerate(reduced_formulas(batch)):
        rows = batch.atoms_of(i)
        symbols = [SYMBOLS[z] for z in batch.atomic_numbers[rows].tolist()]
        elements = systems[i].split("-")
        attributes = {
            "elements": elements,
            "nelements": len(elements),
            "elements_ratios": [symbols.count(e) / len(symbols) for e in elements],
            "chemical_formula_reduced": _alphabetical(symbols),
            "chemical_formula_descriptive": formula,
            "chemical_formula_anonymous": anonymous[i],
            "dimension_types": [1, 1, 1],
            "nperiodic_dimensions": 3,
            "lattice_vectors": batch.lattice[i].double().tolist(),
            "cartesian_site_positions": batch.cart_coords[rows].double().tolist(),
            "nsites": len(symbols),
            "species": [
                {"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in elements
            ],
            "species_at_sites": symbols,
            "structure_features": [],
            **{f"_matmill_{name}": value for name, value in _values(batch, i).items()},
        }
        name = batch.ids[i] if batch.ids else f"{formula}-{i + 1}"
        entries.append({"id": name, "type": "structures", "attributes": attributes})
    return entries


def _values(batch: CrystalBatch, i: int) -> dict[str, float]:
    values = {name: float(column[i]) for name, column in batch.properties.items()}
    return {name: value for name, value in values.items() if value == value}


def _alphabetical(symbols: list[str]) -> str:
    counts = {symbol: symbols.count(symbol) for symbol in sorted(set(symbols))}
    divisor = int(np.gcd.reduce(list(counts.values())))
    return "".join(f"{s}{n // divisor if n > divisor else ''}" for s, n in counts.items())


def _entries(document: Any) -> Iterator[tuple[str | None, Any]]:  # noqa: ANN401
    """Yield (name, structure or entry) of every document that we know."""
    if isinstance(document, list):
        yield from ((None, entry) for entry in document)
    elif not isinstance(document, dict):
        yield None, document
    elif "data" in document and "lattice" not in document:
        data = document["data"]
        yield from ((None, entry) for entry in (data if isinstance(data, list) else [data]))
    elif "structures" in document:
        yield from _entries(document["structures"])
    elif _is_structure(document):
        yield None, document
    elif any(isinstance(value, dict) and _is_structure(value) for value in document.values()):
        yield from document.items()
    else:
        yield None, document


def _is_structure(entry: dict[str, Any]) -> bool:
    return any(key in entry for key in ("lattice", "attributes", "structure", "@class"))


def _records(
    file: str, entries: Iterable[tuple[int, tuple[str | None, Any]]]
) -> Iterator[Record | Complaint]:
    for row, (name, entry) in entries:
        try:
            yield _record(entry, row, name)
        except BrokenEntryError as error:
            yield Complaint(file, row, error.reason, error.remedy)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"the structure lacks a part or has a wrong type ({error!r})"
            yield Complaint(file, row, reason, _REMEDY)


def _record(entry: Any, row: int, name: str | None) -> Record:  # noqa: ANN401
    if not isinstance(entry, dict):
        raise BrokenEntryError(f"a structure is expected, not {type(entry).__name__}", _REMEDY)
    if "attributes" in entry:
        return _optimade_record(entry, row)
    outer = entry
    entry = entry.get("structure", entry)
    if "lattice" not in entry or "sites" not in entry:
        raise BrokenEntryError("it has no lattice and sites", _REMEDY)
    lattice = np.array(entry["lattice"]["matrix"], dtype=float).reshape(3, 3)
    numbers, frac = [], []
    for k, site in enumerate(entry["sites"], start=1):
        species = site["species"]
        if len(species) != 1 or abs(species[0].get("occu", 1) - 1) > 1e-3:
            raise BrokenEntryError(
                f"site {k} has partial occupancy", "Order the structure first, matmill needs it."
            )
        numbers.append(_atomic_number(species[0]["element"]))
        frac.append(site["abc"])
    notes = {**(entry.get("properties") or {})}
    notes |= {key: value for key, value in outer.items() if key != "structure"}
    name = name or next((str(notes[key]) for key in _ID_KEYS if notes.get(key)), None)
    return Record(
        row=row,
        lattice=lattice,
        frac_coords=np.array(frac, dtype=float).reshape(len(numbers), 3),
        numbers=np.array(numbers),
        name=name,
        values=_numbers(notes, skip=("charge",)),
    )


def _optimade_record(entry: dict[str, Any], row: int) -> Record:
    attributes = entry["attributes"]
    lattice = attributes.get("lattice_vectors")
    positions = attributes.get("cartesian_site_positions")
    sites = attributes.get("species_at_sites")
    if lattice is None or positions is None or sites is None:
        raise BrokenEntryError(
            "the entry has no lattice_vectors, cartesian_site_positions or species_at_sites",
            "Ask the source for these response_fields.",
        )
    symbols = {}
    for kind in attributes.get("species") or []:
        if len(kind["chemical_symbols"]) != 1 or abs(kind["concentration"][0] - 1) > 1e-3:
            raise BrokenEntryError(
                f"species {kind['name']} is mixed or partly vacant", "Order the structure first."
            )
        symbols[kind["name"]] = kind["chemical_symbols"][0]
    matrix = np.array(lattice, dtype=float).reshape(3, 3)
    if not abs(np.linalg.det(matrix)) > 1e-12:
        raise BrokenEntryError("the cell is flat or not finite", "matmill reads 3D crystals only.")
    values = _numbers(attributes, skip=("nelements", "nsites", "nperiodic_dimensions"))
    return Record(
        row=row,
        lattice=matrix,
        frac_coords=np.array(positions, dtype=float).reshape(-1, 3) @ np.linalg.inv(matrix),
        numbers=np.array([_atomic_number(symbols.get(site, site)) for site in sites]),
        name=str(entry["id"]) if "id" in entry else None,
        values={name.removeprefix("_matmill_"): value for name, value in values.items()},
    )


def _numbers(notes: dict[str, Any], skip: tuple[str, ...]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in notes.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in skip
        and name not in _ID_KEYS
        and not name.startswith("@")
    }


def _atomic_number(symbol: str) -> int:
    if symbol in SYMBOLS[1:]:
        return SYMBOLS.index(symbol)
    raise BrokenEntryError(f"'{symbol}' is no element", "Use chemical symbols.")
