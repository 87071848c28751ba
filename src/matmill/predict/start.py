"""What a training starts from: the layers of a pretrained encoder or of another predictor."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matmill.errors import InputError
from matmill.predict.ensemble import load_model
from matmill.predict.networks import make_network
from matmill.predict.pretrain.encoder import DEFAULT_SHIPPED, LEFT_OUT, is_encoder, load_encoder
from matmill.predict.protocol import shipped_files
from matmill.predict.settings import TrainSettings

_RATE_OF_ENCODERS = 0.2  # Crystal Twins (2022); where the card of the encoder says nothing else
# Entries of a card -> the settings that they fix.
_SETTINGS = {
    "width": "width",
    "hidden": "hidden",
    "n_layers": "n_layers",
    "cutoff": "cutoff_angstrom",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Layers to begin with.

    Attributes:
        tensors: By name in the network; empty for a start from scratch.
        card: Of the file that they come from.
        name: Of that file, for messages.
        rate_factor: How fast they learn, beside the fresh layers.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    rate_factor: float = 1.0

    def settings(self, settings: TrainSettings) -> TrainSettings:
        """Return the settings with the sizes of the file where none were asked for.

        Raises:
            InputError: If sizes were asked for and are others than those of the file.
        """
        if not self.card:
            return settings
        sizes = {
            _SETTINGS[name]: value
            for name, value in self.card["network_settings"].items()
            if name in _SETTINGS
        }
        theirs = {
            **sizes,
            "network": self.card["network"],
            "n_neighbors": self.card.get("n_neighbors", settings.n_neighbors),
        }
        asked = settings.model_fields_set
        wrong = [
            f"{name} {getattr(settings, name)} (there {value})"
            for name, value in theirs.items()
            if name in asked and getattr(settings, name) != value
        ]
        if wrong:
            raise InputError(
                f"{self.name} is a network of another kind or size than asked for: "
                f"{', '.join(wrong)}. Leave these settings out, or start from scratch."
            )
        return settings.model_copy(update=theirs)

    def network(self, card: dict[str, Any], seed: int) -> tuple[nn.Module, dict[str, float]]:
        """Return a new network with these layers, and factors on the rate of what was taken.

        Raises:
            InputError: If the layers do not fit.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = make_network(card)
        # Members have to differ, so the last layers of a predictor are not taken either.
        kept = {n: v for n, v in self.tensors.items() if n.split(".")[0] not in LEFT_OUT}
        if not kept:
            return network, {}
        own = network.state_dict()
        strange = [n for n, v in kept.items() if n not in own or own[n].shape != v.shape]
        if strange:
            raise InputError(
                f"{self.name} does not fit the network {card['network']}: it has no place for "
                f"'{strange[0]}'. Start from another file, or from scratch."
            )
        network.load_state_dict(kept, strict=False)
        names = {name for name, _ in network.named_parameters()} & set(kept)
        return network, dict.fromkeys(names, self.rate_factor)


def open_start(start_from: str | None, settings: TrainSettings) -> Start:
    """Return the layers to start from.

    Args:
        start_from: A file with an encoder or a predictor, ``"shipped"`` for the predictor that
            ships, ``"shipped-encoder"`` for the encoder that ships, or the name of one; None
            starts from scratch.
        settings: Of the training.

    Raises:
        InputError: If nothing of that name ships.
        DataError: If the file is missing or damaged.
    """
    if start_from is None:
        return Start()
    if start_from == DEFAULT_SHIPPED or is_encoder(start_from):
        tensors, card = load_encoder(start_from)
        rate = settings.taken_rate or card.get("taken_rate") or _RATE_OF_ENCODERS
        return Start(tensors=tensors, card=card, name=Path(start_from).name, rate_factor=rate)
    files = shipped_files() if start_from == "shipped" else [Path(start_from)]
    if not files:
        raise InputError("No predictor ships with this installation to start from.")
    model = load_model(files[0])
    return Start(
        tensors=dict(model.members[0].state_dict()),
        card=model.card,
        name=files[0].name,
        rate_factor=settings.taken_rate or 1.0,
    )
