"""Whether a crystal is a framework, layers, chains or molecules, and the geometry of its layers.

The bonded atoms of one component repeat along some lattice vectors; the number of independent
ones is its dimensionality. All components of a batch are followed at once: every atom carries the
label of its component's first atom and the cell in which the two are connected.

Source:
    Larsen et al., Definition of a scoring parameter to identify low-dimensional materials
    components (2019), for the rank.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.predict.descriptors.bonds import STRETCH, Bonds, check, find_bonds
from matmill.predict.descriptors.pooling import group_max, group_min, group_sum

_NORMALS = tuple(
    hkl for hkl in itertools.product((0, 1, -1), repeat=3) if next((x for x in hkl if x), -1) > 0
)
"""Miller indices of the planes that a gap is looked for between: 13 without their opposites."""

_SAME_GAP = 0.9
"""Gaps of at least this share of the widest one separate layers too."""

_RANK_TOLERANCE = 1e-9  # relative; the entries are sums of products of small whole numbers


@dataclass(frozen=True, eq=False)
class Components:
    """Bonded components of a batch.

    Attributes:
        first: The component of each atom, named by its first atom, ``(n_atoms_total,)``.
        rank: Dimensionality of the component of each atom, 0 to 3, ``(n_atoms_total,)``.
    """

    first: Int[Tensor, " n_atoms_total"]
    rank: Int[Tensor, " n_atoms_total"]


def dimensionality(batch: CrystalBatch, *, stretch: float = STRETCH) -> Int[Tensor, " n_crystals"]:
    """Return 3 for a framework, 2 for layers, 1 for chains, 0 for molecules or lone atoms.

    Args:
        batch: Any number of crystals.
        stretch: A bond is at most this many times as long as the sum of the covalent radii.

    Returns:
        The largest dimensionality of a component of each crystal.

    Raises:
        InputError: If a crystal has no volume or a masked atom.
    """
    found = components(find_bonds(batch, stretch))
    result = torch.zeros(len(batch), dtype=torch.int64)
    return result.scatter_reduce(0, batch.crystal_index, found.rank, "amax")


def components(bonds: Bonds) -> Components:
    """Return the bonded components of a batch and their ranks."""
    n_atoms = len(bonds.batch.atomic_numbers)
    label, cell = _labels(bonds, n_atoms)
    # Around every closed path the cells add up to a translation of the component.
    loop = (cell[bonds.source] + bonds.image - cell[bonds.target]).double()
    gram = torch.zeros(n_atoms, 9, dtype=torch.float64)
    outer = (loop[:, :, None] * loop[:, None, :]).flatten(1)
    gram = gram.index_add(0, label[bonds.source], outer)
    values = torch.linalg.eigvalsh(gram.reshape(-1, 3, 3))
    scale = values[:, -1:].clamp_min(1.0)
    rank = (values > _RANK_TOLERANCE * scale).sum(1)
    return Components(first=label, rank=rank[label])


def _labels(bonds: Bonds, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Return the first atom of each atom's component, and the cell that connects the two.

    Atom ``i`` in cell ``cell[i]`` is connected with atom ``label[i]`` in cell 0.
    """
    source, target, image = bonds.source, bonds.target, bonds.image
    label = torch.arange(n_atoms)
    cell = torch.zeros(n_atoms, 3, dtype=torch.int64)
    n_edges = len(source)
    numbering = torch.arange(n_edges)
    while n_edges:
        # The neighbour with the lowest label; among equals, the first edge.
        key = label[target] * n_edges + numbering
        best = torch.full((n_atoms,), torch.iinfo(torch.int64).max)
        best = best.scatter_reduce(0, source, key, "amin")
        edge = best.remainder(n_edges)
        offered = torch.div(best, n_edges, rounding_mode="floor")
        moves = (offered < label) & (best < torch.iinfo(torch.int64).max)
        if not bool(moves.any()):
            break
        step = edge[moves]
        cell[moves] = cell[target[step]] - image[step]
        label[moves] = offered[moves]
        # Jump on to the label's own label, so that long chains take few rounds.
        cell = cell + cell[label]
        label = label[label]
    return label, cell


