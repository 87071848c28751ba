"""Many small networks trained at once: one batched product for all of them at every layer.

Every network sees the first ``n_columns`` of the columns, which come in order of relevance, and
has its own rate, dropout and start. Narrower networks are the same arrays with units switched off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from matmill.randomness import child

_DEPTH = 4
_WARM = 0.1  # share of the steps over which the rate rises
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """Settings of one network.

    Attributes:
        n_columns: How many of the leading columns it reads.
        width: Units of the first layer; the others have half, a quarter, a quarter.
        rate: Peak learning rate.
        dropout: Share of the columns that are hidden in each step.
        decay: Weight decay.
    """

    n_columns: int
    width: int
    rate: float
    dropout: float
    decay: float

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of the hidden layers."""
        return (self.width, max(8, self.width // 2), *(max(8, self.width // 4),) * 2)


def draw_plans(n: int, n_columns: int, rng: torch.Generator) -> list[NetworkPlan]:
    """Return random settings."""
    plans = []
    for _ in range(n):
        pick = torch.rand(5, generator=rng).tolist()
        wanted = round(_log_between(n_columns / 4, n_columns, pick[0]))
        plans.append(
            NetworkPlan(
                n_columns=min(n_columns, max(4, wanted)),
                width=(64, 96, 128)[int(3 * pick[1])],
                rate=_log_between(1e-3, 8e-3, pick[2]),
                dropout=(0.0, 0.05, 0.15)[int(3 * pick[3])],
                decay=_log_between(1e-3, 3e-1, pick[4]),
            )
        )
    return plans


@dataclass(frozen=True, eq=False)
class Networks:
    """Trained networks of one shape.

    Attributes:
        weights: Of each layer, ``(n_networks, n_in, n_out)``.
        biases: Of each layer, ``(n_networks, 1, n_out)``.
    """

    weights: tuple[Float[Tensor, "n_networks _in _out"], ...]
    biases: tuple[Float[Tensor, "n_networks 1 _out"], ...]

    def each(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, "n_networks n"]:
        """Return what every network says, float64."""
        parts = [
            _forward(rows.float(), self.weights, self.biases).double()
            for rows in columns.split(_CHUNK)
        ]
        return torch.cat(parts, dim=1)

    def predict(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, " n"]:
        """Return the median over the networks, float64."""
        each = self.each(columns)
        return each.quantile(0.5, dim=0) if each.shape[1] else each.sum(0)

    def select(self, index: list[int]) -> "Networks":
        """Return some of the networks."""
        return Networks(tuple(w[index] for w in self.weights), tuple(b[index] for b in self.biases))

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored."""
        layers = enumerate(zip(self.weights, self.biases, strict=True))
        return {
            name: values
            for i, (weight, bias) in layers
            for name, values in ((f"weight{i}", weight), (f"bias{i}", bias))
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Networks":
        """Return the networks that were stored."""
        n = len(tensors) // 2
        return cls(
            tuple(tensors[f"weight{i}"] for i in range(n)),
            tuple(tensors[f"bias{i}"] for i in range(n)),
        )


def train_networks(
    columns: Float[Tensor, "n n_columns"],
    target: Float[Tensor, " n"],
    plans: list[NetworkPlan],
    *,
    seed: int,
    epochs: int = 150,
    batch_rows: int = 64,
    classify: bool = False,
    weights: Float[Tensor, " n"] | None = None,
) -> Networks:
    """Return networks trained side by side with the absolute error.

    The rate rises, then falls to zero along a cosine, and the weights of the last steps are
    averaged: no rows are needed to tell when to stop.

    Args:
        columns: Standardised, without gaps, most relevant first.
        target: Values of spread about 1, or classes 0 and 1 (log loss, weighted to equal shares;
            the networks then give the logarithm of the odds).
        plans: Settings of each network.
        seed: Of starts, order of rows and dropout.
        epochs: Passes over the rows.
        batch_rows: Rows in a step.
        classify: The target is a class.
        weights: How much each row counts; None for all alike.

    Source:
        De Breuck et al., Materials property prediction for limited datasets enabled by feature
        selection and joint learning with MODNet (2021): ELU, absolute error, four layers.
    """
    rng = child(seed, "networks")
    x, y = columns.float(), target.float()
    parameters = _start(plans, x.shape[1], rng)
    is_read = (parameters[0] != 0).any(2, keepdim=True).float()
    average = [p.detach().clone() for p in parameters]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    rates = torch.tensor([plan.rate for plan in plans]).view(-1, 1, 1)
    decays = torch.tensor([plan.decay for plan in plans]).view(-1, 1, 1)
    drops = torch.tensor([plan.dropout for plan in plans]).view(-1, 1, 1)
    balance = _class_weights(y) if classify else torch.ones_like(y)
    balance = balance if weights is None else balance * weights.float()
    per_epoch = max(1, round(len(x) / batch_rows))
    order: tuple[Tensor, ...] = ()
    n_steps = epochs * per_epoch
    tail = int(0.8 * n_steps)
    for step in range(n_steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(x), generator=rng).tensor_split(per_epoch)
        rows = order[step % per_epoch]
        shown = torch.rand(len(plans), 1, x.shape[1], generator=rng) >= drops
        inner = x[rows][None] * (shown / (1.0 - drops))
        guess = _forward(inner, parameters[::2], parameters[1::2])
        if classify:
            loss = functional.binary_cross_entropy_with_logits(
                guess, y[rows].expand_as(guess), reduction="none"
            )
        else:
            loss = (guess - y[rows]).abs()
        # The sum over networks: none of them feels the others.
        (loss * balance[rows]).mean(1).sum().backward()
        assert parameters[0].grad is not None
        parameters[0].grad *= is_read
        _adam(parameters, moments, rates * _schedule(step, n_steps), decays, step + 1)
        if step >= tail:
            share = 1.0 / (step - tail + 1)
            for mean, parameter in zip(average, parameters, strict=True):
                mean.lerp_(parameter.detach(), share)
    return Networks(tuple(average[::2]), tuple(average[1::2]))


def _forward(
    rows: Float[Tensor, "*n_networks n n_columns"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> Float[Tensor, "n_networks n"]:
    """Return the outputs of all networks for rows that they share or have of their own."""
    values = rows.expand(len(weights[0]), -1, -1) if rows.ndim == 2 else rows
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        values = functional.elu(torch.baddbmm(bias, values, weight))
    return torch.baddbmm(biases[-1], values, weights[-1])[..., 0]


def _start(plans: list[NetworkPlan], n_columns: int, rng: torch.Generator) -> list[Tensor]:
    """Return weights and biases of each layer in turn.

    Weights from and to a unit that is switched off are zero, and then so are their gradients
    (ELU(0) = 0): it stays off by itself.
    """
    sizes = [n_columns, *(max(plan.widths[i] for plan in plans) for i in range(_DEPTH)), 1]
    own = torch.tensor([[plan.n_columns, *plan.widths, 1] for plan in plans])
    parameters = []
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        is_in = torch.arange(n_in) < own[:, layer, None]
        is_out = torch.arange(n_out) < own[:, layer + 1, None]
        spread = own[:, layer].float().rsqrt().view(-1, 1, 1)
        weight = torch.randn(len(plans), n_in, n_out, generator=rng) * spread
        parameters += [
            (weight * is_in[:, :, None] * is_out[:, None, :]).requires_grad_(),
            torch.zeros(len(plans), 1, n_out, requires_grad=True),
        ]
    return parameters


@torch.no_grad()
def _adam(
    parameters: list[Tensor],
    moments: list[tuple[Tensor, Tensor]],
    rates: Float[Tensor, "n_networks 1 1"],
    decays: Float[Tensor, "n_networks 1 1"],
    step: int,
) -> None:
    """Take one step of AdamW in place, every network at its own rate; clears the gradients."""
    size = rates * math.sqrt(1.0 - 0.999**step) / (1.0 - 0.9**step)
    for parameter, (first, second) in zip(parameters, moments, strict=True):
        gradient = parameter.grad
        assert gradient is not None
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        parameter.mul_(1.0 - rates * decays).sub_(size * first / second.sqrt().add_(1e-8))
        parameter.grad = None


def _schedule(step: int, n_steps: int) -> float:
    warm = max(1, int(_WARM * n_steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


def _class_weights(classes: Tensor) -> Tensor:
    share = classes.mean()
    return torch.where(classes > 0.5, 0.5 / share, 0.5 / (1.0 - share))


def _log_between(low: float, high: float, place: float) -> float:
    return low * (high / low) ** place
