"""Generate into a file: crystals are on the disk as soon as they are finished."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from matmill import __version__
from matmill.crystals import files, symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.generate.protocol import GenerationRequest, Generator
from matmill.generate.rerank import Reranked, Wanted, best_of
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child
from matmill.training.checkpoint import write_atomically

# These formats are lists of records: a finished batch is appended, and a kill loses nothing.
_APPENDABLE = (".extxyz", ".xyz", ".jsonl")
REQUESTED, FOUND = "space_group_requested", "space_group_found"


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What a generation run made.

    Attributes:
        crystals: In the order of the plan.
        seconds: Wall time of sampling.
        written: Files, the record of the run included.
        warnings: What the generator had to say about the request.
        reranked: What was kept of several draws each, if that was asked for.
    """

    crystals: CrystalBatch
    seconds: float
    written: list[Path]
    warnings: list[str]
    reranked: Reranked | None = None


def generate(
    generator: Generator,
    request: GenerationRequest,
    *,
    seed: int,
    out: Path | None = None,
    on_event: OnEvent = ignore,
    k: int = 1,
    wanted: Sequence[Wanted] = (),
    kappa: float = 1.0,
) -> Delivered:
    """Make crystals and write them with a record of what made them.

    Every crystal carries the space group that was asked for and the one that is found in it.

    Args:
        generator: The model.
        request: What to make.
        seed: Everything random follows from it.
        out: File or folder; None writes nothing. Lists (extxyz, jsonl) and folders grow as
            crystals are finished, other formats are written whole at the end.
        on_event: Receives progress.
        k: Draws a crystal; with more than one the best by ``wanted`` is kept, and written at the
            end. The first draws are those of a run without it.
        wanted: What to judge draws by.
        kappa: Standard deviations by which judges are distrusted.

    Raises:
        InputError: If the request cannot be met, or ``out`` exists and is not a folder.
    """
    warnings = generator.check(request)
    if out is not None and out.is_file():
        raise InputError(f"{out} exists. Choose another --out, or remove it.")
    if out is not None and files.format_of(out) is None and out.suffix:
        raise InputError(f"The suffix of {out} is not a known format, such as .extxyz or .cif.")
    n_done, started = 0, time.monotonic()

    def keep(batch: CrystalBatch) -> None:
        nonlocal n_done
        n_done += len(batch)
        if out is not None and k == 1:
            _append(with_groups(batch, request), out)
        on_event(Event(stage="generate", done=n_done, total=k * request.n))

    draws = replace(request, n=k * request.n)
    crystals = generator.sample(draws, child(seed, "generate"), keep)
    reranked = best_of(crystals, wanted, k=k, kappa=kappa) if k > 1 else None
    if reranked is not None:
        # Each keeps the id of its place in the plan, whichever draw it is.
        crystals = crystals.select(reranked.chosen).with_ids(crystals.ids[: request.n])
        draw = reranked.chosen // max(request.n, 1) + 1
        crystals = crystals.with_properties(draw=draw.double())
    crystals = with_groups(crystals, request)
    seconds = time.monotonic() - started
    written: list[Path] = []
    if out is not None:
        if k > 1 and len(crystals):
            _append(crystals, out)
        if out.suffix and out.suffix not in _APPENDABLE:
            files.write(crystals, out)
        # Beside a folder, not in it: whoever reads the folder should find crystals only.
        beside = out.with_name(out.name + ".json")
        content = record(generator, request, seed, seconds, warnings)
        content["symmetry"] = {"library": "moyopy", "symprec_angstrom": symmetry.SYMPREC}
        if reranked is not None:
            content["best_of"] = {
                "k": k,
                "kappa": kappa,
                "judged_by": [wish.judge.column for wish in wanted],
                "raw": reranked.raw,
                "kept": reranked.kept,
            }
        content["crystals"] = _table(crystals)
        write_atomically(beside, f"{json.dumps(content, indent=2)}\n".encode())
        written = [out, beside]
    return Delivered(
        crystals=crystals,
        seconds=seconds,
        written=written,
        warnings=warnings,
        reranked=reranked,
    )


def with_groups(batch: CrystalBatch, request: GenerationRequest) -> CrystalBatch:
    """Return the crystals with the space group asked for (NaN for none) and the one found.

    A generator that asked for more than the request did, such as a template, has said so already.
    """
    found = symmetry.find(batch, symprec=symmetry.SYMPREC).number.double()
    asked = batch.properties.get(REQUESTED)
    if asked is None:
        number = torch.nan if request.space_group is None else float(request.space_group)
        asked = torch.full((len(batch),), number, dtype=torch.float64)
    return batch.with_properties(**{REQUESTED: asked, FOUND: found})


def _table(crystals: CrystalBatch) -> list[dict[str, Any]]:
    """Return id, formula and space groups of each crystal."""
    asked = crystals.properties[REQUESTED].tolist()
    found = crystals.properties[FOUND].tolist()
    return [
        {
            "id": name,
            "formula": formula,
            REQUESTED: None if a != a else int(a),
            FOUND: int(f),
        }
        for name, formula, a, f in zip(crystals.ids, crystals.formula, asked, found, strict=True)
    ]


def _append(batch: CrystalBatch, out: Path) -> None:
    if not out.suffix:
        files.write(batch, f"{out}/")
    elif out.suffix in _APPENDABLE:
        part = out.with_name(f".{out.stem}.part{out.suffix}")
        files.write(batch, part)
        with out.open("a", encoding="utf-8") as file:
            file.write(part.read_text(encoding="utf-8"))
        part.unlink()


def record(
    generator: Generator,
    request: GenerationRequest,
    seed: int,
    seconds: float,
    warnings: list[str],
) -> dict[str, Any]:
    """Return what a run can be repeated from: versions, weights, request, seed."""
    asked = {f.name: getattr(request, f.name) for f in fields(request)}
    if request.seeds is not None:
        asked["seeds"] = list(request.seeds.hashes)
    for name in ("free_atoms", "free_types"):
        if asked[name] is not None:
            asked[name] = asked[name].tolist()
    about: dict[str, Any] = {"name": generator.name, "weights_sha256": generator.hash}
    if adapters := getattr(generator, "adapters", None):
        about["adapters"] = adapters.hashes
    about |= getattr(generator, "sampling", {})
    return {
        "matmill": __version__,
        "generator": about,
        "request": asked,
        "seed": seed,
        "seconds": round(seconds, 3),
        "warnings": warnings,
    }
