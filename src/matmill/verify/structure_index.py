"""An index of reduced crystals on disk: is this crystal in a set of a million?

Plain binary files, one a quantity, mapped into memory and only ever appended to. Crystals with the
same sites per element as the one asked for are tried in the order of their fingerprints, nearest
first; the matcher alone decides.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.match_pairs import (
    MatchStatus,
    MatchTolerance,
    ask_pymatgen,
    next_hit,
    pymatgen_matcher,
    to_reduced_structure,
)
from matmill.crystals.match_reduction import ReducedCrystals, ReductionStatus, reduce_crystals
from matmill.errors import DataError, InputError
from matmill.verify.novelty import fingerprint

_FORMAT = 1
_PRINTS = 8  # distances of each of the three kinds in `novelty.fingerprint`
_CHUNK = 2000  # crystals reduced and written at a time
_ABOUT = "index.json"
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "lattice": ("<f8", (3, 3)),
    "length": ("<f8", ()),
    "minima": ("<f8", (3,)),
    "edges": ("<f8", (3,)),
    "anchor": ("<i8", ()),
    "status": ("<i1", ()),
    "size": ("<i4", ()),
    "key": ("<u8", ()),
    "prints": ("<f4", (3 * _PRINTS,)),
}
_SITE_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "frac": ("<f8", (3,)),
    "numbers": ("<i2", ()),
}


@dataclass(frozen=True, slots=True)
class IndexMatches:
    """What an index holds of one crystal.

    Attributes:
        ids: Known crystals that match, nearest fingerprint first.
        status: SAME if there are any; TIMEOUT if there are none and some pair was given up, or the
            crystal has too many sites; DIFFERENT otherwise.
        n_asked: Pairs that pymatgen itself decided.
    """

    ids: tuple[str, ...]
    status: MatchStatus
    n_asked: int = 0


class StructureIndex:
    """Known crystals, reduced once, in a folder.

    Args:
        folder: Where the files are; with none yet, an empty index.

    Raises:
        DataError: If the folder holds an index of another format or one that is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._load()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hash(self) -> str:
        """Content hash: equal for the same crystals in the same order, however they were added."""
        return str(self._about["hash"])

    def add(self, batch: CrystalBatch, *, max_sites: int = 1000, n_processes: int = 1) -> None:
        """Append crystals; those that cannot be reduced are kept and match nothing.

        A kill while adding loses what was not finished, and nothing else.

        Args:
            batch: Crystals with ids.
            max_sites: As for `reduce_crystals`.
            n_processes: As for `reduce_crystals`.

        Raises:
            InputError: If the crystals have no ids, or an id has a line break.
        """
        if len(batch) and not batch.ids:
            raise InputError("Crystals of an index need ids. Use CrystalBatch.with_ids.")
        if any("\n" in key for key in batch.ids):
            raise InputError("An id with a line break cannot be indexed.")
        for begin in range(0, len(batch), _CHUNK):
            part = batch.select(range(begin, min(begin + _CHUNK, len(batch))))
            reduced = reduce_crystals(part, max_sites=max_sites, n_processes=n_processes)
            prints = np.full((len(part), 3 * _PRINTS), np.inf, dtype=np.float32)
            good = np.flatnonzero(reduced.status == ReductionStatus.OK)
            prints[good] = fingerprint(part.select(good.tolist()), _PRINTS).numpy()
            self._write(part.ids, reduced, prints)
        self._load()

    def add_reduced(self, ids: Sequence[str], reduced: ReducedCrystals, prints: np.ndarray) -> None:
        """Append crystals that are reduced already.

        Args:
            ids: One each, without line breaks.
            reduced: The crystals.
            prints: `novelty.fingerprint` of each, 8 distances of each kind, ``(n_crystals, 24)``;
                it orders candidates and decides nothing.
        """
        self._write(ids, reduced, prints)
        self._load()

    def matches(
        self,
        batch: CrystalBatch,
        tolerance: MatchTolerance | None = None,
        *,
        only_first: bool = True,
        max_seconds: float = 60.0,
        max_sites: int = 1000,
        n_threads: int = 1,
        n_processes: int = 1,
    ) -> list[IndexMatches]:
        """Return for each crystal the known ones that it matches.

        The crystal asked for is the one whose cell is mapped, as novelty is defined.

        Args:
            batch: The crystals asked for.
            tolerance: Of the matcher.
            only_first: Stop at the first that matches, which tells whether the crystal is new.
            max_seconds: As for `matching.Matcher`.
            max_sites: As for `reduce_crystals`.
            n_threads: Threads that search.
            n_processes: Processes that reduce.
        """
        reduced = reduce_crystals(batch, max_sites=max_sites, n_processes=n_processes)
        tolerance = tolerance or MatchTolerance()
        search = _Search(self, batch, reduced, tolerance, max_seconds, only_first)
        if n_threads == 1:
            return [search.of(i) for i in range(len(batch))]
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(search.of, range(len(batch))))

    def rows(self, key: int) -> np.ndarray:
        """Return the crystals with this hash of their sites per element."""
        wanted = np.uint64(key)
        begin, end = (
            np.searchsorted(self._sorted_keys, wanted, side) for side in ("left", "right")
        )
        return self._order[begin:end]

    def _load(self) -> None:
        path = self.folder / _ABOUT
        self._about: dict[str, Any] = {"n": 0, "n_sites": 0, "hash": hashlib.sha256().hexdigest()}
        if path.exists():
            self._about = json.loads(path.read_text(encoding="utf-8"))
            if self._about.get("format") != _FORMAT:
                raise DataError(f"{path} has format {self._about.get('format')}, not {_FORMAT}.")
        n, n_sites = self._about["n"], self._about["n_sites"]
        fields = {name: self._map(name, n, *kind) for name, kind in _FIELDS.items()}
        sites = {name: self._map(name, n_sites, *kind) for name, kind in _SITE_FIELDS.items()}
        keys, sizes, self.prints = fields.pop("key"), fields.pop("size"), fields.pop("prints")
        start = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.crystals = ReducedCrystals(start=start, **fields, **sites)
        self._order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[self._order]
        names = self.folder / "ids.txt"
        lines = names.read_text(encoding="utf-8").split("\n")[:n] if n else []
        if len(lines) != n or start[-1] != n_sites:
            raise DataError(f"The index in {self.folder} is damaged: {n} crystals were expected.")
        self.ids = lines

    def _write(self, ids: Sequence[str], reduced: ReducedCrystals, prints: np.ndarray) -> None:
        """Append to the files, what is in memory stays as it was."""
        if not len(ids):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        sizes = np.diff(reduced.start)
        extra = {"size": sizes, "key": reduced.keys, "prints": prints}
        n, n_sites = self._about["n"], self._about["n_sites"]
        for kinds, done in ((_FIELDS, n), (_SITE_FIELDS, n_sites)):
            for name, (dtype, shape) in kinds.items():
                values = extra[name] if name in extra else getattr(reduced, name)
                width = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
                _write_at(self.folder / f"{name}.bin", done * width, values.astype(dtype).tobytes())
        id_bytes = self._about.get("id_bytes", 0)
        text = "".join(f"{key}\n" for key in ids).encode()
        _write_at(self.folder / "ids.txt", id_bytes, text)
        about = {
            "format": _FORMAT,
            "n": n + len(ids),
            "n_sites": n_sites + int(sizes.sum()),
            "id_bytes": id_bytes + len(text),
            "hash": _chained(self.hash, ids, reduced),
            "reduction": f"pymatgen-core {version('pymatgen-core')}, Niggli, primitive 0.25 Å",
        }
        partial = self.folder / f"{_ABOUT}.partial"
        partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
        partial.replace(self.folder / _ABOUT)
        self._about = about

    def _map(self, name: str, n: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        if not n:
            return np.zeros((0, *shape), dtype=dtype)
        path = self.folder / f"{name}.bin"
        try:
            # Copy on write: numba compiles again for arrays that are read-only.
            return np.asarray(np.memmap(path, dtype=dtype, mode="c", shape=(n, *shape)))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is missing or too short: {error}.") from error


class _Search:
    """The crystals of one query against an index."""

    def __init__(
        self,
        index: StructureIndex,
        batch: CrystalBatch,
        reduced: ReducedCrystals,
        tolerance: MatchTolerance,
        max_seconds: float,
        only_first: bool,
    ) -> None:
        self.index, self.reduced, self.tolerance = index, reduced, tolerance
        self.max_seconds, self.only_first = max_seconds, only_first
        # Only crystals with several candidates need an order.
        self.rows = [
            index.rows(int(key)) if status == ReductionStatus.OK else np.zeros(0, dtype=np.int64)
            for key, status in zip(reduced.keys, reduced.status, strict=True)
        ]
        several = [i for i, rows in enumerate(self.rows) if len(rows) > 1]
        prints = fingerprint(batch.select(several), _PRINTS).numpy()
        self.prints = dict(zip(several, prints, strict=True))
        self.matcher = pymatgen_matcher(tolerance)

    def of(self, i: int) -> IndexMatches:
        """Return the matches of crystal ``i``."""
        rows, n_asked = self.rows[i], 0
        if i in self.prints:
            gap = np.abs(self.index.prints[rows] - self.prints[i]).max(1)
            rows = rows[np.argsort(gap, kind="stable")]
        pairs = np.stack([np.full(len(rows), i), rows], axis=1)
        found: list[str] = []
        gave_up = self.reduced.status[i] == ReductionStatus.TOO_LARGE
        k = 0
        while k < len(rows) and not (found and self.only_first):
            step, status = next_hit(
                self.reduced,
                self.index.crystals,
                pairs[k:],
                self.tolerance,
                max_seconds=self.max_seconds,
            )
            k += step
            if k == len(rows):
                break
            if status == MatchStatus.UNSURE:
                n_asked += 1
                status = self._ask(i, int(rows[k]))
            gave_up |= status == MatchStatus.TIMEOUT
            if status == MatchStatus.SAME:
                found.append(self.index.ids[rows[k]])
            k += 1
        status = MatchStatus.TIMEOUT if gave_up else MatchStatus.DIFFERENT
        return IndexMatches(tuple(found), MatchStatus.SAME if found else status, n_asked)

    def _ask(self, i: int, row: int) -> MatchStatus:
        mine = to_reduced_structure(self.reduced, i)
        theirs = to_reduced_structure(self.index.crystals, row)
        return MatchStatus(int(ask_pymatgen(self.matcher, mine, theirs, is_reduced=True)))


def _write_at(path: Path, position: int, content: bytes) -> None:
    """Write at the end of what is known to be whole; what a kill left after it goes."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(position)
        file.seek(position)
        file.write(content)


def _chained(start: str, ids: Sequence[str], reduced: ReducedCrystals) -> str:
    """Return a hash of all crystals so far: one step for each, so that pieces do not matter."""
    state = start
    for i, key in enumerate(ids):
        sites = slice(int(reduced.start[i]), int(reduced.start[i + 1]))
        parts = (
            reduced.lattice[i] * reduced.length[i],
            reduced.frac[sites],
            reduced.numbers[sites],
        )
        step = hashlib.sha256(f"{state}\n{key}\n".encode())
        for part in parts:
            step.update(part.tobytes())
        state = step.hexdigest()
    return state
