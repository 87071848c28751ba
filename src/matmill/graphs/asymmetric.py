"""Fewer nodes for the same answer: atoms that no network can tell apart become one.

Atoms of one orbit of the space group have equal surroundings, so message passing gives them equal
features; one node that counts as many times is enough. The same holds for the copies in a
supercell. What counts is the graph, not the space group: the neighbours of equivalent atoms can
be cut differently where the last of k are equally far. So the classes are found on the graph
itself, by colour refinement (Weisfeiler and Leman, 1968): start from the elements, and divide
classes until atoms of a class agree in the distances and classes of all their neighbours.

Then many edges of a node are equal as well: rock salt has 2 nodes with 2 edges each, where the
cubic cell has 8 atoms with 12. Nodes and edges left, of those of the full graph
(``python benchmarks/cgcnn_speed.py``): 43 % and 18 % for 1,056 dielectrics, 46 % and 25 % for
MP-20. To find them costs about 20 µs a crystal, a tenth of finding the neighbours.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.graphs.graph import Graph

TOLERANCE_ANGSTROM = 3e-4
"""Sorted distances of a crystal that are closer than this are one and the same distance."""
SHAPE_TOLERANCE = 2e-3
"""The same for how neighbours lie: sums of a dozen harmonics, each at most 1."""

_WIDEST = 1e-3  # Å; many almost equal distances in a row are divided at least so finely
_MIX = (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85, 0x27BB2EE687B0B0FD)


def merged(graph: Graph) -> Graph:
    """Return the graph with indistinguishable atoms of a crystal as one node, by weight.

    Equal edges of a node, those of one length to one class, become one edge, by count. A network
    that adds messages by count and pools by weight gives the same output as for the full graph,
    up to the tolerance on distances. The order of crystals stays, and that of neighbours: nearest
    first, then padding.
    """
    if not graph.neighbor.numel():
        return graph
    lengths = _lengths(graph)
    classes = _classes(graph, lengths)
    n_classes = int(classes.max()) + 1
    rows = torch.arange(len(classes), device=classes.device)
    first = rows.new_full((n_classes,), len(classes)).scatter_reduce(0, classes, rows, "amin")
    kept = first.sort().values
    place = torch.full_like(rows, -1)
    place[kept] = torch.arange(n_classes, device=rows.device)
    node = place[first[classes]]
    weight = graph.weight.new_zeros(n_classes).index_add(0, node, graph.weight)
    small = Graph(
        n_atoms=torch.bincount(graph.crystal_index[kept], minlength=len(graph)),
        atomic_numbers=graph.atomic_numbers[kept],
        neighbor=node[graph.neighbor[kept].long()].to(graph.neighbor.dtype),
        distance=graph.distance[kept],
        mask=graph.mask[kept],
        weight=weight,
        count=graph.count[kept],
        direction=None if graph.direction is None else graph.direction[kept],
    )
    return _with_edges_joined(small, lengths[kept])


def _with_edges_joined(graph: Graph, lengths: Int[Tensor, "n_atoms_total k"]) -> Graph:
    """Return the graph with equal edges of each node as one; the free columns become padding."""
    n, k = graph.neighbor.shape
    # Lengths first: they ascend with distance, so the nearest stay in front.
    key = lengths * n + graph.neighbor.long()
    key = key.masked_fill(~graph.mask, torch.iinfo(torch.int64).max)
    key, order = key.sort(dim=1, stable=True)
    is_new = torch.ones_like(key, dtype=torch.bool)
    is_new[:, 1:] = key[:, 1:] != key[:, :-1]
    mask = graph.mask.gather(1, order) & is_new
    column = is_new.cumsum(1) - 1
    place = (torch.arange(n, device=column.device)[:, None] * k + column).flatten()
    count = graph.count.gather(1, order).flatten()
    count = torch.zeros_like(count).index_add(0, place, count).view(n, k)
    own = torch.arange(n, device=place.device)[:, None].expand(n, k)
    neighbor = own.to(graph.neighbor.dtype).contiguous()
    distance = graph.distance[:, -1:].repeat(1, k)
    where = place[mask.flatten()]
    direction = graph.direction
    if direction is not None:
        summed = torch.zeros_like(direction).flatten(0, 1)
        each = direction * graph.count[..., None]
        each = each.gather(1, order[..., None].expand_as(each)).flatten(0, 1)
        direction = summed.index_add(0, place, each).view_as(direction)
        direction = direction / count.clamp_min(1e-9)[..., None]
    neighbor.view(-1)[where] = graph.neighbor.gather(1, order)[mask]
    distance.view(-1)[where] = graph.distance.gather(1, order)[mask]
    filled = torch.zeros_like(mask)
    filled.view(-1)[where] = True
    return Graph(
        n_atoms=graph.n_atoms,
        atomic_numbers=graph.atomic_numbers,
        neighbor=neighbor,
        distance=distance,
        mask=filled,
        weight=graph.weight,
        count=count.masked_fill(~filled, 0.0),
        direction=direction,
    )


def _classes(
    graph: Graph, lengths: Int[Tensor, "n_atoms_total k"]
) -> Int[Tensor, " n_atoms_total"]:
    """Return the class of every atom, numbered from 0; classes never span two crystals."""
    length = _mixed(lengths, _MIX[0])
    neighbor, crystal = graph.neighbor.long(), graph.crystal_index
    classes = crystal * 128 + graph.atomic_numbers.long()
    classes = torch.unique(classes, return_inverse=True)[1]
    n_classes = int(classes.max()) + 1
    while True:
        # The sum of well-mixed numbers does not depend on the order of the neighbours.
        met = _mixed(length + _mixed(classes, _MIX[1])[neighbor], _MIX[2])
        met = (met * graph.count.long()).sum(1)
        seen = _mixed(met + _mixed(classes, _MIX[1]), _MIX[0])
        if graph.direction is not None:
            seen = _mixed(seen + _shapes(graph, graph.direction, length, classes), _MIX[1])
        classes = torch.unique(seen, return_inverse=True)[1]
        n_before, n_classes = n_classes, int(classes.max()) + 1
        if n_classes == n_before:
            return classes


def _shapes(
    graph: Graph,
    direction: Float[Tensor, "n_atoms_total k n_components"],
    length: Int[Tensor, "n_atoms_total k"],
    classes: Int[Tensor, " n_atoms_total"],
) -> Int[Tensor, " n_atoms_total"]:
    """Return a number for how each atom sees its neighbours, the same for any turn or mirror.

    Neighbours get weights by chance, the same for the same length and class. The length of their
    weighted sum, degree by degree, then differs whenever an angle between two of them does.
    """
    seen = length + _mixed(classes, _MIX[0])[graph.neighbor.long()]
    result = torch.zeros_like(classes)
    for mix in _MIX[:2]:
        chance = _mixed(seen, mix).double() / 2.0**63
        sums = torch.einsum("nk,nkc->nc", (chance * graph.count).to(direction.dtype), direction)
        n_degrees = round(sums.shape[1] ** 0.5)
        for degree in range(1, n_degrees):
            size = sums[:, degree**2 : (degree + 1) ** 2].norm(dim=1, keepdim=True)
            groups = _groups(size, graph.crystal_index, SHAPE_TOLERANCE, 4 * SHAPE_TOLERANCE)
            result = _mixed(result + groups[:, 0], mix)
    return result


def _lengths(graph: Graph) -> Int[Tensor, "n_atoms_total k"]:
    """Return a number for every distance, the same for the same distance of a crystal."""
    return _groups(graph.distance, graph.crystal_index, TOLERANCE_ANGSTROM, _WIDEST)


def _groups(
    numbers: Float[Tensor, "n_atoms_total m"],
    crystal_index: Int[Tensor, " n_atoms_total"],
    tolerance: float,
    widest: float,
) -> Int[Tensor, "n_atoms_total m"]:
    """Return whole numbers, the same for numbers of a crystal that are almost the same."""
    crystal = crystal_index.repeat_interleave(numbers.shape[1])
    # Crystals one after the other on one axis, far apart.
    position = numbers.flatten().double() + 1000.0 * crystal
    values, order = position.sort()
    is_new = torch.ones_like(values, dtype=torch.bool)
    is_new[1:] = values.diff() > tolerance
    group = is_new.cumsum(0) - 1
    start = values[is_new][group]
    finer = ((values - start) / widest).long()
    number = torch.empty_like(group)
    number[order] = group * 4096 + finer.clamp_max(4095)
    return number.view_as(numbers)


def _mixed(values: Int[Tensor, "*shape"], factor: int) -> Int[Tensor, "*shape"]:
    """Return integers whose bits all depend on all bits of the given ones (wrapping around)."""
    values = (values + factor) * _MIX[0]
    values = (values ^ (values >> 29)) * _MIX[1]
    values = (values ^ (values >> 32)) * _MIX[2]
    return values ^ (values >> 29)
