"""Generate into a file: crystals are on the disk as soon as they are finished."""

import json
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from matmill import __version__
from matmill.crystals import files
from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.generate.protocol import GenerationRequest, Generator
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child
from matmill.training.checkpoint import write_atomically

# These formats are lists of records: a finished batch is appended, and a kill loses nothing.
_APPENDABLE = (".extxyz", ".xyz", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What a generation run made.

    Attributes:
        crystals: In the order of the plan.
        seconds: Wall time of sampling.
        written: Files, the record of the run included.
        warnings: What the generator had to say about the request.
    """

    crystals: CrystalBatch
    seconds: float
    written: list[Path]
    warnings: list[str]


def generate(
    generator: Generator,
    request: GenerationRequest,
    *,
    seed: int,
    out: Path | None = None,
    on_event: OnEvent = ignore,
) -> Delivered:
    """Make crystals and write them with a record of what made them.

    Args:
        generator: The model.
        request: What to make.
        seed: Everything random follows from it.
        out: File or folder; None writes nothing. Lists (extxyz, jsonl) and folders grow as
            crystals are finished, other formats are written whole at the end.
        on_event: Receives progress.

    Raises:
        InputError: If the request cannot be met, or ``out`` exists and is not a folder.
    """
    warnings = generator.check(request)
    if out is not None and out.is_file():
        raise InputError(f"{out} exists. Choose another --out, or remove it.")
    if out is not None and files.format_of(out) is None and out.suffix:
        raise InputError(f"The suffix of {out} is not a known format, such as .extxyz or .cif.")
    finished: list[CrystalBatch] = []
    started = time.monotonic()

    def keep(batch: CrystalBatch) -> None:
        finished.append(batch)
        if out is not None:
            _append(batch, out)
        on_event(Event(stage="generate", done=sum(map(len, finished)), total=request.n))

    crystals = generator.sample(request, child(seed, "generate"), keep)
    seconds = time.monotonic() - started
    written: list[Path] = []
    if out is not None:
        if out.suffix and out.suffix not in _APPENDABLE:
            files.write(crystals, out)
        # Beside a folder, not in it: whoever reads the folder should find crystals only.
        record = out.with_name(out.name + ".json")
        content = json.dumps(_record(generator, request, seed, seconds, warnings), indent=2)
        write_atomically(record, f"{content}\n".encode())
        written = [out, record]
    return Delivered(crystals=crystals, seconds=seconds, written=written, warnings=warnings)


def _append(batch: CrystalBatch, out: Path) -> None:
    if not out.suffix:
        files.write(batch, f"{out}/")
    elif out.suffix in _APPENDABLE:
        part = out.with_name(f".{out.stem}.part{out.suffix}")
        files.write(batch, part)
        with out.open("a", encoding="utf-8") as file:
            file.write(part.read_text(encoding="utf-8"))
        part.unlink()


def _record(
    generator: Generator,
    request: GenerationRequest,
    seed: int,
    seconds: float,
    warnings: list[str],
) -> dict[str, Any]:
    asked = {f.name: getattr(request, f.name) for f in fields(request)}
    if request.seeds is not None:
        asked["seeds"] = list(request.seeds.hashes)
    if request.free_atoms is not None:
        asked["free_atoms"] = request.free_atoms.tolist()
    return {
        "matmill": __version__,
        "generator": {"name": generator.name, "weights_sha256": generator.hash},
        "request": asked,
        "seed": seed,
        "seconds": round(seconds, 3),
        "warnings": warnings,
    }
