"""Numbers about groups, positions and elements that the network reads, as constant tables."""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, table
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system
from matmill.generate.wyckoff.positions import N_SPACE_GROUPS, operations, positions

MAX_ATOMS = 20
MAX_ELEMENTS = 8
N_LETTERS = 27
_GENERIC = torch.tensor([0.137035999, 0.2718281828, 0.4142135623], dtype=torch.float64)
# (trace, determinant) tells the type of a rotation: 1, 2, 3, 4, 6 and their inverses' products.
_KINDS = ((3, 1), (-1, 1), (0, 1), (1, 1), (2, 1), (-3, -1), (1, -1), (0, -1), (-1, -1), (-2, -1))
_PROPERTIES = (
    "electronegativity",
    "covalent_radius",
    "atomic_radius",
    "metallic_radius",
    "group",
    "period",
    "mendeleev_number",
    "n_valence_s",
    "n_valence_p",
    "n_valence_d",
    "n_valence_f",
    "first_ionization_energy",
    "electron_affinity",
    "is_metal",
)


@lru_cache(maxsize=1)
def multiplicities() -> Int[Tensor, "231 27"]:
    """Return sites per primitive cell of each position of each group; 0 where there is none."""
    found = torch.zeros(N_SPACE_GROUPS + 1, N_LETTERS, dtype=torch.int64)
    for g in range(1, N_SPACE_GROUPS + 1):
        for i, p in enumerate(positions(g).values()):
            found[g, i] = p.multiplicity
    return found


@lru_cache(maxsize=1)
def free_dimensions() -> Int[Tensor, "231 27"]:
    """Return the number of free coordinates of each position; 0 where there is none."""
    found = torch.zeros(N_SPACE_GROUPS + 1, N_LETTERS, dtype=torch.int64)
    for g in range(1, N_SPACE_GROUPS + 1):
        for i, p in enumerate(positions(g).values()):
            found[g, i] = p.n_free
    return found


@lru_cache(maxsize=1)
def position_features() -> Float[Tensor, "231 27 18"]:
    """Return what positions of different groups have in common.

    Site symmetry as counts of the ten kinds of rotation, multiplicity (log and relative), freedom
    one-hot, place among the letters. Zeros where there is no position.
    """
    found = torch.zeros(N_SPACE_GROUPS + 1, N_LETTERS, 18)
    for g in range(1, N_SPACE_GROUPS + 1):
        rotations, shifts = operations(g)
        kinds = _kinds(rotations)
        for i, p in enumerate(positions(g).values()):
            point = p.anchor + _GENERIC[: p.n_free] @ p.basis.double()
            off = rotations.double() @ point + shifts - point
            holds = ((off - off.round()).abs() < 1e-6).all(-1)
            found[g, i, :10] = kinds[holds].sum(0).float().log1p()
            found[g, i, 10] = torch.tensor(float(p.multiplicity)).log()
            found[g, i, 11] = p.multiplicity / len(rotations)
            found[g, i, 12 + p.n_free] = 1.0
            found[g, i, 16] = i / N_LETTERS
            found[g, i, 17] = 1.0 if p.multiplicity <= MAX_ATOMS else 0.0
    return found


@lru_cache(maxsize=1)
def group_features() -> Float[Tensor, "231 20"]:
    """Return what space groups have in common: point group, system, smallest multiplicities."""
    found = torch.zeros(N_SPACE_GROUPS + 1, 20)
    n_sites = multiplicities()
    for g in range(1, N_SPACE_GROUPS + 1):
        found[g, :10] = _kinds(operations(g)[0]).sum(0).float().log1p()
        found[g, 10 + CRYSTAL_SYSTEMS.index(crystal_system(g))] = 1.0
        there = n_sites[g][n_sites[g] > 0]
        found[g, 17] = there.min().float().log()
        found[g, 18] = (there == there.min()).sum().float().log()
        found[g, 19] = len(there) / N_LETTERS
    return found


@lru_cache(maxsize=1)
def element_features() -> Float[Tensor, "119 28"]:
    """Return standardised properties of the elements, and flags of the unknown ones."""
    columns = torch.stack([table(name) for name in _PROPERTIES], dim=1)
    known = torch.isfinite(columns)
    filled = columns.nan_to_num(0.0)
    mean = filled.sum(0) / known.sum(0)
    spread = ((filled - mean).square() * known).sum(0).div(known.sum(0)).sqrt()
    scaled = torch.where(known, (filled - mean) / spread, torch.zeros_like(filled))
    return torch.cat([scaled, (~known).double()], dim=1).float()


@lru_cache(maxsize=1)
def element_ranks() -> Int[Tensor, " 119"]:
    """Return the place of each element in the order of generation: electropositive first."""
    scale = table("electronegativity").nan_to_num(9.0)
    order = sorted(range(len(SYMBOLS)), key=lambda z: (z > 0, float(scale[z]), z))
    ranks = torch.empty(len(SYMBOLS), dtype=torch.int64)
    ranks[torch.tensor(order)] = torch.arange(len(SYMBOLS))
    return ranks


@lru_cache(maxsize=1)
def group_systems() -> Int[Tensor, " 231"]:
    """Return the crystal system of each group, 1 to 7; 0 at index 0."""
    names = [crystal_system(g) for g in range(1, N_SPACE_GROUPS + 1)]
    return torch.tensor([0, *(CRYSTAL_SYSTEMS.index(name) + 1 for name in names)])


def _kinds(rotations: Int[Tensor, "g 3 3"]) -> Int[Tensor, "g 10"]:
    trace = rotations.diagonal(dim1=1, dim2=2).sum(-1)
    sign = torch.linalg.det(rotations.double()).round().long()
    return torch.stack([(trace == t) & (sign == d) for t, d in _KINDS], dim=1).long()
