"""CGCNN as published: its element table, its layers, its unmasked padding, its readout.

The network has the parameters of the original, one matrix on the joined features of both atoms
and the edge. It computes in one of two forms. ``joined`` is the original's: a product over every
edge. ``split`` is the same function with the matrix divided, as in `predict.gate`, and about
thirty times faster; the two agree to 1e-4, in training as well.
"""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.crystals.elements import table
from matmill.errors import InputError
from matmill.graphs.graph import Graph
from matmill.graphs.radial import gaussians
from matmill.predict.ensemble import EnsemblePredictor
from matmill.predict.gate import Edges, gated_sum, weighted_norm

N_ELEMENT_FEATURES = 92
_PADDING_BEYOND = 1.0  # Å: the original puts missing neighbours that far behind the cutoff
_STEP = 0.0025  # Å; rows are interpolated, to an error far below 1e-4
_NOBLE = (2, 10, 18, 36, 54, 86)


class ReferenceConv(nn.Module):
    """One convolution with the parameters of the original.

    Args:
        width: Features of an atom.
        n_edge_features: Gaussians of a distance.

    Source:
        Xie and Grossman, CGCNN (2018), equation 5.
    """

    def __init__(self, width: int, n_edge_features: int) -> None:
        super().__init__()
        self.full = nn.Linear(2 * width + n_edge_features, 2 * width)
        self.edge_norm = nn.BatchNorm1d(2 * width)
        self.norm = nn.BatchNorm1d(width)

    def joined(
        self,
        atoms: Float[Tensor, "n_atoms width"],
        neighbor: Int[Tensor, "n_atoms k"],
        features: Float[Tensor, "n_atoms k n_edge_features"],
    ) -> Float[Tensor, "n_atoms width"]:
        """Return new features by the original's steps."""
        n, k = neighbor.shape
        own = atoms[:, None].expand(-1, k, -1)
        gates = self.full(torch.cat([own, atoms[neighbor], features], dim=2))
        gate, core = self.edge_norm(gates.view(n * k, -1)).view(n, k, -1).chunk(2, dim=2)
        messages = (torch.sigmoid(gate) * functional.softplus(core)).sum(1)
        return functional.softplus(atoms + self.norm(messages))

    def split(
        self,
        atoms: Float[Tensor, "n_nodes width"],
        edges: Edges,
        weight: Float[Tensor, " n_nodes"],
        grid: Float[Tensor, "n_rows n_edge_features"],
    ) -> Float[Tensor, "n_nodes width"]:
        """Return the same by the steps of `predict.gate`."""
        width = atoms.shape[1]
        own, other, edge = self.full.weight.split([width, width, grid.shape[1]], dim=1)
        bias = functional.pad(self.full.bias, (0, 2 * width))
        parts = functional.linear(atoms, torch.cat([own, other]), bias)
        messages = gated_sum(parts, grid @ edge.T, self.edge_norm, edges)
        return functional.softplus(atoms + weighted_norm(messages, self.norm, weight))


class ReferenceCgcnn(nn.Module):
    """The network of the paper, with a head beside it that watches the error.

    Args:
        n_targets: Number of outputs.
        width: Features of an atom.
        hidden: Width after pooling.
        n_layers: Convolutions.
        cutoff: Largest neighbour distance in Å, as the graphs were built.
        form: ``split`` is fast, ``joined`` goes the original's way.
    """

    takes_merged: ClassVar[bool] = True
    best_precision: ClassVar[str] = "fp32"  # its products are too small for the casts around them
    element_table: Tensor
    grid: Tensor

    def __init__(
        self,
        n_targets: int,
        *,
        width: int = 64,
        hidden: int = 128,
        n_layers: int = 3,
        cutoff: float = 8.0,
        form: Literal["split", "joined"] = "split",
    ) -> None:
        super().__init__()
        self.cutoff, self.form = cutoff, form
        self.register_buffer("element_table", element_one_hot(), persistent=False)
        farthest = cutoff + _PADDING_BEYOND
        points = torch.arange(round(farthest / _STEP) + 2, dtype=torch.float64) * _STEP
        self.register_buffer("grid", gaussians(points, cutoff=cutoff).float(), persistent=False)
        self.embed = nn.Linear(N_ELEMENT_FEATURES, width)
        self.layers = nn.ModuleList(
            ReferenceConv(width, self.grid.shape[1]) for _ in range(n_layers)
        )
        self.after = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, n_targets)
        self.noise = nn.Linear(hidden, n_targets)

    def embedding(self, graph: Graph) -> Float[Tensor, "n_crystals hidden"]:
        """Return the learned features of each crystal, before the last layer.

        Raises:
            InputError: If the form is ``joined`` and nodes stand for several atoms.
        """
        atoms = self.embed(self.element_table)[graph.atomic_numbers.long()]
        atoms = self._joined(atoms, graph) if self.form == "joined" else self._split(atoms, graph)
        zeros = atoms.new_zeros(len(graph), atoms.shape[1])
        total = zeros[:, 0].index_add(0, graph.crystal_index, graph.weight)
        summed = zeros.index_add(0, graph.crystal_index, atoms * graph.weight[:, None])
        pooled = functional.softplus(summed / total[:, None])
        return functional.softplus(self.after(pooled))

    def forward(
        self, graph: Graph
    ) -> tuple[Float[Tensor, "n_crystals n_targets"], Float[Tensor, "n_crystals n_targets"]]:
        """Return the output, and the log of the expected absolute error, on the trained scale."""
        features = self.embedding(graph)
        return self.out(features).float(), self.noise(features.detach()).float()

    def _joined(self, atoms: Tensor, graph: Graph) -> Tensor:
        if not bool((graph.weight == 1.0).all()) or not bool((graph.count <= 1.0).all()):
            raise InputError("The form 'joined' needs a graph of all atoms, not a merged one.")
        first = graph.offsets[graph.crystal_index][:, None]
        neighbor = torch.where(graph.mask, graph.neighbor.long(), first)
        far = torch.full_like(graph.distance, self.cutoff + _PADDING_BEYOND)
        features = gaussians(torch.where(graph.mask, graph.distance, far), cutoff=self.cutoff)
        for layer in self.layers:
            atoms = layer.joined(atoms, neighbor, features)  # pyright: ignore[reportCallIssue]
        return atoms

    def _split(self, atoms: Tensor, graph: Graph) -> Tensor:
        padded = with_padding(graph, self.cutoff + _PADDING_BEYOND)
        edges = Edges.of(
            padded, step=_STEP, cutoff=self.cutoff + _PADDING_BEYOND, is_interpolated=True
        )
        for layer in self.layers:
            atoms = layer.split(atoms, edges, graph.weight, self.grid)  # pyright: ignore[reportCallIssue]
        return atoms


