"""Read and write crystals in every common format. Broken entries are skipped and reported.

| suffix | format |
|---|---|
| ``.cif`` | CIF, any number of blocks |
| ``POSCAR*``, ``CONTCAR*``, ``.vasp``, ``.poscar`` | VASP, one crystal a file |
| ``.extxyz``, ``.xyz`` | extended XYZ with a cell |
| ``.json``, ``.jsonl`` | pymatgen structures or OPTIMADE entries |
| ``.optimade.json``, ``.optimade.jsonl`` | the same when read; written as OPTIMADE |
| ``.db`` | ASE database |
| ``.parquet`` | matmill's table, schema 1 |
| a folder | all of the above in it, by name |
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import reduced_formulas
from matmill.crystals.formats import asedb, cif, cifwriter, extxyz, jsons, parquet, poscar
from matmill.crystals.records import Complaint, ReadResult, Record, atomic, collect
from matmill.errors import DataError, InputError
from matmill.progress import Event, OnEvent, ignore

__all__ = ["Complaint", "ReadResult", "format_of", "iterate", "read", "write"]

_READERS: dict[str, Callable[[Path], Iterator[Record | Complaint]]] = {
    "cif": cif.read,
    "poscar": poscar.read,
    "extxyz": extxyz.read,
    "json": jsons.read,
    "jsonl": jsons.read_lines,
    "optimade": jsons.read,
    "optimade-lines": jsons.read_lines,
    "ase-db": asedb.read,
}
_SUFFIXES = {
    ".optimade.json": "optimade",
    ".optimade.jsonl": "optimade-lines",
    ".cif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".json": "json",
    ".jsonl": "jsonl",
    ".db": "ase-db",
    ".parquet": "parquet",
}
_FOLDER_SUFFIX = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz", "json": ".json"}
_REPORT_EVERY = 50


def format_of(path: str | Path) -> str | None:
    """Return the name of the format that the file's name stands for, or None."""
    name = Path(path).name
    for suffix, kind in _SUFFIXES.items():
        if name.lower().endswith(suffix):
            return kind
    return "poscar" if name.upper().startswith(("POSCAR", "CONTCAR")) else None


