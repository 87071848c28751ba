"""CGCNN in its fast form: the layer of the paper with its products moved off the edges.

For an edge from atom i to neighbour j, ``W [v_i; v_j; e_ij]`` equals
``W_own v_i + W_neighbor v_j + W_edge e_ij``. The first two are computed once an atom, the third
once a grid distance (`graphs.radial.DistanceTable`), so no product runs over the edges.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.crystals.elements import table
from matmill.graphs.graph import Graph
from matmill.graphs.radial import GRID_STEP, DistanceTable
from matmill.predict.gate import Edges, gated_sum, weighted_norm

N_ELEMENTS = 119


class CrystalConv(nn.Module):
    """One gated convolution over the neighbours.

    Args:
        width: Features of an atom.
        cutoff: Largest neighbour distance in Å.

    Source:
        Xie and Grossman, CGCNN (2018), equation 5.
    """

    def __init__(self, width: int, *, cutoff: float) -> None:
        super().__init__()
        self.own = nn.Linear(width, 2 * width)
        self.other = nn.Linear(width, 2 * width, bias=False)
        self.edge = DistanceTable(2 * width, cutoff=cutoff)
        self.edge_norm = nn.BatchNorm1d(2 * width)
        self.norm = nn.BatchNorm1d(width)

    def forward(
        self,
        atoms: Float[Tensor, "n_atoms_total width"],
        edges: Edges,
        weight: Float[Tensor, " n_atoms_total"],
    ) -> Float[Tensor, "n_atoms_total width"]:
        """Return the new features of every atom.

        Args:
            atoms: Features, ``(n_atoms_total, width)``.
            edges: Of each atom to its neighbours.
            weight: Atoms that each node stands for.
        """
        # One product for both: what an atom puts into its own edges and into those of others.
        bias = functional.pad(self.own.bias, (0, len(self.own.bias)))
        weights = torch.cat([self.own.weight, self.other.weight])
        parts = functional.linear(atoms, weights, bias)
        messages = gated_sum(parts, self.edge.table(), self.edge_norm, edges)
        return functional.softplus(atoms + weighted_norm(messages, self.norm, weight))


class Cgcnn(nn.Module):
    """Crystal graph network with a mean and a noise output for every target.

    Args:
        n_targets: Number of outputs.
        width: Features of an atom.
        hidden: Width after pooling.
        n_layers: Convolutions.
        cutoff: Largest neighbour distance in Å, as the graphs were built.
    """

    takes_merged: ClassVar[bool] = True
    best_precision: ClassVar[str] = "fp32"  # its products are too small for the casts around them
    element_table: Tensor

    def __init__(
        self,
        n_targets: int,
        *,
        width: int = 64,
        hidden: int = 128,
        n_layers: int = 3,
        cutoff: float = 8.0,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        features = element_features()
        self.register_buffer("element_table", features, persistent=False)
        self.embed = nn.Linear(features.shape[1], width)
        self.offset = nn.Embedding(N_ELEMENTS, width)
        nn.init.zeros_(self.offset.weight)
        self.layers = nn.ModuleList(CrystalConv(width, cutoff=cutoff) for _ in range(n_layers))
        self.after = nn.Linear(2 * width, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, n_targets)
        self.noise = nn.Linear(hidden, n_targets)

    def edges(self, graph: Graph) -> Edges:
        """Return the edges as the convolutions read them.

        In training the nearest row of the distance table is taken (an error of at most half a
        step, below the noise of the structures); otherwise rows are interpolated linearly.
        """
        return Edges.of(
            graph, step=GRID_STEP, cutoff=self.cutoff, is_interpolated=not self.training
        )

    def embedding(self, graph: Graph) -> Float[Tensor, "n_crystals hidden"]:
        """Return the learned features of each crystal, before the last layer."""
        numbers = graph.atomic_numbers.long()
        atoms = (self.embed(self.element_table) + self.offset.weight)[numbers]
        edges = self.edges(graph)
        for layer in self.layers:
            atoms = layer(atoms, edges, graph.weight)
        pooled = torch.cat(pool(atoms, graph.crystal_index, len(graph), graph.weight), dim=1)
        features = functional.softplus(self.after(functional.softplus(pooled)))
        return functional.softplus(self.hidden(features))

    def forward(
        self, graph: Graph
    ) -> tuple[Float[Tensor, "n_crystals n_targets"], Float[Tensor, "n_crystals n_targets"]]:
        """Return mean and log of the expected absolute error, on the trained scale."""
        features = self.embedding(graph)
        # The noise head only watches: its gradient must not disturb what the mean needs.
        return self.out(features).float(), self.noise(features.detach()).float()


def pool(
    atoms: Float[Tensor, "n_atoms_total width"],
    crystal_index: Int[Tensor, " n_atoms_total"],
    n_crystals: int,
    weight: Float[Tensor, " n_atoms_total"],
) -> tuple[Float[Tensor, "n_crystals width"], Float[Tensor, "n_crystals width"]]:
    """Return mean and standard deviation over the atoms of each crystal, by their weight."""
    atoms = atoms.float()
    zeros = atoms.new_zeros(n_crystals, atoms.shape[1])
    total = weight.new_zeros(n_crystals).index_add(0, crystal_index, weight)
    share = (weight / total[crystal_index])[:, None]
    mean = zeros.index_add(0, crystal_index, atoms * share)
    spread = (atoms - mean[crystal_index]).square()
    variance = zeros.index_add(0, crystal_index, spread * share)
    return mean, (variance + 1e-6).sqrt()


def element_features() -> Float[Tensor, "n_elements n_features"]:
    """Return a fixed description of each element by Z; row 0 is unknown.

    Group and period as one-hot vectors, continuous facts standardised, unknown values 0. What it
    lacks, the learned offset of each element adds.
    """
    group = table("group").nan_to_num(0.0).long().clamp(0, 18)
    period = table("period").nan_to_num(0.0).long().clamp(0, 7)
    columns = [functional.one_hot(group, 19), functional.one_hot(period, 8)]
    for name in ("mass", "electronegativity", "covalent_radius"):
        values = table(name)
        values = values.log() if name == "mass" else values
        known = values[torch.isfinite(values)]
        scaled = ((values - known.mean()) / known.std()).nan_to_num(0.0)
        # Smooth bins beside the value: sharp chemistry is easier to read from them.
        bins = torch.exp(-((scaled[:, None] - torch.linspace(-2.5, 2.5, 11)) ** 2) / 0.25)
        bins = torch.where(torch.isfinite(values)[:, None], bins, torch.zeros_like(bins))
        columns += [scaled[:, None], bins]
    features = torch.cat([column.double() for column in columns], dim=1)
    features[0] = 0.0
    return torch.where(features.abs() < 1e-6, torch.zeros_like(features), features).float()