@dataclass(frozen=True, eq=False)
class LayerGeometry:
    """Every crystal seen as a stack of layers between its widest empty gaps.

    Attributes:
        normal: Miller indices of the planes of the layers, ``(n_crystals, 3)``.
        n_layers: Layers in the cell, ``(n_crystals,)``.
        area: Of one layer in the cell, Å², ``(n_crystals,)``.
        area_per_atom: Of one layer over its atoms, Å², ``(n_crystals,)``.
        thickness: From the lowest to the highest atom centre of a layer, mean, Å,
            ``(n_crystals,)``.
        vacuum: Mean width of the gaps between layers, Å, ``(n_crystals,)``.
        layer: Number of the layer of each atom in its crystal, ``(n_atoms_total,)``.
        height: Of each atom above the lowest one of its layer, Å, ``(n_atoms_total,)``.
        depth: Of each atom below the highest one of its layer, Å, ``(n_atoms_total,)``.
    """

    normal: Int[Tensor, "n_crystals 3"]
    n_layers: Int[Tensor, " n_crystals"]
    area: Float[Tensor, " n_crystals"]
    area_per_atom: Float[Tensor, " n_crystals"]
    thickness: Float[Tensor, " n_crystals"]
    vacuum: Float[Tensor, " n_crystals"]
    layer: Int[Tensor, " n_atoms_total"]
    height: Float[Tensor, " n_atoms_total"]
    depth: Float[Tensor, " n_atoms_total"]


def layer_geometry(batch: CrystalBatch) -> LayerGeometry:
    """Return the layers between the widest empty gaps of each crystal.

    A gap is a slice without atom centres between two planes. It is looked for along the 13
    directions with indices up to 1. A bulk crystal has gaps too, between its atomic planes: its
    numbers are finite, and ``vacuum`` tells it from a layered one.

    Raises:
        InputError: If a crystal has no volume, unknown coordinates or a masked atom.
    """
    check(batch)
    normals = torch.tensor(_NORMALS)
    reciprocal = torch.linalg.inv(batch.lattice.double()) @ normals.double().T
    spacing = 1 / reciprocal.norm(dim=1)  # (n_crystals, 13)
    phase = (batch.frac_coords.double() @ normals.double().T) % 1.0
    owner = batch.crystal_index
    widest = torch.stack(
        [group_max(_gaps(phase[:, i], batch)[1], owner, len(batch)) for i in range(len(normals))],
        dim=1,
    )
    widest = (widest * spacing).nan_to_num(0.0)
    # The first of the equal ones; rounding must not choose.
    choice = (widest >= widest.amax(1, keepdim=True) - 1e-6).long().argmax(1)
    return _stack(batch, normals[choice], spacing.gather(1, choice[:, None])[:, 0])


def _gaps(phase: Tensor, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
    """Return the atoms in order along a direction, and the gap behind each, as share of a period.

    The gaps stand in the order of the atoms' rows in the batch only by crystal.
    """
    order = torch.argsort(phase + 2.0 * batch.crystal_index)
    ordered = phase[order]
    following = torch.roll(ordered, -1)
    last = batch.n_atoms.cumsum(0) - 1
    following[last] = ordered[batch.offsets] + 1.0
    return order, following - ordered


def _stack(batch: CrystalBatch, normal: Tensor, spacing: Tensor) -> LayerGeometry:
    n, owner = len(batch), batch.crystal_index
    phase = (batch.frac_coords.double() * normal.double()[owner]).sum(1) % 1.0
    order, gap = _gaps(phase, batch)
    gap = gap * spacing[owner]
    top = group_max(gap, owner, n)
    # Start every crystal behind its widest gap, so that no layer is cut by the cell border.
    is_top = gap >= top[owner] - 1e-9
    rows = torch.arange(len(gap))
    cut = group_min(rows[is_top].double(), owner[is_top], n).long()
    start = torch.where(cut + 1 < batch.offsets + batch.n_atoms, cut + 1, batch.offsets)
    place = (
        batch.offsets[owner]
        + (rows - batch.offsets[owner] + start[owner] - batch.offsets[owner]) % batch.n_atoms[owner]
    )
    order, gap = order[place], gap[place]
    is_border = gap >= _SAME_GAP * top[owner]
    above = torch.cat([gap.new_zeros(1), gap.cumsum(0)[:-1]]) if len(gap) else gap
    z = above - above[batch.offsets[owner]]
    before = torch.cat([is_border.new_zeros(1), is_border[:-1]]).long().cumsum(0)
    layer = before - before[batch.offsets[owner]]
    n_layers = group_sum(is_border.double(), owner, n)
    vacuum = group_sum(gap * is_border, owner, n) / n_layers
    member = batch.offsets[owner] + layer
    lowest = group_min(z, member, len(z))[member]
    highest = group_max(z, member, len(z))[member]
    back = torch.argsort(order)
    area = batch.volume.double() / spacing
    return LayerGeometry(
        normal=normal,
        n_layers=n_layers.long(),
        area=area,
        area_per_atom=area * n_layers / batch.n_atoms,
        thickness=(spacing / n_layers - vacuum).clamp_min(0.0),
        vacuum=vacuum,
        layer=layer[back],
        height=(z - lowest)[back],
        depth=(highest - z)[back],
    )
