"""Views of a graph for pretraining: masked atoms, masked edges, and noise on distances (GNDN).

On merged graphs (`graphs.asymmetric`) a node stands for several atoms and an edge for several
equal ones. A node is then masked with the share that its crystal's atoms have, an edge loses one
of the edges that it stands for, and equal edges get the same noise.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.graphs.graph import Graph

SMALLEST_DISTANCE = 0.1
"""Å; noise never takes a distance below it."""

MASKED = 0
"""Atomic number of a masked atom; networks give it an input of zeros."""


def augmented(
    graph: Graph,
    rng: torch.Generator,
    *,
    atom_mask: float = 0.1,
    edge_mask: float = 0.1,
    delta: float = 0.5,
) -> Graph:
    """Return one view: atoms masked, edges masked, distances changed; 0 leaves a step out.

    Args:
        graph: Any graphs; they are not changed.
        rng: Source of the draws.
        atom_mask: Share of the atoms of each crystal, in [0, 1).
        edge_mask: Share of the edges of each atom, in [0, 1).
        delta: Largest change of a distance in Å.
    """
    if atom_mask > 0.0:
        graph = mask_atoms(graph, atom_mask, rng)
    if edge_mask > 0.0:
        graph = mask_edges(graph, edge_mask, rng)
    if delta > 0.0:
        graph = noise_distances(graph, delta, rng)
    return graph


def mask_atoms(graph: Graph, share: float, rng: torch.Generator) -> Graph:
    """Return the graph with about ``share`` of each crystal's atoms as element 0.

    Of n atoms ``max(1, floor(share n))`` are masked, but never all: a crystal of one atom would
    have nothing left. On merged graphs the same share of the nodes is masked on average.

    Source:
        Crystal Twins (2022), atom masking; the rule for one atom is ours.
    """
    n_nodes = graph.n_atoms
    n_atoms = _per_crystal(graph, graph.weight)
    wanted = torch.floor(share * n_atoms + 1e-6).clamp_min(1.0) / n_atoms * n_nodes
    draw = torch.rand(len(graph), generator=rng, device=wanted.device)
    # Whole numbers stay as they are; fractions are rounded up as often as they say.
    n_masked = torch.floor(wanted + 1e-6 + draw * (1.0 - 2e-6)).long()
    n_masked = torch.minimum(n_masked, n_nodes - 1)
    key = torch.rand(len(graph.atomic_numbers), generator=rng, device=wanted.device)
    order = torch.argsort(graph.crystal_index + key.double())  # by crystal, at random within
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank -= graph.offsets[graph.crystal_index]
    is_masked = rank < n_masked[graph.crystal_index]
    return replace(graph, atomic_numbers=graph.atomic_numbers.masked_fill(is_masked, MASKED))


def mask_edges(graph: Graph, share: float, rng: torch.Generator) -> Graph:
    """Return the graph without ``share`` of the edges of every node.

    Of k edges ``ceil((1 - share) k)`` are kept: 11 of 12. An edge that stands for several loses
    one at a time, in proportion to how many it stands for. What is removed has count 0 and is
    False in ``mask``, so it sends no message.

    Source:
        Crystal Twins (2022), edge masking; there the removed edge becomes one to another atom.
    """
    count = graph.count.clone()
    total = count.sum(1)
    n_removed = (total - torch.ceil((1.0 - share) * total - 1e-6)).long()
    for turn in range(int(n_removed.max()) if len(n_removed) else 0):
        before = count.cumsum(1)
        place = torch.rand(len(count), generator=rng, device=count.device) * before[:, -1]
        column = (before <= place[:, None]).sum(1).clamp_max(count.shape[1] - 1)
        is_due = (turn < n_removed).to(count.dtype)
        count.scatter_add_(1, column[:, None], -is_due[:, None])
    count.clamp_min_(0.0)
    return replace(graph, count=count, mask=graph.mask & (count > 0.0))


def noise_distances(graph: Graph, delta: float, rng: torch.Generator) -> Graph:
    """Return the graph with each distance changed by up to ``delta`` Å; edges stay as they are.

    Source:
        Supervised Pretraining for Material Property Prediction (SPMat, 2025): graph-level
        neighbour distance noising, before the expansion in Gaussians.
    """
    noise = torch.rand(graph.distance.shape, generator=rng, device=graph.distance.device)
    changed = (graph.distance + delta * (2.0 * noise - 1.0)).clamp_min(SMALLEST_DISTANCE)
    return replace(graph, distance=torch.where(graph.mask, changed, graph.distance))


def _per_crystal(
    graph: Graph, values: Float[Tensor, " n_atoms_total"]
) -> Float[Tensor, " n_crystals"]:
    zeros = values.new_zeros(len(graph))
    return zeros.index_add(0, graph.crystal_index, values)
