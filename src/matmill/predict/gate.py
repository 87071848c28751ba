"""The gated sum over neighbours, the costly part of CGCNN, in few passes over the edges.

For an edge from node i to node j, ``W [v_i; v_j; e_ij]`` is the sum of three rows that are known
beforehand: ``W_own v_i + b``, ``W_other v_j`` and a row of the table of distances. A bag of three
rows is one pass. Sigmoid and softplus share one: ``softplus(x) = -log(sigmoid(-x))``, and the
sign goes into the scale of the norm. Statistics and gradients are written out, so that nothing is
computed or stored twice. On graphs with merged nodes every sum is weighted by how many edges of
the full graph an edge stands for, so that training is the same as on all atoms.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from matmill.graphs.graph import Graph

_SMALLEST = 1e-37  # of a sigmoid: its logarithm stays finite


@dataclass(frozen=True, kw_only=True, eq=False)
class Edges:
    """The edges of a graph as one list, by source, padding left out.

    Attributes:
        source: Node that receives the message, ``(n_edges,)``.
        target: Node that sends it.
        first: Number of the first edge of each node, ``(n_nodes,)``.
        row: Row of the table of distances, ``(n_edges,)``.
        share: Share of the next row, when rows are interpolated; None for the nearest row.
        count: How many equal edges each stands for, ``(n_edges,)``.
        weight: Weight in the statistics of a batch: edges of the full graph, adding up to 1.
        total: How many edges the full graph has.
    """

    source: Int[Tensor, " n_edges"]
    target: Int[Tensor, " n_edges"]
    first: Int[Tensor, " n_nodes"]
    row: Int[Tensor, " n_edges"]
    share: Float[Tensor, " n_edges"] | None
    count: Float[Tensor, " n_edges"]
    weight: Float[Tensor, " n_edges"]
    total: Float[Tensor, ""]

    @classmethod
    def of(cls, graph: Graph, *, step: float, cutoff: float, is_interpolated: bool) -> "Edges":
        """Return the edges of a graph, distances (Å) as rows of a grid from 0 to the cutoff."""
        k = graph.neighbor.shape[1]
        flat = torch.nonzero(graph.mask.flatten()).flatten()
        per_node = graph.mask.sum(1)
        source = flat // max(k, 1)
        count = graph.count.flatten().index_select(0, flat)
        weight = count * graph.weight.index_select(0, source)
        total = weight.sum()
        place = graph.distance.flatten().index_select(0, flat).clamp(0.0, cutoff) / step
        row = place.floor() if is_interpolated else place.round()
        return cls(
            source=source,
            target=graph.neighbor.flatten().index_select(0, flat).long(),
            first=per_node.cumsum(0) - per_node,
            row=row.long(),
            share=place - row if is_interpolated else None,
            count=count,
            weight=weight / total.clamp_min(1.0),
            total=total,
        )


def gated_sum(
    parts: Float[Tensor, "n_nodes four_width"],
    table: Float[Tensor, "n_rows two_width"],
    norm: nn.BatchNorm1d,
    edges: Edges,
) -> Float[Tensor, "n_nodes width"]:
    """Return for every node the sum of ``sigmoid(gate) * softplus(core)`` over its edges.

    Args:
        parts: For each node what its own edges get from it, then what it gives to the edges of
            others; each is gate and core, ``(n_nodes, 4 * width)``.
        table: The same for each distance, ``(n_rows, 2 * width)``.
        norm: Batch norm over edges, applied before the gate; its averages move in training.
        edges: Of the graph.
    """
    # Sums over many edges need float32; the products before them may be rougher.
    parts, table = parts.float(), table.float()
    if norm.training:
        with torch.autocast(parts.device.type, enabled=False):
            summed, mean, variance = _GatedSum.apply(  # pyright: ignore[reportGeneralTypeIssues]
                parts, table, norm.weight, norm.bias, edges, norm.eps
            )
        _follow(norm, mean, variance, edges.total)
        return summed
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    rows = torch.cat([parts.reshape(2 * len(parts), -1), table])
    gates = torch.addcmul(shift, _sums_of_rows(rows, edges, len(parts)), scale)
    gate, core = gates.chunk(2, dim=1)
    messages = torch.sigmoid(gate) * functional.softplus(core)
    return _sum_by_source(messages, edges, edges.count)


def weighted_norm(
    values: Float[Tensor, "n width"], norm: nn.BatchNorm1d, weight: Float[Tensor, " n"]
) -> Float[Tensor, "n width"]:
    """Return the batch norm with rows weighted, as if each were there so many times."""
    if not norm.training:
        return norm(values)
    # Averages need float32, whatever the products around them are computed in.
    with torch.autocast(values.device.type, enabled=False):
        values = values.to(norm.weight.dtype)
        total = weight.sum()
        share = weight / total
        mean = share @ values
        centred = values - mean
        variance = share @ centred.square()
        _follow(norm, mean.detach(), variance.detach(), total)
        return torch.addcmul(norm.bias, centred, norm.weight * torch.rsqrt(variance + norm.eps))


@torch.no_grad()
def _follow(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, n: Tensor) -> None:
    """Move the running averages of a norm, as torch does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    momentum = 0.1 if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (n / (n - 1.0).clamp_min(1.0)), momentum)
    norm.num_batches_tracked.add_(1)


