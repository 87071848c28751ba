"""One checkpoint format: tensors as safetensors, everything else as a JSON card beside them.

Nothing is ever pickled, so loading a file runs no code. A copy of the card travels inside the
tensor file: that file alone is replaced in one step, so a kill at any moment leaves a usable pair.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matmill.errors import DataError

Card = dict[str, Any]
_HASH_KEY = "weights_sha256"
_EMBEDDED = "card"


def save(path: Path | str, tensors: dict[str, Tensor], card: Card) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json``, each replaced in one step.

    Args:
        path: Where to write; the suffix is set to ``.safetensors``.
        tensors: Tensors by name, any shapes; they are copied to the CPU.
        card: What belongs to them, as plain JSON values.

    Returns:
        The path of the tensor file.
    """
    from safetensors.torch import save as to_bytes

    path = weights_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tied parameters share memory, which the format refuses: every name gets its own copy.
    plain = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    text = json.dumps(card, sort_keys=True)
    content = to_bytes(plain, metadata={_EMBEDDED: text})
    write_atomically(path, content)
    full = {**card, _HASH_KEY: hashlib.sha256(content).hexdigest()}
    write_atomically(card_path(path), (json.dumps(full, indent=2) + "\n").encode())
    return path


def load(path: Path | str, *, recover: bool = False) -> tuple[dict[str, Tensor], Card]:
    """Read a checkpoint without running any code from it.

    Args:
        path: The tensor file, or its name without the suffix.
        recover: Take the card that is embedded in the tensor file when the one beside it is
            missing or belongs to other tensors (a process killed between the two writes).

    Returns:
        Tensors by name on the CPU, and the card.

    Raises:
        DataError: If a file is missing, damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError, safe_open

    path = weights_path(path)
    if not path.exists():
        raise DataError(f"There is no checkpoint {path}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            embedded = (file.metadata() or {}).get(_EMBEDDED)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged and cannot be read: {error}.") from error
    digest = hash_of(path)
    try:
        return tensors, _matching_card(path, digest)
    except DataError:
        if not recover or embedded is None:
            raise
    return tensors, {**json.loads(embedded), _HASH_KEY: digest}


def hash_of(path: Path | str) -> str:
    """Return the SHA-256 of a checkpoint's tensor file, in hexadecimal."""
    with weights_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rewrite_card(path: Path | str, card: Card) -> None:
    """Replace the card of an existing checkpoint, e.g. to add scores; tensors stay as they are."""
    full = {**card, _HASH_KEY: hash_of(path)}
    write_atomically(card_path(path), (json.dumps(full, indent=2) + "\n").encode())


def load_into(module: torch.nn.Module, tensors: dict[str, Tensor], *, source: str) -> None:
    """Copy tensors into a module of the same names and shapes.

    Raises:
        DataError: Naming the first difference.
    """
    own = module.state_dict()
    for name in sorted({*own, *tensors}):
        if name not in tensors or name not in own:
            where = "the checkpoint" if name not in tensors else "the model"
            raise DataError(f"{source} does not fit this model: '{name}' is missing in {where}.")
        if own[name].shape != tensors[name].shape:
            raise DataError(
                f"{source} does not fit this model: '{name}' has shape "
                f"{tuple(tensors[name].shape)}, the model expects {tuple(own[name].shape)}."
            )
    module.load_state_dict(tensors)


def weights_path(path: Path | str) -> Path:
    """Return the path of the tensor file that ``path`` (with or without suffix) stands for."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")


def card_path(path: Path | str) -> Path:
    """Return the path of the JSON card beside a tensor file."""
    return weights_path(path).with_suffix(".json")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _matching_card(path: Path, digest: str) -> Card:
    beside = card_path(path)
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"The card {beside} of {path.name} is missing.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"The card {beside} is damaged: {error}.") from error
    if not isinstance(card, dict) or card.get(_HASH_KEY) != digest:
        raise DataError(
            f"{beside.name} does not belong to {path.name}: the SHA-256 on the card differs from "
            f"the file's ({digest[:12]}…). Restore both from the same source."
        )
    return card
