"""Reading what any generator wrote: every entry becomes a crystal or a status, none is lost.

Folders and zips of CIFs, extended XYZ, Parquet, JSON of pymatgen structures, and whatever else
`crystals.files` reads. Nothing is unpickled and nothing is executed. A file with a strange name is
read by what is in it. Zips are unpacked into a folder that is removed again.
"""

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.files import entries_of, format_of
from matmill.crystals.formats import parquet
from matmill.crystals.lattice import minkowski_reduce
from matmill.crystals.periodic import wrap
from matmill.crystals.records import (
    GEOMETRY_FLAWS,
    Complaint,
    ReadResult,
    Record,
    collect,
)
from matmill.errors import DataError, InputError
from matmill.progress import Event, OnEvent, ignore
from matmill.verify.patience import SECONDS_EACH, TookTooLongError, limit
from matmill.verify.statuses import Status

_LARGEST_ZIP = 4 * 2**30  # bytes after unpacking; more is no set of crystals but a bomb
_REPORT_EVERY = 50
_SNIFFED = 4096  # characters
_JSON = {"json", "jsonl", "optimade", "optimade-lines"}
_LONGEST = 100_000.0  # Å; more is a mistake of units, and no search in it would end
_OBLIQUE = 2.0  # longest edge over that of the reduced cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One sample as it was found.

    Attributes:
        name: Id of the crystal, or where it stands.
        file: Path of the file, within its zip where it has one.
        row: Its place in that file, counted from 1.
        status: `Status.OK` when a crystal could be built.
        reason: Why not.
    """

    name: str
    file: str
    row: int
    status: Status = Status.OK
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A set of samples.

    Attributes:
        entries: All that were found, in order.
        crystals: Those that could be built, in order, float64.
        place: The entry of each crystal, ``(n_crystals,)``.
        n_requested: How many the generator was asked for.
        ignored: Files of unknown kind, which count as nothing.
    """

    entries: tuple[Entry, ...]
    crystals: CrystalBatch
    place: Int[Tensor, " n_crystals"]
    n_requested: int
    ignored: tuple[str, ...] = ()

    @property
    def n_parsed(self) -> int:
        """How many are crystals, whatever their geometry."""
        return sum(entry.status is not Status.PARSE_ERROR for entry in self.entries)


def read_samples(
    paths: Sequence[Path], *, n_requested: int | None = None, on_event: OnEvent = ignore
) -> Samples:
    """Read samples from files, folders and zips.

    Args:
        paths: In the order that counts.
        n_requested: How many were asked of the generator; those that are missing count as
            failures. All that are found unless given.
        on_event: Told how many files are read.

    Raises:
        DataError: If there is no such file, or nothing in it.
        InputError: If more samples are found than were requested.
    """
    with _unpacked(paths) as files:
        results, ignored = [], []
        for done, (file, name) in enumerate(files, start=1):
            kind = _kind(file)
            if kind is None:
                ignored.append(name)
            else:
                results.append(_read(file, kind, name))
            if done % _REPORT_EVERY == 0 or done == len(files):
                on_event(Event(stage="read", done=done, total=len(files)))
    samples = _joined(results, n_requested, tuple(ignored))
    if not samples.entries:
        where = ", ".join(str(path) for path in paths[:3])
        raise DataError(f"{where} holds no file with crystals. CIF, extxyz, Parquet, JSON, zip?")
    if samples.n_requested < len(samples.entries):
        raise InputError(
            f"--n-requested {n_requested} is less than the {len(samples.entries)} samples found."
        )
    return samples


def as_samples(batch: CrystalBatch, *, n_requested: int | None = None) -> Samples:
    """Return crystals that are at hand already as samples."""
    records = ReadResult(
        crystals=batch.to(dtype=torch.float64),
        complaints=[],
        files=("",) * len(batch),
        rows=torch.arange(1, len(batch) + 1),
    )
    return _joined([(records, "")], n_requested, ())


@contextmanager
def _unpacked(paths: Sequence[Path]) -> Iterator[list[tuple[Path, str]]]:
    """Give all files with the names to show for them, zips unpacked while the block runs."""
    with tempfile.TemporaryDirectory(prefix="matmill-") as folder:
        found: list[tuple[Path, str]] = []
        for number, path in enumerate(paths):
            if path.is_dir():
                found += _inside(path)
            elif not path.exists():
                raise DataError(f"There is no file {path}.")
            elif path.suffix.lower() == ".zip":
                found += _unzipped(path, Path(folder) / str(number))
            else:
                found.append((path, str(path)))
        yield found


def _inside(folder: Path) -> list[tuple[Path, str]]:
    return [
        (file, str(file))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]


