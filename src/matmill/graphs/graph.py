"""`Graph`: each atom with its nearest periodic neighbours, for a whole batch, in flat tensors."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.neighbors import nearest
from matmill.errors import DataError, InputError
from matmill.graphs.angles import harmonics
from matmill.progress import Event, OnEvent, ignore

_CHUNK_CRYSTALS = 2000
_FADE_ANGSTROM = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Nearest neighbours of every node of a batch; a node is an atom unless nodes were merged.

    Attributes:
        n_atoms: Nodes of each crystal, ``(n_crystals,)``.
        atomic_numbers: Z of each atom, ``(n_atoms_total,)``.
        neighbor: Row of each neighbour in this graph, nearest first, ``(n_atoms_total, k)``;
            the atom itself where there is no further neighbour.
        distance: In Å, ``(n_atoms_total, k)`` float32; where there is no neighbour the cutoff, or
            the farthest distance of the node when equal edges were joined.
        mask: True where there is a neighbour, ``(n_atoms_total, k)``.
        weight: How many atoms of the cell, or which amount of a formula, each node stands for,
            ``(n_atoms_total,)`` float32; 1 by default. Networks pool with it.
        count: How many equal edges each entry stands for, ``(n_atoms_total, k)`` float32; 1 by
            default, 0 where there is no neighbour. Networks add messages with it.
        direction: Where the neighbours lie, as `graphs.angles.harmonics` of degree 0 and up, the
            mean over equal edges, ``(n_atoms_total, k, n_components)`` float32; 0 where there is
            no neighbour. Those of degree 1 and up fade out towards the last neighbour: of several
            that are equally far it is arbitrary which are listed. None unless asked for.
    """

    n_atoms: Int[Tensor, " n_crystals"]
    atomic_numbers: Int[Tensor, " n_atoms_total"]
    neighbor: Int[Tensor, "n_atoms_total k"]
    distance: Float[Tensor, "n_atoms_total k"]
    mask: Bool[Tensor, "n_atoms_total k"]
    weight: Float[Tensor, " n_atoms_total"] = None  # pyright: ignore[reportAssignmentType]
    count: Float[Tensor, "n_atoms_total k"] = None  # pyright: ignore[reportAssignmentType]
    direction: Float[Tensor, "n_atoms_total k n_components"] | None = None

    def __post_init__(self) -> None:
        if self.weight is None:
            ones = torch.ones(len(self.atomic_numbers), device=self.atomic_numbers.device)
            object.__setattr__(self, "weight", ones)
        if self.count is None:
            object.__setattr__(self, "count", self.mask.float())

    def __len__(self) -> int:
        return len(self.n_atoms)

    @cached_property
    def offsets(self) -> Int[Tensor, " n_crystals"]:
        """Row of the first atom of each crystal."""
        return self.n_atoms.cumsum(0) - self.n_atoms

    @cached_property
    def crystal_index(self) -> Int[Tensor, " n_atoms_total"]:
        """The crystal that each atom belongs to."""
        crystals = torch.arange(len(self.n_atoms), device=self.n_atoms.device)
        return torch.repeat_interleave(crystals, self.n_atoms)

    def select(self, index: Int[Tensor, " n_wanted"] | Sequence[int]) -> "Graph":
        """Return the graphs of these crystals, in this order."""
        index = torch.as_tensor(index, device=self.n_atoms.device).long()
        n_atoms = self.n_atoms[index]
        first = torch.repeat_interleave(self.offsets[index], n_atoms)
        new_first = torch.repeat_interleave(n_atoms.cumsum(0) - n_atoms, n_atoms)
        rows = first + torch.arange(len(first), device=first.device) - new_first
        shift = (new_first - first)[:, None].to(self.neighbor.dtype)
        return Graph(
            n_atoms=n_atoms,
            atomic_numbers=self.atomic_numbers[rows],
            neighbor=self.neighbor[rows] + shift,
            distance=self.distance[rows],
            mask=self.mask[rows],
            weight=self.weight[rows],
            count=self.count[rows],
            direction=None if self.direction is None else self.direction[rows],
        )

    def to(self, device: str | torch.device) -> "Graph":
        """Return a copy on ``device``."""
        return Graph(
            n_atoms=self.n_atoms.to(device),
            atomic_numbers=self.atomic_numbers.to(device),
            neighbor=self.neighbor.to(device),
            distance=self.distance.to(device),
            mask=self.mask.to(device),
            weight=self.weight.to(device),
            count=self.count.to(device),
            direction=None if self.direction is None else self.direction.to(device),
        )


