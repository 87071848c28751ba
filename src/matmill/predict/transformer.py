"""Crystal transformer: each atom attends to its neighbours by kind, distance and direction.

Made for a CPU. Products with weights run over atoms, never over edges: what an edge needs of its
length comes from a table (`graphs.radial`). Angles between neighbours come from moments
(`predict.transformer_moments`), without a pass over pairs of neighbours. Everything that is
passed on from atom to atom is unchanged when the crystal is turned, so that equivalent atoms can
be one node and equal edges one edge (`graphs.asymmetric`).

Seeds of the design: the attention over neighbours, with keys and values made from atom and
distance, is that of Matformer (Yan et al., 2022) and ComFormer (2024); the moments are those of
moment tensor potentials (Shapeev, 2016) and the atomic cluster expansion (Drautz, 2019).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from matmill.errors import InputError
from matmill.graphs.graph import Graph
from matmill.graphs.radial import GRID_STEP, DistanceTable
from matmill.predict.cgcnn import N_ELEMENTS, element_features, pool
from matmill.predict.ensemble import EnsemblePredictor
from matmill.predict.gate import Edges
from matmill.predict.transformer_moments import Directions, sizes_of_moments

DEGREE = 2
"""Of the directions: 0 sees no angles, 1 and 2 the first two Legendre polynomials of them."""

_LARGEST_SCORE = 20.0  # of attention, before the exponential
# The Gaussians of one distance add up to √π when as wide as their spacing: weights that are all
# 1/√π give 1 at any distance. Messages start out near what the neighbour says, whatever its
# distance.
_ONE = torch.pi**-0.5


class NeighborAttention(nn.Module):
    """What each atom takes from its neighbours.

    An edge from atom i to its neighbour j has, for each head, the score
    ``q_i · (k_j * e(d_ij))``; attention is its softmax over the neighbours and one empty place,
    so that an atom can also take little from all. The message is ``v_j * e'(d_ij)`` times the
    attention. Messages are summed, and so are their moments; the sum and the sizes of the
    moments make the output.

    Args:
        width: Features of an atom.
        channels: Width of a message.
        n_heads: Heads, each of which weighs its share of the channels.
        key_width: Features of a key, for each head.
        degree: Largest degree of the moments.
        cutoff: Largest neighbour distance in Å.
    """

    def __init__(
        self,
        width: int,
        *,
        channels: int,
        n_heads: int,
        key_width: int,
        degree: int,
        cutoff: float,
    ) -> None:
        super().__init__()
        self.n_heads, self.key_width, self.channels = n_heads, key_width, channels
        n_keys = n_heads * key_width
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, n_keys)
        self.other = nn.Linear(width, n_keys + channels)
        self.edge = DistanceTable(n_keys + channels, cutoff=cutoff)
        with torch.no_grad():
            self.edge.weight.add_(_ONE)
        self.size_norm = nn.LayerNorm(channels * (degree + 1))
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(channels * (degree + 1), width)

    def forward(
        self, atoms: Float[Tensor, "n_nodes width"], edges: Edges, directions: Directions
    ) -> Float[Tensor, "n_nodes width"]:
        """Return what is to be added to the features of each atom."""
        atoms = self.norm(atoms)
        n_keys = self.n_heads * self.key_width
        # In float32 from here on: exponentials and sums over many edges need it.
        said = functional.embedding(edges.target, self.other(atoms).float())
        said = said * _rows(self.edge.table().float(), edges)
        keys, values = said.split([n_keys, self.channels], dim=1)
        scores = keys * functional.embedding(edges.source, self.query(atoms).float())
        scores = scores.view(-1, self.n_heads, self.key_width).sum(2) * self.key_width**-0.5
        attention = _attention(scores, edges)
        messages = values.view(-1, self.n_heads, self.channels // self.n_heads)
        messages = (messages * attention[:, :, None]).flatten(1)
        sizes = self.size_norm(sizes_of_moments(messages, directions))
        return self.out(sizes) * torch.sigmoid(self.gate(atoms))


def _attention(
    scores: Float[Tensor, "n_edges n_heads"], edges: Edges
) -> Float[Tensor, "n_edges n_heads"]:
    """Return the softmax of the scores over the edges of each node and one empty place."""
    weights = torch.exp(scores.clamp(-_LARGEST_SCORE, _LARGEST_SCORE)) * edges.count[:, None]
    empty = weights.new_ones(len(edges.first), scores.shape[1])
    total = empty.index_add(0, edges.source, weights)
    return weights / functional.embedding(edges.source, total)


def _rows(table: Float[Tensor, "n_rows n_out"], edges: Edges) -> Float[Tensor, "n_edges n_out"]:
    """Return the row of a distance table for each edge."""
    rows = functional.embedding(edges.row, table)
    if edges.share is None:
        return rows
    return torch.lerp(rows, functional.embedding(edges.row + 1, table), edges.share[:, None])


class AtomMix(nn.Module):
    """Gated feed-forward layer on the features of each atom.

    Args:
        width: Features of an atom.

    Source:
        Shazeer, GLU variants improve transformer (2020).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, atoms: Float[Tensor, "n_nodes width"]) -> Float[Tensor, "n_nodes width"]:
        """Return what is to be added to the features of each atom."""
        gate, core = self.into(self.norm(atoms)).chunk(2, dim=1)
        return self.out(functional.silu(gate) * core)