def _unzipped(path: Path, folder: Path) -> list[tuple[Path, str]]:
    """Return the members of a zip, written under numbers: their own names lead nowhere."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if sum(member.file_size for member in members) > _LARGEST_ZIP:
                raise DataError(f"{path} is larger than {_LARGEST_ZIP // 2**30} GB unpacked.")
            for number, member in enumerate(sorted(members, key=lambda m: m.filename)):
                name = Path(member.filename).name
                if name.startswith(".") or "__MACOSX" in member.filename:
                    continue
                # A folder each, so that the name, which tells the format, stays.
                target = folder / str(number) / name
                target.parent.mkdir(parents=True)
                target.write_bytes(archive.read(member))
                found.append((target, f"{path}/{member.filename}"))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}.") from error
    return found


def _kind(file: Path) -> str | None:
    """Return the format by name, corrected by content; None for what is no crystal at all."""
    named, seen = format_of(file), _sniffed(file)
    if named is None or seen is None or seen in named or {named, seen} <= _JSON:
        return named or seen
    return seen


def _sniffed(file: Path) -> str | None:
    """Return the format that the beginning of a file looks like, if any."""
    with file.open("rb") as opened:
        start = opened.read(_SNIFFED)
    if start.startswith(b"PAR1"):
        return "parquet"
    text = start.decode("utf-8", errors="replace")
    if text.lstrip()[:1] in ("{", "["):
        is_crystal = "lattice" in text or "attributes" in text
        return ("jsonl" if "}\n{" in text else "json") if is_crystal else None
    if "_cell_length_a" in text or "_atom_site_" in text:
        return "cif"
    return "extxyz" if "lattice=" in text.lower() else None


def _read(file: Path, kind: str, name: str) -> tuple[ReadResult, str]:
    if kind != "parquet":
        return _possible(collect(name, _patient(entries_of(file, kind), name)), name), name
    try:
        return _possible(parquet.read(file), name), name
    except DataError as error:
        return collect(name, [Complaint(name, 1, str(error), "")]), name


def _possible(result: ReadResult, name: str) -> ReadResult:
    """Return the result with a complaint for each cell beyond all measure."""
    lengths = result.crystals.lattice.norm(dim=-1).flatten(1)
    good = (lengths <= _LONGEST).all(1)
    if bool(good.all()):
        return result
    reason = f"a cell edge is longer than {_LONGEST:,.0f} Å"
    rows = result.rows[~good].tolist()
    return ReadResult(
        crystals=result.crystals.select(good),
        complaints=[*result.complaints, *(Complaint(name, row, reason, "") for row in rows)],
        files=tuple(f for f, keep in zip(result.files, good.tolist(), strict=True) if keep),
        rows=result.rows[good],
    )


def _patient(entries: Iterator[Record | Complaint], file: str) -> Iterator[Record | Complaint]:
    """Yield the entries; one that hangs or breaks the reader is the last of its file."""
    row = 0
    while True:
        row += 1
        try:
            with limit(SECONDS_EACH):
                entry = next(entries, None)
        except TookTooLongError:
            yield Complaint(file, row, f"reading took longer than {SECONDS_EACH:g} s", "")
            return
        except Exception as error:  # whatever a parser throws at a broken file
            yield Complaint(file, row, f"the reader failed: {type(error).__name__}: {error}", "")
            return
        if entry is None:
            return
        row = entry.row
        yield entry


def _joined(
    results: Sequence[tuple[ReadResult, str]], n_requested: int | None, ignored: tuple[str, ...]
) -> Samples:
    entries: list[Entry] = []
    place: list[int] = []
    for result, file in results:
        batch = result.crystals
        # Crystals and complaints of a file, back in its order; crystals of a row stay in theirs.
        here: list[tuple[int, int, Complaint | None]] = [
            (row, i, None) for i, row in enumerate(result.rows.tolist())
        ]
        here += [(complaint.row, -1, complaint) for complaint in result.complaints]
        for row, i, complaint in sorted(here, key=lambda item: item[:2]):
            if complaint is None:
                place.append(len(entries))
                name = batch.ids[i] if batch.ids else str(row)
                entries.append(Entry(name=name, file=file, row=row))
            else:
                entries.append(_broken(complaint, file))
    crystals = concatenate([result.crystals for result, _ in results])
    return Samples(
        entries=tuple(entries),
        crystals=_compact(crystals),
        place=torch.tensor(place, dtype=torch.int64),
        n_requested=len(entries) if n_requested is None else n_requested,
        ignored=ignored,
    )


def _compact(batch: CrystalBatch) -> CrystalBatch:
    """Return the crystals with very oblique cells reduced: searches in those would never end.

    The crystal is the same; atoms and their order are kept.
    """
    if not len(batch):
        return batch
    reduced, change = minkowski_reduce(batch.lattice)
    longest, shorter = (x.norm(dim=-1).amax(-1) for x in (batch.lattice, reduced))
    rows = longest > _OBLIQUE * shorter
    if not bool(rows.any()):
        return batch
    lattice = torch.where(rows[:, None, None], reduced, batch.lattice)
    inverse = torch.linalg.inv(change.double())
    inverse[~rows] = torch.eye(3, dtype=torch.float64)
    frac = torch.einsum("ai,aij->aj", batch.frac_coords, inverse[batch.crystal_index])
    return replace(batch, lattice=lattice, frac_coords=wrap(frac))


def _broken(complaint: Complaint, file: str) -> Entry:
    is_geometry = complaint.reason in GEOMETRY_FLAWS
    return Entry(
        name=f"{Path(file).name}:{complaint.row}",
        file=file,
        row=complaint.row,
        status=Status.INVALID_GEOMETRY if is_geometry else Status.PARSE_ERROR,
        reason=complaint.reason,
    )
