"""The networks that an ensemble can be made of, by name, and the graphs that each reads."""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.errors import InputError, UnknownNameError
from matmill.graphs.composition import composition_graph
from matmill.graphs.graph import Graph, build
from matmill.training.precision import Precision

_CHUNK_ATOMS = 4096

# name -> "module:class". The class takes the number of targets and the card's network_settings,
# and has embedding(graph), out, noise and forward(graph) -> (mean, log expected error). Four
# attributes of the class tell more: `reads` is "structure" (the default) or "composition",
# `takes_merged` is True where merged nodes and edges are understood, `reads_degree` is the
# degree of the directions of neighbours that it needs, and `best_precision` was measured.
NETWORKS = {
    "cgcnn": "matmill.predict.cgcnn:Cgcnn",
    "cgcnn-reference": "matmill.predict.reference:ReferenceCgcnn",
    "composition": "matmill.predict.baselines:CompositionNetwork",
    "roost": "matmill.predict.roost:Roost",
    "transformer": "matmill.predict.transformer:CrystalTransformer",
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


def reads_compositions(kind: str) -> bool:
    """Return whether a network needs no structures, only what they are made of."""
    return getattr(network_class(kind), "reads", "structure") == "composition"


def takes_merged(kind: str) -> bool:
    """Return whether a network gives the same for merged graphs; see `graphs.asymmetric`."""
    return getattr(network_class(kind), "takes_merged", False)


def degree_read(kind: str) -> int | None:
    """Return the degree of the directions that a network reads; None if it reads none."""
    return getattr(network_class(kind), "reads_degree", None)


def best_precision(kind: str, wanted: Precision = "auto") -> Precision:
    """Return the precision that ``auto`` stands for where a network was measured in both."""
    best: Any = getattr(network_class(kind), "best_precision", "auto")
    return best if wanted == "auto" else wanted


def require_readable(kind: str, batch: CrystalBatch | CompositionBatch) -> None:
    """Refuse compositions for a network that reads structures.

    Raises:
        InputError: Naming what to take instead.
    """
    if not isinstance(batch, CrystalBatch) and not reads_compositions(kind):
        raise InputError(
            f"The network {kind} reads structures, but only compositions were given. Take a "
            "model that reads compositions, e.g. roost."
        )


def graphs_for(card: dict[str, Any], batch: CrystalBatch | CompositionBatch) -> Graph:
    """Return graphs as the networks of a card read them; compositions need no neighbours.

    Raises:
        InputError: If the networks read structures and there are only compositions.
    """
    kind = card["network"]
    if reads_compositions(kind):
        is_crystals = isinstance(batch, CrystalBatch)
        return composition_graph(CompositionBatch.of(batch) if is_crystals else batch)
    require_readable(kind, batch)
    assert isinstance(batch, CrystalBatch)
    return build(
        batch,
        k=card["n_neighbors"],
        cutoff=card["cutoff_angstrom"],
        is_merged=takes_merged(kind),
        degree=degree_read(kind),
    )


def chunks(graph: Graph) -> list[Graph]:
    """Return the graph cut into parts of bounded size, in order."""
    if len(graph.atomic_numbers) <= _CHUNK_ATOMS:
        return [graph]
    ends = graph.n_atoms.cumsum(0)
    groups = ((ends - 1) // _CHUNK_ATOMS).cpu()
    return [graph.select(torch.nonzero(groups == g).flatten()) for g in groups.unique()]