def read(path: str | Path | Sequence[str | Path], *, on_event: OnEvent = ignore) -> ReadResult:
    """Read all crystals of a file, a folder, or several of them.

    Args:
        path: Files and folders; a folder is searched by known suffixes, with its subfolders.
        on_event: Told how many files are read.

    Returns:
        The good crystals in order, float64, with ids from the file or from its name, and one
        complaint for each crystal that was left out.

    Raises:
        InputError: If a file's suffix is unknown.
        DataError: If a file does not exist, or nothing at all could be read.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    files = [file for item in paths for file in _files(Path(item))]
    results = []
    for done, file in enumerate(files, start=1):
        results.append(_read_one(file))
        if done % _REPORT_EVERY == 0 or done == len(files):
            on_event(Event(stage="read", done=done, total=len(files)))
    complaints = [complaint for result in results for complaint in result.complaints]
    crystals = results[0].crystals if len(results) == 1 else _join(results)
    if not len(crystals):
        first = f" The first: {complaints[0]}" if complaints else ""
        where = ", ".join(str(item) for item in paths[:3]) + (" ..." if len(paths) > 3 else "")
        raise DataError(f"No crystal could be read from {where}.{first}")
    return ReadResult(
        crystals=crystals,
        complaints=complaints,
        files=tuple(file for result in results for file in result.files),
        rows=torch.cat([result.rows for result in results]),
    )


def iterate(path: str | Path, n_crystals: int = 10_000) -> Iterator[ReadResult]:
    """Yield the crystals of a large file in parts; only Parquet is read piece by piece."""
    path = Path(path)
    if format_of(path) == "parquet" and path.is_file():
        yield from parquet.iterate(path, n_crystals)
        return
    whole = read(path)
    for start in range(0, len(whole.crystals), n_crystals):
        part = torch.arange(start, min(start + n_crystals, len(whole.crystals)))
        yield ReadResult(
            crystals=whole.crystals.select(part),
            complaints=whole.complaints if start == 0 else [],
            files=whole.files[start : start + n_crystals],
            rows=whole.rows[part],
        )


def write(
    batch: CrystalBatch,
    path: str | Path,
    *,
    symprec: float | None = 0.01,
    folder_format: str = "cif",
) -> list[Path]:
    """Write crystals; the file appears whole or not at all.

    Args:
        batch: Any number of crystals; a POSCAR holds exactly one.
        path: The suffix chooses the format. A path without suffix, or ending in ``/``, becomes a
            folder with one file per crystal.
        symprec: Tolerance in Å of the symmetry written to CIF, which then holds the idealised
            conventional cell; None writes the crystal as it is, in P1.
        folder_format: ``"cif"``, ``"poscar"``, ``"extxyz"`` or ``"json"``, for folders.

    Returns:
        The files that were written.

    Raises:
        InputError: If the suffix is unknown or the format cannot hold so many crystals.
    """
    kind = format_of(path)
    target = Path(path)
    if str(path).endswith("/") or (kind is None and (not target.suffix or target.is_dir())):
        return _write_folder(batch, target, symprec, folder_format)
    if kind is None:
        raise _unknown_suffix(target)
    if kind == "poscar" and len(batch) != 1:
        raise InputError(
            f"A POSCAR holds one crystal, not {len(batch)}. Write a folder: "
            f"write(batch, '{target.with_suffix('')}/', folder_format='poscar')."
        )
    _write_one(batch, target, kind, symprec)
    return [target]


def entries_of(path: Path, kind: str) -> Iterator[Record | Complaint]:
    """Yield what one file holds, unchecked, one by one; for all formats but Parquet.

    Args:
        path: The file.
        kind: What `format_of` says, or what its content says.
    """
    return _READERS[kind](path)


def _read_one(file: Path) -> ReadResult:
    kind = format_of(file)
    if kind is None:
        raise _unknown_suffix(file)
    if kind == "parquet":
        return parquet.read(file)
    return collect(str(file), entries_of(file, kind))


def _join(results: list[ReadResult]) -> CrystalBatch:
    return concatenate([result.crystals for result in results])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_known(file)]
        if not found:
            raise DataError(f"The folder {path} holds no file of a known format. {_KNOWN}")
        return found
    if not path.exists():
        raise DataError(f"There is no file {path}.")
    return [path]


def _is_known(file: Path) -> bool:
    return format_of(file) is not None and not file.name.startswith(".")


def _write_one(batch: CrystalBatch, target: Path, kind: str, symprec: float | None) -> None:
    if kind == "parquet":
        parquet.write(batch, target)
        return
    with atomic(target) as temporary:
        if kind == "ase-db":
            asedb.write(batch, temporary)
            return
        text = {
            "cif": lambda: cifwriter.write(batch, symprec=symprec),
            "poscar": lambda: poscar.write(batch, 0),
            "extxyz": lambda: extxyz.write(batch),
            "json": lambda: jsons.write(batch),
            "jsonl": lambda: jsons.write_lines(batch),
            "optimade": lambda: jsons.write_optimade(batch),
            "optimade-lines": lambda: jsons.write_optimade_lines(batch),
        }[kind]()
        temporary.write_text(text, encoding="utf-8")


def _write_folder(
    batch: CrystalBatch, folder: Path, symprec: float | None, kind: str
) -> list[Path]:
    if kind not in _FOLDER_SUFFIX:
        raise InputError(
            f"A folder cannot be written as '{kind}'. Choose from {', '.join(_FOLDER_SUFFIX)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    taken: set[str] = set()
    for i, name in enumerate(batch.ids or reduced_formulas(batch)):
        stem = "".join(c if c.isalnum() or c in "-_+" else "_" for c in name) or "crystal"
        stem = stem if stem not in taken else f"{stem}-{i + 1}"
        taken.add(stem)
        target = folder / f"{stem}{_FOLDER_SUFFIX[kind]}"
        _write_one(batch.select([i]), target, kind, symprec)
        written.append(target)
    return written


_KNOWN = f"Known: {', '.join(_SUFFIXES)}, POSCAR, CONTCAR."


def _unknown_suffix(path: Path) -> InputError:
    return InputError(f"The format of {path.name} cannot be told from its name. {_KNOWN}")
