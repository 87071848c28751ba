"""Orbital field matrices: which valence orbitals of atoms meet which of their neighbours."""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS, table
from matmill.crystals.neighbors import Neighbors, nearest
from matmill.progress import Event, OnEvent, ignore

N_ORBITALS = 32
"""s¹-s², p¹-p⁶, d¹-d¹⁰, f¹-f¹⁴: an element has a one for the filling of each valence subshell."""

_SUBSHELLS = {"s": 0, "p": 2, "d": 8, "f": 18}  # column before the first of each
_N_DIRECTIONS = 512  # matrices then turn with the crystal by less than 0.05
_SHELL = 1e-3  # Å; neighbours closer in distance than this are one shell
_SQUARINGS = 4  # sharpness 2⁴ = 16
_ENTRIES = 6_000_000  # directions × neighbours held at once


def orbital_field(
    batch: CrystalBatch, *, k: int = 32, on_event: OnEvent = ignore
) -> Float[Tensor, "n_crystals 1024"]:
    """Return the orbital field matrix of each crystal, 32 × 32 in rows, float32.

    ``OFM = (1/n) Σ_i x_iᵀ Σ_j w_ij x_j`` over the n atoms i and their neighbours j, where x has a
    one for the filling of each valence subshell, outside the noble-gas core. The weights are
    solid angles relative to the largest of the atom, `solid_angles`.

    Args:
        batch: Any number of crystals.
        k: Neighbours of each atom that are looked at; the outermost shell of them, which may be
            cut, has no weight unless it is the only one.
        on_event: Told about progress.

    Source:
        Lam Pham et al., Machine learning reveals orbital interaction in materials (2017),
        equations 1-4, with solid angles of smoothed Voronoi faces as weights.
    """
    result = torch.zeros(len(batch), N_ORBITALS**2, dtype=torch.float32)
    done = 0
    for piece in batch.to("cpu", torch.float64).chunks(max_atoms=4096):
        edges = nearest(piece, k)
        angles = solid_angles(edges, len(piece.frac_coords))
        largest = torch.zeros(len(piece.frac_coords), dtype=angles.dtype)
        largest.scatter_reduce_(0, edges.source, angles, "amax")
        weights = angles / largest.clamp(min=1e-12)[edges.source]
        result[done : done + len(piece)] = _matrices(piece, edges, weights)
        done += len(piece)
        on_event(Event(stage="orbital field", done=done, total=len(batch)))
    return result


def solid_angles(
    edges: Neighbors, n_atoms: int, *, squarings: int = _SQUARINGS, directions: int = _N_DIRECTIONS
) -> Float[Tensor, " n_edges"]:
    """Return the share of the sphere around its atom that each neighbour has, float32.

    In a direction u the Voronoi face of the neighbour at r comes first for which
    ``q = 2 (r · u) / |r|²`` is largest, as 1/q is the distance to its plane. Hard faces jump when
    atoms move, so each direction is shared in proportion to ``q^m``, m = 2^squarings, over the
    neighbours in front (q > 0), and directions on a Fibonacci lattice are averaged. Large m gives
    the exact solid angles of the Voronoi cell.

    Args:
        edges: Neighbours of each atom, by source, equally many for all (from `nearest`). The
            outermost shell has no share unless it is the only one.
        n_atoms: Number of atoms.
        squarings: Sharpness; 4 by default, far above 10 for hard faces.
        directions: Points of the lattice.

    Returns:
        Fractions of 4π; those of one atom add up to 1.
    """
    if not len(edges):
        return torch.zeros(0)
    k = len(edges) // n_atoms
    vector = edges.vector.double().reshape(n_atoms, k, 3)
    squared = vector.square().sum(2).clamp(min=1e-6)
    # Atoms at one distance count all or not at all, and k may cut through the last shell.
    length = squared.sqrt()
    is_last = length > length.amax(1, keepdim=True) - _SHELL
    is_last &= ~is_last.all(1, keepdim=True)
    scaled = (2 * vector / squared[:, :, None]).masked_fill(is_last[:, :, None], 0.0).float()
    sphere = _fibonacci(directions)
    shares = torch.empty(n_atoms, k)
    for rows in torch.arange(n_atoms).split(max(1, _ENTRIES // (directions * k))):
        q = (scaled[rows] @ sphere.T).clamp_(min=0)  # (rows, k, directions)
        q /= q.amax(1, keepdim=True).clamp(min=1e-12)
        for _ in range(squarings):
            q.square_()
        q /= q.sum(1, keepdim=True).clamp(min=1e-12)
        shares[rows] = q.mean(2)
    return shares.flatten()


def _matrices(piece: CrystalBatch, edges: Neighbors, weights: Tensor) -> Tensor:
    """Return the flattened matrices of a few crystals."""
    # First by pair of different elements of a crystal: few, whatever the number of edges.
    width = len(SYMBOLS)
    crystals = piece.crystal_index
    cell = crystals * width + piece.atomic_numbers
    present, slot = torch.unique(cell, return_inverse=True)
    owner = present // width
    first = torch.searchsorted(owner, torch.arange(len(piece)))
    slot = slot - first[crystals]
    n_slots = int(slot.max()) + 1
    orbitals = torch.zeros(len(piece), n_slots, N_ORBITALS)
    orbitals[owner, torch.arange(len(owner)) - first[owner]] = _orbitals()[present % width]
    places = (crystals[edges.source] * n_slots + slot[edges.source]) * n_slots + slot[edges.target]
    pairs = torch.zeros(len(piece) * n_slots**2).index_add_(0, places, weights.float())
    pairs = pairs.reshape(len(piece), n_slots, n_slots) / piece.n_atoms[:, None, None]
    return (orbitals.transpose(1, 2) @ pairs.float() @ orbitals).flatten(1)


@cache
def _orbitals() -> Float[Tensor, "119 32"]:
    """Return the valence orbitals of each element: a one for the filling of each subshell."""
    result = torch.zeros(len(SYMBOLS), N_ORBITALS)
    for name, before in _SUBSHELLS.items():
        filling = table(f"n_valence_{name}").nan_to_num(nan=0.0).long()
        has = torch.nonzero(filling > 0).flatten()
        result[has, before + filling[has] - 1] = 1.0
    return result


@cache
def _fibonacci(n: int) -> Float[Tensor, "n 3"]:
    """Return n nearly even directions."""
    i = torch.arange(n, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / n
    angle = math.pi * (1 + math.sqrt(5)) * i
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1).float()