class CrystalTransformer(nn.Module):
    """Transformer on crystal graphs with a mean and a noise output for every target.

    Args:
        n_targets: Number of outputs.
        width: Features of an atom.
        hidden: Width after pooling.
        n_layers: Rounds of attention.
        cutoff: Largest neighbour distance in Å, as the graphs were built.
        channels: Width of a message.
        n_heads: Heads of attention; they share the channels.
        key_width: Features of a key, for each head.
        degree: Largest degree of the moments, at most that of the graphs.
        dropout: Share of what each layer adds that is left out in training. In short trainings
            errors grew with it.

    Raises:
        InputError: If the channels cannot be shared among the heads.
    """

    takes_merged: ClassVar[bool] = True
    reads_degree: ClassVar[int] = DEGREE
    element_table: Tensor

    def __init__(
        self,
        n_targets: int,
        *,
        width: int = 64,
        hidden: int = 128,
        n_layers: int = 3,
        cutoff: float = 8.0,
        channels: int = 64,
        n_heads: int = 4,
        key_width: int = 8,
        degree: int = DEGREE,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % n_heads:
            raise InputError(
                f"{channels} channels cannot be shared among {n_heads} heads; give a multiple."
            )
        self.cutoff, self.degree = cutoff, degree
        self.drop = nn.Dropout(dropout)
        features = element_features()
        self.register_buffer("element_table", features, persistent=False)
        self.embed = nn.Linear(features.shape[1], width)
        self.offset = nn.Embedding(N_ELEMENTS, width)
        nn.init.zeros_(self.offset.weight)
        self.attention = nn.ModuleList(
            NeighborAttention(
                width,
                channels=channels,
                n_heads=n_heads,
                key_width=key_width,
                degree=degree,
                cutoff=cutoff,
            )
            for _ in range(n_layers)
        )
        self.mix = nn.ModuleList(AtomMix(width) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.after = nn.Linear(2 * width, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, n_targets)
        self.noise = nn.Linear(hidden, n_targets)

    def embedding(self, graph: Graph) -> Float[Tensor, "n_crystals hidden"]:
        """Return the learned features of each crystal, before the last layer.

        Raises:
            InputError: If the graph has no directions of the degree that the network reads.
        """
        numbers = graph.atomic_numbers.long()
        atoms = (self.embed(self.element_table) + self.offset.weight)[numbers]
        # In training the nearest row of the distance table is taken, as in `graphs.radial`.
        edges = Edges.of(
            graph, step=GRID_STEP, cutoff=self.cutoff, is_interpolated=not self.training
        )
        directions = Directions.of(graph, self.degree)
        for attend, mix in zip(self.attention, self.mix, strict=True):
            atoms = atoms + self.drop(attend(atoms, edges, directions))
            atoms = atoms + self.drop(mix(atoms))
        pooled = pool(self.norm(atoms), graph.crystal_index, len(graph), graph.weight)
        features = functional.silu(self.after(torch.cat(pooled, dim=1)))
        return functional.silu(self.hidden(features))

    def forward(
        self, graph: Graph
    ) -> tuple[Float[Tensor, "n_crystals n_targets"], Float[Tensor, "n_crystals n_targets"]]:
        """Return mean and log of the expected absolute error, on the trained scale."""
        features = self.embedding(graph)
        # The noise head only watches: its gradient must not disturb what the mean needs.
        return self.out(features).float(), self.noise(features.detach()).float()


class TransformerPredictor(EnsemblePredictor):
    """One property of an ensemble of crystal transformers."""

    network: ClassVar[str] = "transformer"
