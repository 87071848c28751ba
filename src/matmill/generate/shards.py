"""Training sets larger than memory: Parquet once turned into reduced arrays that are mapped in.

Each file is read in chunks, cells are reduced, and the rows go to one array per number of atoms
and column. Statistics are gathered on the way. What stays in memory during training is one order
of the rows (eight bytes a crystal); the arrays are mapped, so the system keeps of them what fits.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density
from matmill.crystals.formats import parquet
from matmill.errors import DataError, InputError
from matmill.generate.conditions import SCALARS, Conditions, ScalarSchema, crystal_system_of
from matmill.generate.dataset import SizedBatches, TrainingBatch, usable
from matmill.generate.state import N_ELEMENTS, DenseCrystals, LatticeScale
from matmill.generate.train import schema_of, vars_of
from matmill.progress import Event, OnEvent, ignore
from matmill.training.checkpoint import write_atomically

_FORMAT = 1
_MANIFEST = "manifest.json"
_ROWS_AT_ONCE = 20_000
_HEADER_BYTES = 128
_QUANTILE_ROWS = 4_000_000  # more say nothing new about two percentiles
_COLUMNS = ("z", "f", "k", "scalars", "space_group")


class ShardedSet(SizedBatches):
    """Crystals in mapped arrays, served exactly as `TrainingSet` serves those in memory.

    Args:
        folder: What `convert` made.
        scale: Lattice scale; the one measured on these crystals when None.
        n_tokens: Tokens (atoms + 1) a batch.

    Raises:
        DataError: If the folder is damaged or was made by another version.
    """

    def __init__(
        self, folder: Path, *, scale: LatticeScale | None = None, n_tokens: int = 1660
    ) -> None:
        try:
            about = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no converted crystals: {error}.") from error
        if about["format"] != _FORMAT or about["scalars"] != list(SCALARS):
            raise DataError(f"{folder} was made by another matmill. Remove it to make it anew.")
        double = torch.float64
        self.scale = scale or LatticeScale(
            mean=torch.tensor(about["mean"], dtype=double),
            std=torch.tensor(about["std"], dtype=double),
        )
        self.n_tokens = n_tokens
        self.counts = {int(n): count for n, count in about["counts"].items()}
        self.schema = {name: schema_of(values) for name, values in about["schema"].items()}
        self.shapes = torch.tensor([shape[:2] for shape in about["shapes"]])
        self.shape_counts = torch.tensor([shape[2] for shape in about["shapes"]])
        self.elements = torch.tensor(about["elements"])
        self.facts: dict[str, Any] = about["facts"]
        self._arrays = {
            n: {name: _mapped(_array_path(folder, n, name)) for name in _COLUMNS}
            for n in self.counts
        }

    @classmethod
    def of_parquet(
        cls,
        folder: Path,
        *,
        cache: Path,
        max_atoms: int,
        split: str | None = None,
        scale: LatticeScale | None = None,
        n_tokens: int = 1660,
        on_event: OnEvent = ignore,
    ) -> "ShardedSet":
        """Open the Parquet files of a folder, converting them where that was not done before.

        Args:
            folder: Its ``*.parquet`` files are the crystals.
            cache: Where converted crystals are kept, by content of the files.
            max_atoms: Largest primitive cell to use.
            split: Use only rows whose ``split`` column says this; ignored where there is none.
            scale: See the class.
            n_tokens: See the class.
            on_event: Told how many rows are converted.

        Raises:
            InputError: If the folder has no Parquet file.
            DataError: If a file is broken or nothing is left to train on.
        """
        files = sorted(Path(folder).glob("*.parquet"))
        if not files:
            raise InputError(f"{folder} has no Parquet file.")
        key = _content_key(files, max_atoms, split)
        ready = cache / key
        if not (ready / _MANIFEST).exists():
            cache.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=cache, prefix=f".{key}."))
            try:
                convert(files, part, max_atoms=max_atoms, split=split, on_event=on_event)
                os.replace(part, ready)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return cls(ready, scale=scale, n_tokens=n_tokens)

    def rows(self, n: int, index: Int[Tensor, " b"]) -> TrainingBatch:
        """Return crystals of one size by their positions among those of that size."""
        places = index.numpy()
        columns = {
            name: torch.from_numpy(values[places]) for name, values in self._arrays[n].items()
        }
        z = columns["z"].long()
        elements = torch.zeros(len(z), N_ELEMENTS + 1).scatter_(1, z, 1.0)
        group = columns["space_group"].long()
        conditions = replace(
            Conditions.none(len(z)),
            scalars=columns["scalars"],
            elements=elements,
            is_exact=torch.ones(len(z), dtype=torch.bool),
            space_group=group,
            crystal_system=crystal_system_of(group),
        )
        y = ((columns["k"] - self.scale.mean) / self.scale.std).float()
        return TrainingBatch(
            crystals=DenseCrystals(z=z, f=columns["f"], y=y), conditions=conditions
        )


def convert(
    files: Sequence[Path],
    folder: Path,
    *,
    max_atoms: int,
    split: str | None = None,
    on_event: OnEvent = ignore,
) -> None:
    """Turn Parquet files into arrays by number of atoms, with their statistics.

    Args:
        files: Tables of crystals, of any length.
        folder: An empty folder to write to.
        max_atoms: Largest primitive cell to use.
        split: Use only rows whose ``split`` column says this; ignored where there is none.
        on_event: Told how many rows are converted.

    Raises:
        DataError: If a file is broken or nothing is left to train on.
    """
    writer = _Writer(folder)
    given = used = 0
    total = sum(_opened(file).metadata.num_rows for file in files)
    for n_read, batch in _chunks(files, split):
        given += len(batch)
        try:
            batch = usable(batch, max_atoms=max_atoms)
        except DataError:  # nothing of this chunk; the others may have something
            batch = CrystalBatch.empty()
        if len(batch):
            writer.add(batch)
        used += len(batch)
        on_event(Event(stage="convert", done=n_read, total=total, message="", values={}))
    if not used:
        raise DataError(
            f"None of {given} crystals of {files[0].parent} can be trained on: at most {max_atoms} "
            f"atoms, no noble gases, a cell that can be reduced, split '{split}'."
        )
    names = {file.name: int(_opened(file).metadata.num_rows) for file in files}
    facts = {
        "name": "flow",
        "sources": names,
        "data": {"crystals_given": given, "crystals_used": used},
    }
    writer.finish(facts)


class _Writer:
    """Appends rows to arrays by size and column, and sums up what they hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[tuple[int, str], BinaryIO] = {}
        self.counts: dict[int, int] = {}
        self.shapes = np.zeros((0, 231), dtype=np.int64)
        self.elements = np.zeros(N_ELEMENTS + 1, dtype=bool)
        self.total, self.shift = 0, torch.zeros(6, dtype=torch.float64)
        self.sum, self.squares = self.shift.clone(), self.shift.clone()

    def add(self, batch: CrystalBatch) -> None:
        """Append reduced crystals."""
        group = _space_groups(batch)
        if "density_g_cm3" not in batch.properties:
            batch = batch.with_properties(density_g_cm3=density(batch))
        unit = LatticeScale(mean=torch.zeros(6).double(), std=torch.ones(6).double())
        k = unit.encode(batch.lattice, batch.n_atoms)
        if not self.total:
            self.shift = k.mean(0)  # sums of small numbers keep their digits
        self.sum += (k - self.shift).sum(0)
        self.squares += (k - self.shift).square().sum(0)
        self.total += len(batch)
        self.elements[batch.atomic_numbers.unique().numpy()] = True
        scalars = Conditions.of(batch, group).scalars
        for n in torch.unique(batch.n_atoms).tolist():
            index = torch.nonzero(batch.n_atoms == n).flatten()
            atoms = batch.offsets[index][:, None] + torch.arange(n)
            self._append(n, "z", batch.atomic_numbers[atoms].numpy().astype("u1"))
            self._append(n, "f", batch.frac_coords[atoms].numpy().astype("<f4"))
            self._append(n, "k", k[index].numpy().astype("<f8"))
            self._append(n, "scalars", scalars[index].numpy().astype("<f4"))
            self._append(n, "space_group", group[index].numpy().astype("u1"))
            self.counts[n] = self.counts.get(n, 0) + len(index)
            if len(self.shapes) <= n:
                self.shapes = np.pad(self.shapes, ((0, n + 1 - len(self.shapes)), (0, 0)))
            self.shapes[n] += np.bincount(group[index].numpy(), minlength=231)

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the headers of the arrays and the manifest."""
        for (n, name), file in self.files.items():
            _write_header(file, n, name, self.counts[n])
            file.close()
        self.counts = dict(sorted(self.counts.items()))
        mean = self.sum / self.total
        spread = (self.squares - self.total * mean.square()).clamp_min(0.0)
        shapes = np.argwhere(self.shapes > 0)
        counted = np.concatenate([shapes, self.shapes[tuple(shapes.T)][:, None]], axis=1)
        manifest = {
            "format": _FORMAT,
            "scalars": list(SCALARS),
            "counts": self.counts,
            "mean": (mean + self.shift).tolist(),
            "std": (spread / max(self.total - 1, 1)).sqrt().clamp_min(1e-3).tolist(),
            "schema": {name: self._schema(name, i) for i, name in enumerate(SCALARS)},
            "shapes": counted.tolist(),
            "elements": np.nonzero(self.elements)[0].tolist(),
            "facts": facts,
        }
        write_atomically(self.folder / _MANIFEST, (json.dumps(manifest) + "\n").encode())

    def _append(self, n: int, name: str, values: np.ndarray) -> None:
        if (n, name) not in self.files:
            self.files[n, name] = _array_path(self.folder, n, name).open("wb")
            self.files[n, name].write(b"\0" * _HEADER_BYTES)
        self.files[n, name].write(np.ascontiguousarray(values).tobytes())

    def _schema(self, name: str, i: int) -> dict[str, float | int | None]:
        parts = [_mapped(_array_path(self.folder, n, "scalars"))[:, i] for n in self.counts]
        step = -(-self.total // _QUANTILE_ROWS)
        values = torch.from_numpy(np.concatenate([part[::step] for part in parts]))
        count = sum(int(np.isfinite(part).sum()) for part in parts)
        return vars_of(ScalarSchema.fit(name, values)) | {"count": count}


def _chunks(files: Sequence[Path], split: str | None) -> Iterator[tuple[int, CrystalBatch]]:
    """Yield (rows read so far, crystals) of all files, a bounded number at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    n_read = 0
    for file in files:
        for part in _opened(file).iter_batches(batch_size=_ROWS_AT_ONCE):
            n_read += len(part)
            table = pa.Table.from_batches([part])
            if split is not None and "split" in table.column_names:
                wanted = pc.call_function("equal", [table["split"], pa.scalar(split)])
                table = table.filter(wanted)
            if len(table):
                yield n_read, parquet.from_arrow(table, file=str(file)).crystals