def build(
    batch: CrystalBatch,
    k: int = 12,
    cutoff: float = 8.0,
    *,
    is_merged: bool = False,
    degree: int | None = None,
    on_event: OnEvent = ignore,
) -> Graph:
    """Return the graph of the ``k`` nearest neighbours within ``cutoff`` Å.

    Atoms with fewer neighbours are padded and masked. Ties are broken the same way every time.

    Args:
        batch: Any number of crystals.
        k: Neighbours of each atom.
        cutoff: Farthest neighbour in Å.
        is_merged: Make atoms that no network can tell apart one node, and equal edges one edge;
            see `graphs.asymmetric`.
        degree: Keep the directions of neighbours up to this degree of `graphs.angles`; None for
            none.
        on_event: Told about progress.

    Raises:
        InputError: If a cell is flat or holds numbers that are not finite.
    """
    is_finite = torch.isfinite(batch.lattice).flatten(1).all(1) & (batch.volume > 1e-6)
    if not bool(is_finite.all()):
        row = int(torch.nonzero(~is_finite)[0])
        name = batch.ids[row] if batch.ids else f"number {row}"
        raise InputError(f"Crystal {name} has no volume; its neighbours are not defined.")
    parts: list[Graph] = []
    for start in range(0, len(batch), _CHUNK_CRYSTALS):
        stop = min(start + _CHUNK_CRYSTALS, len(batch))
        piece = batch.select(torch.arange(start, stop)) if len(batch) > _CHUNK_CRYSTALS else batch
        parts.append(_piece(piece, k, cutoff, degree))
        if is_merged:
            from matmill.graphs.asymmetric import merged

            parts[-1] = merged(parts[-1])
        if len(batch) > _CHUNK_CRYSTALS:
            on_event(Event(stage="graphs", done=stop, total=len(batch)))
    return joined(parts) if parts else _piece(batch, k, cutoff, degree)


def joined(graphs: Sequence[Graph]) -> Graph:
    """Return several graphs, at least one, of equal k as one, in this order."""
    if len(graphs) == 1:
        return graphs[0]
    sizes = [len(graph.atomic_numbers) for graph in graphs]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    directions = [graph.direction for graph in graphs if graph.direction is not None]
    return Graph(
        n_atoms=torch.cat([graph.n_atoms for graph in graphs]),
        atomic_numbers=torch.cat([graph.atomic_numbers for graph in graphs]),
        neighbor=torch.cat([g.neighbor + start for g, start in zip(graphs, starts, strict=True)]),
        distance=torch.cat([graph.distance for graph in graphs]),
        mask=torch.cat([graph.mask for graph in graphs]),
        weight=torch.cat([graph.weight for graph in graphs]),
        count=torch.cat([graph.count for graph in graphs]),
        direction=torch.cat(directions) if directions else None,
    )


def _piece(batch: CrystalBatch, k: int, cutoff: float, degree: int | None) -> Graph:
    """Return the graph of a batch, neighbours padded to k columns."""
    edges = nearest(batch, k, cutoff=cutoff)
    n = len(batch.atomic_numbers)
    device = edges.source.device
    counts = torch.bincount(edges.source, minlength=n)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    column = torch.arange(len(edges), device=device) - first
    neighbor = torch.arange(n, dtype=torch.int32, device=device)[:, None].repeat(1, k)
    distance = torch.full((n, k), cutoff, device=device)
    mask = torch.zeros(n, k, dtype=torch.bool, device=device)
    neighbor[edges.source, column] = edges.target.int()
    distance[edges.source, column] = edges.distance.float()
    mask[edges.source, column] = True
    direction = None
    if degree is not None:
        direction = torch.zeros(n, k, (degree + 1) ** 2, device=device)
        direction[edges.source, column] = harmonics(edges.vector, degree).float()
        last = torch.where(mask[:, -1:], distance[:, -1:], cutoff)
        share = ((last - distance) / _FADE_ANGSTROM).clamp(0.0, 1.0)
        direction[..., 1:] *= (share.square() * (3.0 - 2.0 * share))[..., None]
    return Graph(
        n_atoms=batch.n_atoms,
        atomic_numbers=batch.atomic_numbers,
        neighbor=neighbor,
        distance=distance,
        mask=mask,
        direction=direction,
    )


def build_cached(
    batch: CrystalBatch,
    k: int = 12,
    cutoff: float = 8.0,
    *,
    folder: Path,
    is_merged: bool = False,
    degree: int | None = None,
    on_event: OnEvent = ignore,
) -> Graph:
    """Return `build` of the batch, kept in ``folder`` under a hash of structures and settings."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    digest = hashlib.sha256(f"v6|{k}|{cutoff}|{is_merged}|{degree}".encode())
    for values in (batch.lattice, batch.frac_coords, batch.atomic_numbers, batch.n_atoms):
        digest.update(values.cpu().contiguous().numpy().tobytes())
    path = folder / f"graph-{digest.hexdigest()[:24]}.safetensors"
    if path.exists():
        try:
            return Graph(**load_file(path))
        except (SafetensorError, TypeError) as error:
            raise DataError(f"The cached graph {path} is damaged; delete it.") from error
    graph = build(batch, k, cutoff, is_merged=is_merged, degree=degree, on_event=on_event)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    tensors = {field.name: getattr(graph, field.name) for field in fields(Graph)}
    save_file({n: t.contiguous() for n, t in tensors.items() if t is not None}, partial)
    os.replace(partial, path)
    return graph
