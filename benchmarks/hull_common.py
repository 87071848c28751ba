"""What the scripts that build the hull and the known index share: reading the given crystals."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MATMILL_DATA", ROOT.parent / "shared" / "data"))
WORK = Path(os.environ.get("MATMILL_HULL_WORK", ROOT / ".scratch" / "hull"))
STRUCTURE_COLUMNS = ["material_id", "atomic_numbers", "frac_coords", "lattice", "n_atoms"]


@dataclass(frozen=True)
class Crystals:
    """Crystals with the file that each came from."""

    batch: CrystalBatch
    source: list[str]


def read_structures(path: Path, **read_options: object) -> CrystalBatch:
    """Return all crystals of one of the given Parquet files, ids as in the file."""
    table = pq.read_table(path, columns=STRUCTURE_COLUMNS, **read_options)  # type: ignore[arg-type]
    return table_to_batch(table)


def table_to_batch(table: pa.Table) -> CrystalBatch:
    """Return the crystals of a table in the given files' layout, without a Python loop."""

    def flat(name: str) -> np.ndarray:
        column = table[name].combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False)

    return CrystalBatch(
        lattice=torch.from_numpy(flat("lattice").astype(np.float64).reshape(-1, 3, 3)),
        frac_coords=torch.from_numpy(flat("frac_coords").astype(np.float64).reshape(-1, 3)),
        atomic_numbers=torch.from_numpy(flat("atomic_numbers").astype(np.int64)),
        n_atoms=torch.from_numpy(table["n_atoms"].to_numpy().astype(np.int64)),
        ids=tuple(table["material_id"].to_pylist()),
    )


def reduced_formulas(batch: CrystalBatch) -> np.ndarray:
    """Return the atoms of each element in each reduced formula, ``(n_crystals, 119)``."""
    counts = element_counts(batch).numpy().astype(np.int32)
    return counts // np.gcd.reduce(counts, axis=1)[:, None]


def write_atomic(table: pa.Table, path: Path, **options: object) -> None:
    """Write a Parquet file so that a kill never leaves half of it behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd", **options)  # type: ignore[arg-type]
    partial.replace(path)