def _opened(file: Path) -> Any:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is no readable Parquet file: {error}.") from error


def _space_groups(batch: CrystalBatch) -> Int[Tensor, " n"]:
    if "spacegroup" in batch.properties:
        return batch.properties["spacegroup"].nan_to_num(0.0).long()
    return symmetry.find(batch, symprec=0.1).number


def _array_path(folder: Path, n: int, name: str) -> Path:
    return folder / f"{n:03d}-{name}.npy"


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged: {error}. Remove its folder.") from error


def _write_header(file: BinaryIO, n: int, name: str, count: int) -> None:
    kinds = {"z": "|u1", "f": "<f4", "k": "<f8", "scalars": "<f4", "space_group": "|u1"}
    rows = {"z": (n,), "f": (n, 3), "k": (6,), "scalars": (len(SCALARS),), "space_group": ()}
    header = {"descr": kinds[name], "fortran_order": False, "shape": (count, *rows[name])}
    text = repr(header).encode("latin1")
    # NumPy's format 1.0: magic, version, length of the text, the text padded to a line.
    padded = text + b" " * (_HEADER_BYTES - 10 - len(text) - 1) + b"\n"
    file.seek(0)
    file.write(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded)


def _content_key(files: Sequence[Path], max_atoms: int, split: str | None) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, max_atoms, split, list(SCALARS)]).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(path.name.encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]
