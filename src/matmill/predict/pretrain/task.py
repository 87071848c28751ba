"""What an encoder is pretrained on: batches of graphs with classes, and the loss of two views."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.errors import InputError, UnknownNameError
from matmill.graphs.augment import augmented
from matmill.graphs.graph import Graph, joined
from matmill.predict.pretrain import losses
from matmill.predict.pretrain.monitor import SMALLEST_RANK, Monitor

Objective = Literal["simclr", "barlow", "supervised-simclr", "supervised-barlow", "multi-task"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
WITHOUT_LABELS = ("simclr", "barlow")

_SMALL_CELL = 10  # nodes; larger cells cost more than they teach, so they are drawn less often
_MOST_DRAWS = 4.0
_FEWEST_DRAWS = 0.25


@dataclass(frozen=True, eq=False)
class ClassedGraphs:
    """Graphs and their classes, ``(n_crystals, n_surrogates)``, -1 where unknown."""

    graph: Graph
    labels: Int[Tensor, "n_crystals n_surrogates"]

    def to(self, device: torch.device) -> "ClassedGraphs":
        """Return a copy on ``device``."""
        return ClassedGraphs(self.graph.to(device), self.labels.to(device))


class BalancedBatches:
    """Batches for `fit`, each of the same number of crystals, with classes about equally often.

    In an epoch a crystal is drawn once on average; those of rare classes more often (at most
    four times), those with many nodes less often (at least every fourth epoch).

    Args:
        graph: All graphs.
        labels: Their classes; the first surrogate is the one that is balanced.
        size: Crystals in a batch; what is left over waits for the next epoch.
    """

    def __init__(
        self, graph: Graph, labels: Int[Tensor, "n_crystals n_surrogates"], *, size: int
    ) -> None:
        if len(graph) < size:
            raise InputError(
                f"{len(graph)} crystals do not fill a batch of {size}. Use --batch "
                f"{max(2, len(graph) // 2)}, or more crystals."
            )
        self.graph, self.labels, self.size = graph, labels, size
        self.draws = expected_draws(graph.n_atoms, labels)

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[ClassedGraphs]:  # noqa: ARG002
        """Yield the batches of one epoch."""
        extra = torch.rand(len(self.draws), generator=rng) < self.draws - self.draws.floor()
        rows = torch.repeat_interleave(self.draws.floor().long() + extra)
        order = torch.randperm(len(rows), generator=rng)
        if len(rows) < self.size:  # a small table whose large cells were left out this time
            rows = torch.arange(len(self.draws))
            order = torch.randperm(len(rows), generator=rng)
        for places in order.split(self.size):
            if len(places) == self.size:
                index = rows[places]
                yield ClassedGraphs(self.graph.select(index), self.labels[index])


def expected_draws(
    n_nodes: Int[Tensor, " n"], labels: Int[Tensor, "n n_surrogates"]
) -> Float[Tensor, " n"]:
    """Return how often each crystal is drawn in an epoch on average."""
    size = (_SMALL_CELL / n_nodes).clamp_max(1.0)
    need = torch.ones_like(size)
    if labels.shape[1]:
        first = labels[:, 0]
        is_known = first >= 0
        counts = torch.bincount(first[is_known])
        share = is_known.sum() / (counts > 0).sum() / counts.clamp_min(1)
        need[is_known] = share[first[is_known]].to(need.dtype)
    return (size * need).clamp(_FEWEST_DRAWS, _MOST_DRAWS)


class PretrainTask(nn.Module):
    """A network, what lies behind it while it is pretrained, and the loss.

    The network's own ``hidden`` layer and one more are the projector of the papers; both are
    dropped afterwards.

    Args:
        network: Has ``embedding(graph)``, features of its last hidden layer.
        hidden: Width of that layer.
        objective: One of `OBJECTIVES`.
        n_classes: Classes of each surrogate; the first is the one that supervised objectives use.
        projection: Width that the views are compared in.
        temperature: Of the contrastive objectives.
        off_weight: Of the correlations between features.
        other_weight: Of pairs of different classes.
        unsupervised_share: How much of the unsupervised loss is mixed into the supervised ones.
            With two classes and none of it features collapse: supervised-simclr had an effective
            rank of 1.3 after 240 steps on 61,000 crystals.
        atom_mask: Share of masked atoms.
        edge_mask: Share of masked edges.
        delta: Largest noise on distances in Å.
        monitor: Watches the features.
    """

    n_seen: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        hidden: int,
        objective: str,
        n_classes: tuple[int, ...] = (),
        projection: int = 64,
        temperature: float = 0.2,
        off_weight: float = 0.0051,
        other_weight: float = 1.0,
        unsupervised_share: float = 0.3,
        atom_mask: float = 0.1,
        edge_mask: float = 0.1,
        delta: float = 0.5,
        monitor: Monitor | None = None,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise UnknownNameError("pretraining objective", objective, list(OBJECTIVES))
        if objective not in WITHOUT_LABELS and not n_classes:
            raise InputError(f"The objective {objective} needs a surrogate; give --surrogate.")
        self.network, self.objective, self.n_classes = network, objective, n_classes
        self.temperature, self.off_weight, self.other_weight = temperature, off_weight, other_weight
        self.unsupervised_share = unsupervised_share
        self.strength = {"atom_mask": atom_mask, "edge_mask": edge_mask, "delta": delta}
        # Features that only tell classes apart need as few directions as there are classes.
        limit = 0.0 if objective == "multi-task" else SMALLEST_RANK
        self.monitor = monitor or Monitor(smallest_rank=limit)
        n_out = sum(n_classes) if objective == "multi-task" else projection
        self.head = nn.Linear(hidden, n_out)
        # Part of the state, so that a resumed training goes on counting.
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: ClassedGraphs, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of two views of a batch, and the state of the features."""
        n = len(batch.graph)
        views = [augmented(batch.graph, rng, **self.strength) for _ in range(2)]
        # One pass over both: the batch statistics are then shared as well.
        features = self.network.embedding(joined(views))  # pyright: ignore[reportCallIssue]
        out = self.head(features).float()
        main = batch.labels[:, 0] if batch.labels.shape[1] else torch.full((n,), losses.UNKNOWN)
        main = main.to(out.device)
        if self.objective == "multi-task":
            loss, watched = self._cross_entropy(out, batch.labels.repeat(2, 1)), features
        else:
            loss, watched = self._compared(out[:n], out[n:], main), out
        self.n_seen += 1
        self.monitor.add(int(self.n_seen), watched[:n], main)
        values = self.monitor.latest.as_values() if self.monitor.latest else {}
        return {"loss": loss, **{k: torch.tensor(v) for k, v in values.items() if v == v}}

    def _compared(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        if self.objective == "simclr":
            return losses.simclr(first, second, temperature=self.temperature)
        if self.objective == "supervised-simclr":
            loss = losses.supervised_simclr(first, second, labels, temperature=self.temperature)
            plain = losses.simclr(first, second, temperature=self.temperature)
            return loss + self.unsupervised_share * plain
        plain = losses.barlow(first, second, off_weight=self.off_weight)
        if self.objective == "barlow":
            return plain / first.shape[1]
        # The sum over features, not its mean: with the mean the rank stayed at 2.
        loss = losses.supervised_barlow(first, second, labels, other_weight=self.other_weight)
        return loss + self.unsupervised_share * plain

    def _cross_entropy(self, out: Tensor, labels: Tensor) -> Tensor:
        total = out.new_zeros(())
        for i, logits in enumerate(out.split(self.n_classes, dim=1)):
            target = labels[:, i].to(out.device)
            n_known = (target >= 0).sum().clamp_min(1)
            kwargs = {"ignore_index": losses.UNKNOWN, "reduction": "sum"}
            total = total + functional.cross_entropy(logits, target, **kwargs) / n_known
        return total / len(self.n_classes)
