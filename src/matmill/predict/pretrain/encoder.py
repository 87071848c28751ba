"""Encoder files: the layers of a pretrained network that a predictor starts from, with a card."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from matmill.errors import DataError, UnknownNameError
from matmill.training import checkpoint

KIND = "matmill encoder"
SHIPPED = Path(__file__).parents[2] / "assets" / "encoders"
DEFAULT_SHIPPED = "shipped-encoder"
COMPOSITIONS = "compositions"
"""Name of the encoder that ships for Roost; all others read structures."""

LEFT_OUT = ("hidden", "out", "noise")
"""Last layers of a network; they belong to the task that it was trained on."""


def save_encoder(path: Path | str, network: nn.Module, card: dict[str, Any]) -> Path:
    """Write the network without its last layers; return the path of the weights."""
    state = network.state_dict()
    kept = {name: value for name, value in state.items() if name.split(".")[0] not in LEFT_OUT}
    return checkpoint.save(path, kept, {"kind": KIND, **card})


def load_encoder(name_or_path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors by name and the card of an encoder.

    Args:
        name_or_path: A file, a shipped encoder by name, or ``"shipped-encoder"``.

    Raises:
        UnknownNameError: If there is neither a file nor a shipped encoder of that name.
        DataError: If the file is damaged or no encoder.
    """
    path = encoder_path(name_or_path)
    tensors, card = checkpoint.load(path)
    if card.get("kind") != KIND:
        raise DataError(
            f"{path} is a '{card.get('kind')}', not an encoder. Make one with: matmill pretrain."
        )
    return tensors, card


def encoder_path(name_or_path: str | Path) -> Path:
    """Return the file of an encoder given by path or by the name under which it ships.

    Raises:
        UnknownNameError: If there is none.
    """
    file = checkpoint.weights_path(name_or_path)
    if file.is_file():
        return file
    files = {path.stem: path for path in shipped_encoders()}
    name = str(name_or_path)
    structural = [path for stem, path in files.items() if stem != COMPOSITIONS]
    if name == DEFAULT_SHIPPED and structural:
        return structural[0]
    if name in files:
        return files[name]
    raise UnknownNameError("encoder", name, [DEFAULT_SHIPPED, *files] if files else [])


def shipped_encoders() -> list[Path]:
    """Return the encoders that ship with the package, by name."""
    return sorted(SHIPPED.glob("*.safetensors"))


def is_encoder(name_or_path: str | Path) -> bool:
    """Return whether this is the path or the name of an encoder."""
    import json

    try:
        card = checkpoint.card_path(encoder_path(name_or_path))
        return json.loads(card.read_text(encoding="utf-8")).get("kind") == KIND
    except (UnknownNameError, OSError, ValueError):
        return False
