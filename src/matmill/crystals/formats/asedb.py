"""ASE databases (SQLite or JSON), through ASE itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_atoms
from matmill.crystals.records import Complaint, Record

_NAME_KEYS = ("material_id", "name", "uid")
_SAFE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")


def read(path: Path) -> Iterator[Record | Complaint]:
    """Yield a record or a complaint for every row; key-value pairs become properties."""
    from ase.db import connect

    database: Any = connect(path)
    with database:
        for row in database.select():
            if not all(row.pbc):
                reason = "the atoms are not periodic in three dimensions"
                yield Complaint(str(path), row.id, reason, "Set a cell and pbc=True.")
                continue
            cell = np.array(row.cell, dtype=float)
            if not abs(np.linalg.det(cell)) > 1e-12:
                yield Complaint(str(path), row.id, "the cell is flat", "Set three lattice vectors.")
                continue
            pairs = {**row.get("data", {}).get("properties", {}), **row.key_value_pairs}
            name = next((str(pairs[key]) for key in _NAME_KEYS if key in pairs), None)
            yield Record(
                row=row.id,
                lattice=cell,
                frac_coords=np.asarray(row.positions) @ np.linalg.inv(cell),
                numbers=np.asarray(row.numbers),
                name=name,
                values={
                    key: float(value)
                    for key, value in pairs.items()
                    if isinstance(value, int | float | np.number) and key not in _NAME_KEYS
                },
            )


def write(batch: CrystalBatch, path: Path) -> None:
    """Write all crystals as rows of a new database at ``path``."""
    from ase.db import connect
    from ase.db.core import check

    path.unlink(missing_ok=True)
    database: Any = connect(path, type="db", append=False)
    with database:
        for i in range(len(batch)):
            atoms = to_atoms(batch, i)
            values = {key: value for key, value in atoms.info.items() if key != "id"}
            pairs: dict[str, object] = {}
            for key, value in values.items():
                try:
                    check({key: value})
                except (ValueError, KeyError):
                    continue  # ASE refuses names that look like its own; `data` keeps them
                if _SAFE_KEY.match(key):
                    pairs[key] = value
            if batch.ids and not batch.ids[i].replace(".", "").isdigit():
                pairs["material_id"] = batch.ids[i]
            rest = {key: value for key, value in values.items() if key not in pairs}
            data = {"properties": rest}
            if batch.ids:
                data["properties"] = {**rest, "material_id": batch.ids[i]}
            atoms.info = {}
            database.write(atoms, key_value_pairs=pairs, data=data)
