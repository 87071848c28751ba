"""Sums of messages over neighbours together with their directions, and the sizes of these sums.

One message from each neighbour, times the harmonics of its direction, summed: a moment of the
surroundings. Its size does not change when the crystal is turned, and its square holds the
cosines of all angles between neighbours (`graphs.angles`), so angles cost no pass over pairs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from matmill.errors import InputError
from matmill.graphs.graph import Graph

SOFTENING = 1e-2
"""Added to squared sizes: moments vanish at symmetric sites, and a root has no slope at 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """The harmonics of all edges of a graph, as bags that sum them in either direction.

    Attributes:
        degree: Largest degree.
        n_nodes: Nodes of the graph.
        edge: Number of the edge in every bag of a sum, bags by component and node,
            ``(n_components * n_edges,)``.
        first: Where each bag starts, ``(n_components * n_nodes,)``.
        by_component: Harmonics in the order of ``edge``.
        moment: Number of the moment that an edge adds to, ``(n_edges, n_components)``.
        by_edge: Harmonics of each edge, same shape.
    """

    degree: int
    n_nodes: int
    edge: Int[Tensor, " n_bagged"]
    first: Int[Tensor, " n_bags"]
    by_component: Float[Tensor, " n_bagged"]
    moment: Int[Tensor, "n_edges n_components"]
    by_edge: Float[Tensor, "n_edges n_components"]

    @classmethod
    def of(cls, graph: Graph, degree: int) -> "Directions":
        """Return the directions of the edges, by source, padding left out.

        Raises:
            InputError: If the graph was built without directions of this degree.
        """
        n, k = graph.mask.shape
        flat = torch.nonzero(graph.mask.flatten()).flatten()
        n_components = (degree + 1) ** 2
        if degree == 0:
            by_edge = torch.ones(len(flat), 1, device=flat.device)
        elif graph.direction is None or graph.direction.shape[2] < n_components:
            raise InputError(
                f"The network reads directions of degree {degree}, which this graph does not "
                f"hold; build it with degree={degree}."
            )
        else:
            by_edge = graph.direction[..., :n_components].flatten(0, 1).index_select(0, flat)
        per_node = graph.mask.sum(1)
        component = torch.arange(n_components, device=flat.device)
        first = per_node.cumsum(0) - per_node
        return cls(
            degree=degree,
            n_nodes=n,
            edge=torch.arange(len(flat), device=flat.device).repeat(n_components),
            first=(component[:, None] * len(flat) + first).flatten(),
            by_component=by_edge.T.contiguous().flatten(),
            moment=component * n + (flat // max(k, 1))[:, None],
            by_edge=by_edge,
        )


def sizes_of_moments(
    messages: Float[Tensor, "n_edges width"], directions: Directions
) -> Float[Tensor, "n_nodes n_sizes"]:
    """Return the sum of the messages to each node, then the sizes of their moments by degree.

    Returns:
        ``(degree + 1) * width`` columns; those of degree 0 carry a sign, the others do not.
    """
    return _Sizes.apply(messages, directions)  # pyright: ignore[reportReturnType]


class _Sizes(torch.autograd.Function):
    """Written out, since the sums are several times larger than what goes in and comes out."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        messages: Tensor,
        directions: Directions,
    ) -> Tensor:
        sums = functional.embedding_bag(
            directions.edge,
            messages,
            directions.first,
            mode="sum",
            per_sample_weights=directions.by_component,
        ).view(-1, directions.n_nodes, messages.shape[1])
        sizes = [sums[0]]
        for degree in range(1, directions.degree + 1):
            power = sums[degree**2 : (degree + 1) ** 2].square().sum(0)
            sizes.append(power.add_(SOFTENING).sqrt_())
        found = torch.stack(sizes, dim=1)
        ctx.save_for_backward(sums, found)
        ctx.directions = directions
        return found.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, None]:
        sums, found = ctx.saved_tensors
        directions: Directions = ctx.directions
        grad = grad.view_as(found)
        change = torch.empty_like(sums)
        change[0] = grad[:, 0]
        for degree in range(1, directions.degree + 1):
            part = slice(degree**2, (degree + 1) ** 2)
            torch.mul(sums[part], grad[:, degree] / found[:, degree], out=change[part])
        return functional.embedding_bag(
            directions.moment,
            change.flatten(0, 1),
            mode="sum",
            per_sample_weights=directions.by_edge,
        ), None
