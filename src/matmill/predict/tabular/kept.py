"""Descriptors kept row by row, so that folds and growing tables compute a crystal only once."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.errors import DataError
from matmill.predict.descriptors.blocks import compute
from matmill.predict.descriptors.table import Features, concatenate
from matmill.progress import OnEvent
from matmill.training import checkpoint

_FORMAT = 2
_KEY_WORDS = 2  # of 64 bits


def kept_features(
    batch: CrystalBatch | CompositionBatch,
    blocks: tuple[str, ...],
    *,
    folder: Path,
    on_event: OnEvent,
) -> Features:
    """Return the columns of the blocks; only rows that the folder does not hold are computed.

    Args:
        batch: Crystals or compositions.
        blocks: Names of descriptor blocks.
        folder: One file a block. Delete it after an update of the descriptors; other columns than
            those of this version are noticed and made again.
        on_event: Told about progress.
    """
    keys = _keys(batch)
    return concatenate(*(_block(batch, keys, block, folder, on_event) for block in blocks))


def _block(
    batch: CrystalBatch | CompositionBatch,
    keys: list[tuple[int, ...]],
    block: str,
    folder: Path,
    on_event: OnEvent,
) -> Features:
    # What one row has tells the columns of this version.
    names = compute(batch.select(torch.tensor([0])), [block]).names
    path = folder / f"rows-{block}"
    known, values = _read(path, names)
    # Equal rows are computed and kept once: keys and values of the file stay one to one.
    missing = list({key: row for row, key in enumerate(keys) if key not in known}.values())
    if missing:
        fresh = compute(batch.select(torch.tensor(missing)), [block], on_event=on_event).values
        for place, row in enumerate(missing):
            known[keys[row]] = len(values) + place
        values = torch.cat([values, fresh.double()])
        ordered = sorted(known, key=known.__getitem__)
        kept = {"keys": torch.tensor(ordered, dtype=torch.int64), "values": values}
        checkpoint.save(path, kept, {"format": _FORMAT, "names": list(names)})
    return Features(values[[known[key] for key in keys]], names)


def _read(path: Path, names: tuple[str, ...]) -> tuple[dict[tuple[int, ...], int], Tensor]:
    """Return the place of each kept row, and the rows; nothing when they are of other columns."""
    empty = torch.zeros(0, len(names), dtype=torch.float64)
    if not checkpoint.weights_path(path).exists():
        return {}, empty
    try:
        tensors, card = checkpoint.load(path, recover=True)
    except DataError:
        return {}, empty
    if card.get("format") != _FORMAT or tuple(card.get("names", ())) != names:
        return {}, empty
    return {tuple(key): i for i, key in enumerate(tensors["keys"].tolist())}, tensors["values"]


def _keys(batch: CrystalBatch | CompositionBatch) -> list[tuple[int, ...]]:
    """Return a hash of what each row is, exactly as it is given."""
    if isinstance(batch, CompositionBatch):
        parts = [(row,) for row in batch.amounts]
    else:
        sizes = batch.n_atoms.tolist()
        parts = list(
            zip(
                batch.lattice,
                batch.frac_coords.split(sizes),
                batch.atomic_numbers.split(sizes),
                strict=True,
            )
        )
    return [_key(row) for row in parts]


def _key(parts: tuple[Tensor, ...]) -> tuple[int, ...]:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.double().contiguous().numpy().tobytes())
    whole = digest.digest()
    return tuple(
        int.from_bytes(whole[8 * i : 8 * i + 8], "little", signed=True) for i in range(_KEY_WORDS)
    )
