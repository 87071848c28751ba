"""Compositions as graphs without edges: a node for each element, weighted by its amount."""

import torch

from matmill.crystals.compositions import CompositionBatch
from matmill.graphs.graph import Graph


def composition_graph(compositions: CompositionBatch) -> Graph:
    """Return one node for each element of each composition, by atomic number, without edges.

    The weight of a node is the amount as written, so ``weight`` divided by its sum over the
    composition is the atom fraction.
    """
    row, number = torch.nonzero(compositions.amounts, as_tuple=True)
    n = len(row)
    device = compositions.amounts.device
    return Graph(
        n_atoms=torch.bincount(row, minlength=len(compositions)),
        atomic_numbers=number,
        neighbor=torch.zeros(n, 0, dtype=torch.int32, device=device),
        distance=torch.zeros(n, 0, device=device),
        mask=torch.zeros(n, 0, dtype=torch.bool, device=device),
        weight=compositions.amounts[row, number].float(),
    )
