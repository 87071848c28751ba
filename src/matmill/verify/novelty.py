"""Which crystals are the same, and which are known already.

Two crystals are the same when `matching` says so, with pymatgen's verdicts. The index that ships
has no structures, only the formula and a fingerprint of the geometry of each known crystal: enough
to find what a crystal may be ("likely"). Where structures are at hand the matcher decides
("confirmed"); `structure_index` is for large sets of structures.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import table
from matmill.crystals.fingerprint import amd
from matmill.crystals.matching import Matcher, MatchTolerance
from matmill.errors import DataError

ASSET = "known.parquet"
STRUCTURE_FILES = ("mp_union.parquet", "mp_20.parquet", "novelty_reference.parquet")

# Ties in electronegativity are broken by the atomic number, so "the least" is one element.
_ELECTRONEGATIVITY = table("electronegativity").nan_to_num(nan=0.0) + 1e-6 * torch.arange(119)

Known = tuple[str, bool] | None
"""Id of a known crystal and whether the matcher confirmed it; None for a new crystal."""


def first_of_each(batch: CrystalBatch, tolerance: MatchTolerance | None = None) -> list[int]:
    """Return, for each crystal, the position of the first one that is the same crystal.

    A crystal is unique so far when its own position comes back. Formulas are compared first, then
    the matcher decides.
    """
    first = list(range(len(batch)))
    for group in Matcher(batch, tolerance).groups():
        for member in group:
            first[member] = group[0]
    return first


@dataclass(frozen=True)
class KnownIndex:
    """Known crystals by formula, with a fingerprint of each.

    Attributes:
        name: What is in it.
        hash: Content hash of the file.
        keys: 64-bit hash of the reduced formula, ascending, ``(n_known,)``.
        ids: Id of each crystal in its database.
        prints: Fingerprints as `fingerprint` makes them, ``(n_known, 3 k)``.
        likely: Fingerprints closer than this are likely the same crystal.
        never: Fingerprints farther apart than this were never the same crystal.
        structures: Files with the structures; those that exist are used to confirm.
    """

    name: str
    hash: str
    keys: np.ndarray
    ids: list[str]
    prints: np.ndarray
    likely: float
    never: float
    structures: tuple[Path, ...] = ()

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, structures: Sequence[str | Path] | None = None
    ) -> "KnownIndex":
        """Read an index; without a path the one that ships.

        Args:
            path: A file that `known_table` made.
            structures: Parquet files with the structures of known crystals. By default those in
                the folder that the environment variable ``MATMILL_DATA`` names, if it is set.

        Raises:
            DataError: If the file is missing or is no index.
        """
        source = Path(str(files("matmill").joinpath("assets", ASSET))) if path is None else path
        source = Path(source)
        try:
            content = source.read_bytes()
            table = pq.read_table(pa.BufferReader(content))
            about = json.loads((table.schema.metadata or {})[b"matmill"])
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise DataError(f"{source} is no index of known crystals: {error}.") from error
        if structures is None:
            folder = os.environ.get("MATMILL_DATA")
            structures = [Path(folder) / name for name in STRUCTURE_FILES] if folder else []
        columns = [name for name in table.column_names if name.startswith("print_")]
        return cls(
            name=str(about["name"]),
            hash=hashlib.sha256(content).hexdigest()[:16],
            keys=table["formula_key"].to_numpy().astype(np.uint64),
            ids=table["material_id"].to_pylist(),
            prints=np.stack([table[name].to_numpy() for name in columns], axis=1),
            likely=float(about["likely"]),
            never=float(about["never"]),
            structures=tuple(p for p in map(Path, structures) if p.exists()),
        )

    def rows(self, key: int) -> range:
        """Return the crystals with this formula key."""
        wanted = np.uint64(key)
        start = int(np.searchsorted(self.keys, wanted, side="left"))
        return range(start, int(np.searchsorted(self.keys, wanted, side="right")))

    def read_structures(self, ids: Sequence[str]) -> CrystalBatch:
        """Return the structures of these known crystals, as far as they are at hand."""
        columns = ["material_id", "atomic_numbers", "frac_coords", "lattice"]
        wanted, found = set(ids), []
        for path in self.structures:
            rule = [("material_id", "in", sorted(wanted))]
            rows = pq.read_table(path, columns=columns, filters=rule).to_pylist() if wanted else []
            found += rows
            wanted -= {row["material_id"] for row in rows}
        return CrystalBatch.from_lists(
            [np.reshape(row["lattice"], (3, 3)).tolist() for row in found],
            [np.reshape(row["frac_coords"], (-1, 3)).tolist() for row in found],
            [row["atomic_numbers"] for row in found],
            ids=[row["material_id"] for row in found],
        )


def find_known(
    batch: CrystalBatch, reference: KnownIndex, *, tolerance: MatchTolerance | None = None
) -> list[Known]:
    """Say of each crystal which known one it is.

    Crystals of the same formula are tried in the order of their fingerprints. With structures at
    hand the matcher confirms or refuses each; a known crystal whose structure is not at hand
    counts as likely when its fingerprint is close.

    Args:
        batch: The crystals, relaxed or not; the matcher scales volumes away, and so does the
            fingerprint.
        reference: The index.
        tolerance: Of the matcher.
    """
    prints = fingerprint(batch, reference.prints.shape[1] // 3).numpy()
    near: list[list[tuple[float, int]]] = []
    for i, formula in enumerate(batch.formula):
        rows = reference.rows(formula_key(formula))
        known = reference.prints[rows.start : rows.stop].astype(np.float32)
        distances = np.abs(known - prints[i]).max(1, initial=0.0)
        close = sorted(zip(distances.tolist(), rows, strict=True))
        near.append([(d, row) for d, row in close if d <= reference.never])
    wanted = sorted({reference.ids[row] for close in near for _, row in close})
    at_hand = reference.read_structures(wanted) if reference.structures else CrystalBatch.empty()
    place = {key: i for i, key in enumerate(at_hand.ids)}
    mine, theirs = Matcher(batch, tolerance), Matcher(at_hand, tolerance)
    theirs.reduced(range(len(at_hand)))
    mine.reduced(
        i for i, close in enumerate(near) if any(reference.ids[r] in place for _, r in close)
    )

    def match(i: int) -> Known:
        for distance, row in near[i]:
            key = reference.ids[row]
            if key in place:
                if mine.same(i, place[key], other=theirs):
                    return key, True
            elif distance <= reference.likely:
                return key, False
        return None

    return [match(i) for i in range(len(batch))]


def fingerprint(batch: CrystalBatch, k: int) -> Float[Tensor, "n_crystals three_k"]:
    """Return average minimum distances in units of (volume / atom)^(1/3).

    k of all atoms, then k among the atoms of the least, then of the most electronegative element:
    which element sits where matters, and most crystals of one formula differ in just that. So
    scaled they ignore volume, as the matcher does.

    Args:
        batch: Any number of crystals.
        k: Distances of each of the three kinds.
    """
    if not len(batch):
        return torch.zeros(0, 3 * k)
    length = (batch.volume / batch.n_atoms) ** (1.0 / 3.0)
    rank = _ELECTRONEGATIVITY[batch.atomic_numbers]
    owner, start = batch.crystal_index, torch.full((len(batch),), torch.inf, dtype=torch.float64)
    lowest = start.scatter_reduce(0, owner, rank, "amin")
    highest = (-start).scatter_reduce(0, owner, rank, "amax")
    kinds = [batch, _only(batch, rank == lowest[owner]), _only(batch, rank == highest[owner])]
    return torch.cat([amd(kind, k) for kind in kinds], dim=1) / length.float()[:, None]


def _only(batch: CrystalBatch, atoms: Tensor) -> CrystalBatch:
    """Return the crystals with these atoms alone; every crystal must keep one."""
    n_atoms = torch.zeros(len(batch), dtype=torch.int64)
    return CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords[atoms],
        atomic_numbers=batch.atomic_numbers[atoms],
        n_atoms=n_atoms.index_add(0, batch.crystal_index, atoms.long()),
    )


def formula_key(formula: str) -> int:
    """Return the 64-bit key of a reduced formula as `CrystalBatch.formula` writes it."""
    return int.from_bytes(hashlib.sha256(formula.encode()).digest()[:8], "little")


def known_table(
    batch: CrystalBatch,
    prints: np.ndarray,
    columns: dict[str, np.ndarray],
    about: dict[str, object],
) -> pa.Table:
    """Return an index as a table that `KnownIndex.load` reads.

    Args:
        batch: The known crystals, with ids.
        prints: Their fingerprints.
        columns: Further facts of each crystal, for people.
        about: Must have ``name``, ``likely`` and ``never``.
    """
    keys = np.array([formula_key(formula) for formula in batch.formula], dtype=np.uint64)
    order = np.lexsort((np.array(batch.ids), keys))
    half = prints[order].astype(np.float16)
    data: dict[str, object] = {
        "formula_key": keys[order],
        "material_id": [batch.ids[i] for i in order],
        "n_atoms": batch.n_atoms.numpy()[order].astype(np.int16),
        **{name: values[order] for name, values in columns.items()},
        **{f"print_{j:02d}": half[:, j] for j in range(half.shape[1])},
    }
    return pa.table(data).replace_schema_metadata({"matmill": json.dumps(about)})