def _sums_of_rows(rows: Tensor, edges: Edges, n_nodes: int) -> Tensor:
    """Return for each edge the sum of its three rows; four when the table is interpolated."""
    own, other, row = 2 * edges.source, 2 * edges.target + 1, edges.row + 2 * n_nodes
    if edges.share is None:
        bags = torch.stack([own, other, row], dim=1)
        return functional.embedding_bag(bags, rows, mode="sum")
    bags = torch.stack([own, other, row, row + 1], dim=1)
    one = torch.ones_like(edges.share)
    weights = torch.stack([one, one, 1.0 - edges.share, edges.share], dim=1).to(rows.dtype)
    return functional.embedding_bag(bags, rows, mode="sum", per_sample_weights=weights)


def _sum_by_source(values: Tensor, edges: Edges, weights: Tensor | None) -> Tensor:
    each = torch.arange(len(values), device=values.device)
    if weights is not None:
        weights = weights.to(values.dtype)
    return functional.embedding_bag(
        each, values, edges.first, mode="sum", per_sample_weights=weights
    )


class _GatedSum(torch.autograd.Function):
    """Training form of `gated_sum`; statistics of the batch, gradients by hand."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        parts: Tensor,
        table: Tensor,
        gamma: Tensor,
        beta: Tensor,
        edges: Edges,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = table.shape[1] // 2
        rows = torch.cat([parts.reshape(2 * len(parts), -1), table])
        centred = _sums_of_rows(rows, edges, len(parts))
        mean = edges.weight @ centred
        centred -= mean
        variance = edges.weight @ centred.square()
        inverse = torch.rsqrt(variance + eps)
        sign = torch.ones_like(gamma)
        sign[width:] = -1.0
        gates = torch.addcmul(beta * sign, centred, gamma * inverse * sign).sigmoid_()
        gate, other = gates[:, :width], gates[:, width:]
        core = other.clamp_min(_SMALLEST).log_().neg_()
        summed = _sum_by_source(gate * core, edges, edges.count)
        ctx.save_for_backward(centred, gates, core, gamma, inverse)
        ctx.edges, ctx.n_rows = edges, len(table)
        ctx.mark_non_differentiable(mean, variance)
        return summed, mean, variance

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
        *_: Tensor,
    ) -> tuple[Tensor | None, ...]:
        centred, gates, core, gamma, inverse = ctx.saved_tensors
        edges: Edges = ctx.edges
        width = core.shape[1]
        gate, other = gates[:, :width], gates[:, width:]
        sent = grad.contiguous().index_select(0, edges.source) * edges.count[:, None]
        sent *= gate
        change = torch.empty_like(gates)
        torch.addcmul(sent, sent, other, value=-1.0, out=change[:, width:])
        sent *= core
        torch.addcmul(sent, sent, gate, value=-1.0, out=change[:, :width])
        to_beta = change.sum(0)
        to_gamma = (change * centred).sum(0) * inverse
        pull = torch.addcmul(to_beta, centred, to_gamma * inverse)
        change.addcmul_(pull, edges.weight[:, None], value=-1.0)
        to_own = _sum_by_source(change, edges, None)
        to_other = torch.zeros_like(to_own).index_add_(0, edges.target, change)
        to_table = grad.new_zeros(ctx.n_rows, 2 * width)
        if edges.share is None:
            to_table.index_add_(0, edges.row, change)
        else:
            upper = change * edges.share[:, None]
            to_table.index_add_(0, edges.row, change - upper)
            to_table.index_add_(0, edges.row + 1, upper)
        scale = gamma * inverse
        to_parts = torch.cat([to_own, to_other], dim=1) * scale.repeat(2)
        return to_parts, to_table * scale, to_gamma, to_beta, None, None