class ReferencePredictor(EnsemblePredictor):
    """CGCNN by the published recipe; everything can still be set."""

    network: ClassVar[str] = "cgcnn-reference"
    preset: ClassVar[str] = "reference"


def with_padding(graph: Graph, distance: float) -> Graph:
    """Return the graph with missing neighbours as edges to the crystal's first atom.

    Args:
        graph: Any graph, merged or not; each node should have as many edges as it has columns.
        distance: Length of such an edge in Å.
    """
    k = graph.neighbor.shape[1]
    missing = (k - graph.count.sum(1, keepdim=True)).clamp_min(0.0)
    first = graph.offsets[graph.crystal_index][:, None]
    return replace(
        graph,
        neighbor=torch.cat([graph.neighbor, first.to(graph.neighbor.dtype)], dim=1),
        distance=torch.cat([graph.distance, torch.full_like(missing, distance)], dim=1),
        mask=torch.cat([graph.mask, missing > 0.0], dim=1),
        count=torch.cat([graph.count, missing], dim=1),
        direction=None,
    )


def element_one_hot() -> Float[Tensor, "119 92"]:
    """Return nine one-hot facts of each element by Z, zeros where unknown and above Z = 100.

    Group (with one place for the f block), period, electronegativity, covalent radius, valence
    electrons, ionisation energy, electron affinity, block, atomic volume. Rebuilt from the facts;
    some affinities and volumes fall into another bin than in the original's list, which took
    other sources.

    Source:
        Xie and Grossman, CGCNN (2018), supplement.
    """
    z = torch.arange(119)
    is_f = ((z >= 57) & (z <= 70)) | ((z >= 89) & (z <= 102))
    group = table("group").nan_to_num(0.0).long()
    affinity = table("electron_affinity").index_fill(0, torch.tensor(_NOBLE), torch.nan)
    main = torch.where(group > 12, group - 10, group)
    valence = torch.where(is_f, 2, main).index_fill(0, torch.tensor([2]), 2)
    block = torch.where(group > 12, 1, torch.where(group > 2, 2, 0))
    block = torch.where(is_f, 3, block).index_fill(0, torch.tensor([2]), 0)
    columns = [
        functional.one_hot(torch.where(is_f, 0, group), 19),
        functional.one_hot((table("period").nan_to_num(1.0).long() - 1).clamp(0, 6), 7),
        _bins(table("electronegativity"), 0.5, 4.0),
        _bins(table("pyykko_radius") * 100.0, 25.0, 250.0),
        functional.one_hot((valence - 1).clamp(0, 11), 12),
        _bins(table("first_ionization_energy").log(), 1.3, 3.3),
        _bins(affinity, -3.0, 3.7),
        functional.one_hot(block, 4),
        _bins(table("molar_volume").log(), 1.5, 4.3),
    ]
    features = torch.cat([column.float() for column in columns], dim=1)
    is_listed = (z >= 1) & (z <= 100)
    return features * is_listed[:, None]


def _bins(values: Float[Tensor, " 119"], low: float, high: float) -> Float[Tensor, "119 10"]:
    """Return ten equal bins between two ends, nothing where the value is unknown."""
    place = ((values - low) / (high - low) * 10.0).nan_to_num(0.0).floor().long().clamp(0, 9)
    return functional.one_hot(place, 10).float() * torch.isfinite(values)[:, None]
