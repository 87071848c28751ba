"""What a property network trains on: batches of graphs with labels, and the loss."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from matmill.data.loader import AtomBudgetLoader
from matmill.graphs.graph import Graph

_SMALL_CELL = 20  # atoms; larger cells cost more than they teach, so they are drawn less often
_MOST_DRAWS = 4.0
_FEWEST_DRAWS = 0.25
_VALIDATION_CRYSTALS = 256
Loss = Literal["l1", "mse", "robust-l1", "robust-l2"]


@dataclass(frozen=True, eq=False)
class LabelledGraphs:
    """Graphs, their labels on the learned scale, NaN where unknown, and how much each counts."""

    graph: Graph
    labels: Float[Tensor, "n_crystals n_targets"]
    weights: Float[Tensor, " n_crystals"] | None = None

    def to(self, device: torch.device) -> "LabelledGraphs":
        """Return a copy on ``device``."""
        weights = None if self.weights is None else self.weights.to(device)
        return LabelledGraphs(self.graph.to(device), self.labels.to(device), weights)


class GraphBatches:
    """Batches for `fit`: drawn at random, as many crystals in each.

    ``is_by_size`` bounds the atoms of a batch instead, similar sizes together, for cells that
    differ so much that memory matters. It costs accuracy: crystals of a kind are alike in size, so
    such batches differ from each other, and in a small table the largest crystal can be a
    batch of its own, every epoch. With 5,000 formation energies CGCNN then errs by 68 instead of
    60 meV/atom (benchmarks/batch_cuts.py); 29 generated crystals, large because nothing in them
    repeats, doubled its error beside 200 real ones.

    With several targets, crystals that carry a rare label are drawn more often, with the root of
    the rarity, and large cells less often.

    Args:
        graph: All training graphs.
        labels: Their labels on the learned scale, ``(n_crystals, n_targets)``, NaN unknown.
        n_crystals: About how many crystals a batch has.
        weights: How much each crystal counts in the loss, ``(n_crystals,)``, 1 on average.
        is_by_size: Bound the atoms of a batch rather than its crystals.
    """

    def __init__(
        self,
        graph: Graph,
        labels: Float[Tensor, "n_crystals n_targets"],
        *,
        n_crystals: int,
        weights: Float[Tensor, " n_crystals"] | None = None,
        is_by_size: bool = False,
    ) -> None:
        self.graph, self.labels, self.n_crystals = graph, labels, n_crystals
        self.weights, self.is_by_size = weights, is_by_size
        self.draws = expected_draws(graph.n_atoms, labels)
        known = torch.isfinite(labels).to(self.draws.dtype) * self.draws[:, None]
        self.shares = known.sum(0) / self.draws.sum()
        mean_atoms = float((graph.n_atoms * self.draws).sum() / self.draws.sum())
        self.max_atoms = max(int(1.5 * n_crystals * mean_atoms), int(graph.n_atoms.max()))

    @property
    def n_steps(self) -> int:
        """About how many batches an epoch has."""
        return max(1, round(float(self.draws.sum()) / self.n_crystals))

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[LabelledGraphs]:
        """Yield the batches of one epoch."""
        whole = self.draws.floor()
        extra = torch.rand(len(self.draws), generator=rng) < (self.draws - whole)
        counts = (whole + extra).long()
        rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
        if not self.is_by_size:
            for places in torch.randperm(len(rows), generator=rng).tensor_split(self.n_steps):
                yield from self._batch(rows[places])
            return
        seed = int(torch.randint(2**62, (1,), generator=rng))
        loader = AtomBudgetLoader(
            self.graph.n_atoms[rows], self.max_atoms, seed=seed, max_crystals=self.n_crystals
        )
        for places in loader.epoch(number):
            yield from self._batch(rows[places])

    def _batch(self, index: Tensor) -> Iterator[LabelledGraphs]:
        if int(self.graph.n_atoms[index].sum()) >= 2:  # one atom has no batch statistics
            yield _taken(self.graph, self.labels, self.weights, index)


class PlainBatches:
    """Batches for `fit`: every crystal once an epoch, in an order by chance, as many in each.

    Args:
        graph: All training graphs.
        labels: Their labels on the learned scale, ``(n_crystals, n_targets)``, NaN unknown.
        n_crystals: Crystals in a batch; the last one may have fewer.
        weights: How much each crystal counts in the loss, ``(n_crystals,)``, 1 on average.
    """

    def __init__(
        self,
        graph: Graph,
        labels: Float[Tensor, "n_crystals n_targets"],
        *,
        n_crystals: int,
        weights: Float[Tensor, " n_crystals"] | None = None,
    ) -> None:
        self.graph, self.labels, self.n_crystals = graph, labels, n_crystals
        self.weights = weights
        self.shares = torch.isfinite(labels).float().mean(0)

    @property
    def n_steps(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.graph) // self.n_crystals)

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[LabelledGraphs]:  # noqa: ARG002
        """Yield the batches of one epoch."""
        for index in torch.randperm(len(self.graph), generator=rng).split(self.n_crystals):
            yield _taken(self.graph, self.labels, self.weights, index)


def _taken(graph: Graph, labels: Tensor, weights: Tensor | None, index: Tensor) -> LabelledGraphs:
    chosen = None if weights is None else weights[index].float()
    return LabelledGraphs(graph.select(index), labels[index], chosen)


def expected_draws(
    n_atoms: Tensor, labels: Float[Tensor, "n_crystals n_targets"]
) -> Float[Tensor, " n_crystals"]:
    """Return how often each crystal is drawn in an epoch on average."""
    size = (_SMALL_CELL / n_atoms).clamp_max(1.0)
    if labels.shape[1] == 1:
        return torch.ones(len(labels))
    is_known = torch.isfinite(labels)
    counts = is_known.sum(0).clamp_min(1)
    rarity = (counts.max() / counts).sqrt()
    need = torch.where(is_known, rarity, torch.zeros_like(rarity)).amax(1).clamp_min(1.0)
    return (size * need).clamp(_FEWEST_DRAWS, _MOST_DRAWS)


class PropertyTask(nn.Module):
    """A network and its loss: absolute error, plus what teaches it to expect that error.

    Classes, -1 and 1, are learned by the log loss: the output is then the log of the odds, and
    the hyperbolic tangent of half of it the mean.

    Args:
        network: Returns mean and log expected error, each ``(n_crystals, n_targets)``.
        shares: Share of drawn crystals that carry each label, ``(n_targets,)``.
        weights: Weight of each target.
        is_class: Which targets are classes; none by default.
        loss: ``l1``: the mean learns from the absolute error alone, ``mse``: from the squared
            one. ``robust-l1`` and
            ``robust-l2``: the likelihood under a Laplace or normal law, by which rows that are
            hard to predict weigh less.
        rate_factors: Factors on the learning rate by name of the network's parameter.

    Source:
        Goodall and Lee, Roost (2020), for the robust losses.
    """

    shares: Tensor
    weights: Tensor
    is_class: Tensor

    def __init__(
        self,
        network: nn.Module,
        shares: Tensor,
        weights: Tensor,
        *,
        is_class: Tensor | None = None,
        loss: Loss = "l1",
        rate_factors: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        factors = rate_factors or {}
        self.rate_factors = {f"network.{name}": factor for name, factor in factors.items()}
        self.network, self.kind = network, loss
        is_class = torch.zeros(len(weights), dtype=torch.bool) if is_class is None else is_class
        self.register_buffer("is_class", is_class, persistent=False)
        self.register_buffer("shares", shares.float(), persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)

    def loss(self, batch: LabelledGraphs, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the loss and the mean absolute error on the learned scale."""
        mean, log_error = self.network(batch.graph)
        is_known = torch.isfinite(batch.labels)
        labels = batch.labels.float().nan_to_num(0.0)
        log_loss = functional.softplus(-labels * mean) * is_known
        mean = torch.where(self.is_class, torch.tanh(0.5 * mean), mean)
        error = (mean - labels).abs() * is_known
        expected = log_error.clamp(-8.0, 4.0)
        if self.kind == "robust-l2":
            # σ² = 2 b², as everywhere that b, the expected absolute error, becomes a deviation.
            noise = 0.25 * error.square() * torch.exp(-2.0 * expected) + expected
        else:
            is_robust = self.kind == "robust-l1"
            watched = self.is_class if is_robust else torch.ones_like(self.is_class)
            seen = torch.where(watched, error.detach(), error)
            noise = seen * torch.exp(-expected) + expected
        counted = is_known.float()
        if batch.weights is not None:
            counted = counted * batch.weights[:, None]
        noise = noise * counted
        own = error if self.kind == "l1" else torch.zeros_like(error)
        own = error.square() if self.kind == "mse" else own
        goal = torch.where(self.is_class, log_loss, own)
        goal = goal if batch.weights is None else goal * batch.weights[:, None]
        # Divide by the expected number of labels, not by the number in this batch: a rare label
        # that happens to occur once would otherwise weigh as much as a hundred common ones.
        scale = self.weights / (self.shares.clamp_min(1e-6) * len(batch.labels))
        share = 0.2 if self.kind in ("l1", "mse") else 1.0
        total = (goal.sum(0) * scale).sum() + share * (noise.sum(0) * scale).sum()
        mean_error = error.detach().sum() / is_known.sum().clamp_min(1)
        return {"loss": total, "mean_error": mean_error}


def mean_error(
    graph: Graph, labels: Float[Tensor, "n_crystals n_targets"], task: nn.Module
) -> float:
    """Return the mean absolute error of a task's network on the learned scale."""
    device = next(task.parameters()).device
    total, n_known = 0.0, 0
    for rows in torch.arange(len(graph)).split(_VALIDATION_CRYSTALS):
        mean, _ = task.network(graph.select(rows).to(device))  # pyright: ignore[reportCallIssue]
        mean = torch.where(task.is_class, torch.tanh(0.5 * mean), mean)  # pyright: ignore[reportArgumentType, reportCallIssue]
        error = (mean.cpu() - labels[rows]).abs()
        total += float(error.nansum())
        n_known += int(torch.isfinite(error).sum())
    return total / max(n_known, 1)
