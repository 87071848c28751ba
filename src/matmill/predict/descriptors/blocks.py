"""The descriptor blocks by name, computed piece by piece and cached by content."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.descriptors.table import Features, concatenate, stack
from matmill.progress import Event, OnEvent, ignore

BLOCKS: dict[str, str] = {
    "composition": "matmill.predict.descriptors.composition:composition_block",
    "elements": "matmill.predict.descriptors.composition:element_block",
    "structure": "matmill.predict.descriptors.structure:structure_block",
    "slab": "matmill.predict.descriptors.slab:slab_block",
    "potential": "matmill.predict.descriptors.potential:potential_block",
    "vibrations": "matmill.predict.descriptors.vibrations:vibration_block",
}
"""Each block as ``"module:function"``; a function takes a batch and returns its `Features`."""

FROM_FORMULA = frozenset({"composition", "elements"})
"""The blocks that need no structure."""

# At once: bounds the memory of edges and angles, and paces the progress.
_PIECE_ATOMS = 4_000
_PIECE_FORMULAS = 5_000


def compute(
    batch: CrystalBatch | CompositionBatch,
    blocks: Sequence[str],
    *,
    folder: Path | None = None,
    on_event: OnEvent = ignore,
) -> Features:
    """Return the columns of these blocks side by side, named ``block.column``.

    Args:
        batch: Crystals, or compositions for the blocks in `FROM_FORMULA`.
        blocks: Names in `BLOCKS`, at least one.
        folder: Where blocks are kept between calls, one file for each block and content; None
            for nowhere.
        on_event: Told about progress.

    Raises:
        InputError: If there is no block, or a block needs structures and there are none.
        UnknownNameError: If there is no such block.
        DataError: If a kept file is damaged.
    """
    if not blocks:
        raise InputError(f"No descriptor block was named. Known: {', '.join(BLOCKS)}.")
    for block in blocks:
        if block not in BLOCKS:
            raise UnknownNameError("descriptor block", block, list(BLOCKS))
        if block not in FROM_FORMULA and not isinstance(batch, CrystalBatch):
            raise InputError(
                f"The descriptor block '{block}' needs structures, but there are only formulas. "
                f"Blocks for formulas: {', '.join(sorted(FROM_FORMULA))}."
            )
    content = _content(batch) if folder is not None else ""
    tables = []
    for block in blocks:
        path = None if folder is None else folder / f"{block}-{_key(block, content)}.safetensors"
        tables.append(_kept(batch, block, path, on_event).prefixed(block))
    return concatenate(*tables)


def _kept(
    batch: CrystalBatch | CompositionBatch, block: str, path: Path | None, on_event: OnEvent
) -> Features:
    """Return one block, from the file if it is there."""
    if path is not None and path.exists():
        return _read(path, len(batch))
    module, _, name = BLOCKS[block].partition(":")
    features = _in_pieces(batch, getattr(import_module(module), name), block, on_event)
    if path is not None:
        _write(features, path)
    return features


def _in_pieces(
    batch: CrystalBatch | CompositionBatch,
    function: Callable[..., Features],
    block: str,
    on_event: OnEvent,
) -> Features:
    tables = []
    done = 0
    for piece in _pieces(batch):
        tables.append(function(piece))
        done += len(piece)
        if done < len(batch) or len(tables) > 1:
            on_event(Event(stage=f"descriptors: {block}", done=done, total=len(batch)))
    return stack(tables)


def _pieces(
    batch: CrystalBatch | CompositionBatch,
) -> Iterator[CrystalBatch | CompositionBatch]:
    """Yield consecutive parts of bounded size, at least one even if it is empty."""
    if isinstance(batch, CrystalBatch):
        if len(batch.atomic_numbers) <= _PIECE_ATOMS:
            yield batch
        else:
            yield from batch.chunks(_PIECE_ATOMS)
    else:
        for start in range(0, max(len(batch), 1), _PIECE_FORMULAS):
            yield batch.select(torch.arange(start, min(start + _PIECE_FORMULAS, len(batch))))


def _read(path: Path, n_rows: int) -> Features:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            values = file.get_tensor("values")
            names = tuple((file.metadata() or {})["names"].split("\n"))
        features = Features(values, names)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"The cached descriptors {path} are damaged; delete the file.") from error
    if len(features) != n_rows:
        raise DataError(f"The cached descriptors {path} are damaged; delete the file.")
    return features


def _write(features: Features, path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_file(
        {"values": features.values.contiguous()},
        partial,
        metadata={"names": "\n".join(features.names)},
    )
    os.replace(partial, path)


def _content(batch: CrystalBatch | CompositionBatch) -> str:
    """Return a hash of the numbers that descriptors are made from."""
    if isinstance(batch, CrystalBatch):
        fields = (batch.lattice, batch.frac_coords, batch.atomic_numbers, batch.n_atoms)
    else:
        fields = (batch.amounts,)
    digest = hashlib.sha256(type(batch).__name__.encode())
    for values in fields:
        digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _key(block: str, content: str) -> str:
    return hashlib.sha256(f"{block}|{_code()}|{content}".encode()).hexdigest()[:24]


@cache
def _code() -> str:
    """Return a hash of our own code and element table: an edit makes kept files old."""
    digest = hashlib.sha256()
    here = files("matmill.predict.descriptors")
    for source in sorted(here.iterdir(), key=lambda item: item.name):
        if source.name.endswith(".py"):
            digest.update(source.read_bytes())
    digest.update(files("matmill").joinpath("assets", "elements.csv").read_bytes())
    return digest.hexdigest()
