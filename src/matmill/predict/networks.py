"""The networks that an ensemble can be made of, by name, and the graphs that each reads."""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from matmill.crystals.batch import CrystalBatch
from matmill.errors import UnknownNameError
from matmill.graphs.graph import Graph, build

# name -> "module:class". The class takes the number of targets and the card's network_settings,
# and has embedding(graph), out, noise and forward(graph) -> (mean, log expected error).
NETWORKS = {
    "cgcnn": "matmill.predict.cgcnn:Cgcnn",
    "composition": "matmill.predict.baselines:CompositionNetwork",
}


def network_class(kind: str) -> type[nn.Module]:
    """Return the class of a network.

    Raises:
        UnknownNameError: If there is no network of that name.
    """
    if kind not in NETWORKS:
        raise UnknownNameError("predictor network", kind, sorted(NETWORKS))
    module, _, attribute = NETWORKS[kind].partition(":")
    return getattr(import_module(module), attribute)


def make_network(card: dict[str, Any]) -> nn.Module:
    """Return an untrained network of the kind and size that a card names."""
    return network_class(card["network"])(len(card["columns_trained"]), **card["network_settings"])


def graphs_for(card: dict[str, Any], batch: CrystalBatch) -> Graph:
    """Return graphs as the networks of a card read them; compositions need no neighbours."""
    if card["network"] == "composition":
        n = len(batch.atomic_numbers)
        return Graph(
            n_atoms=batch.n_atoms,
            atomic_numbers=batch.atomic_numbers,
            neighbor=torch.zeros(n, 0, dtype=torch.int32, device=batch.n_atoms.device),
            distance=torch.zeros(n, 0, device=batch.n_atoms.device),
            mask=torch.zeros(n, 0, dtype=torch.bool, device=batch.n_atoms.device),
        )
    return build(batch, k=card["n_neighbors"], cutoff=card["cutoff_angstrom"])
