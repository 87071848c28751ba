"""Columns from functions of one atom's surroundings: Gaussian symmetry functions and bond order.

All angular functions here are sums over pairs of neighbours of a polynomial in the cosine of their
angle. Such a sum needs no pairs: ``sum_jk w_j w_k cos(jk)**l`` is the squared length of the moment
tensor ``sum_j w_j u_j x ... x u_j`` of rank l, so the cost grows with the number of edges only.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.descriptors.bonds import Bonds
from matmill.predict.descriptors.pooling import group_sum, pooled

SITE_CUTOFF = 6.5
"""Å. Symmetry functions end smoothly here."""

_RADIAL_WIDTHS = (0.05, 4.0, 20.0, 80.0)
_ANGULAR_WIDTHS = (0.005, 0.2)
_SHARPNESS = (1, 2, 4)
_ORDERS = (1, 2, 3, 4, 6)
# Coefficients of the Legendre polynomials, lowest power first.
_LEGENDRE = {
    1: (0, 1),
    2: (-1 / 2, 0, 3 / 2),
    3: (0, -3 / 2, 0, 5 / 2),
    4: (3 / 8, 0, -30 / 8, 0, 35 / 8),
    6: (-5 / 16, 0, 105 / 16, 0, -315 / 16, 0, 231 / 16),
}


def gaussian_columns(edges: Bonds) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return statistics over the atoms of radial and angular Gaussian symmetry functions.

    Args:
        edges: All edges up to at least `SITE_CUTOFF`.

    Source:
        Behler, Atom-centered symmetry functions for constructing high-dimensional neural network
        potentials (2011): G2 with the width in Å^-2 over the squared cutoff, and the angular
        function without the third side (G5), whose widths are in Å^-2.
    """
    near = edges.keep(edges.distance < SITE_CUTOFF)
    batch, n_atoms = near.batch, len(near.batch.atomic_numbers)
    fade = 0.5 * (torch.cos(torch.pi * near.distance / SITE_CUTOFF) + 1)
    columns = {}
    for width in _RADIAL_WIDTHS:
        value = torch.exp(-width * (near.distance / SITE_CUTOFF) ** 2) * fade
        site = group_sum(value, near.source, n_atoms)
        columns |= pooled(site, batch.crystal_index, len(batch), f"g2_{width:g}")
    for width in _ANGULAR_WIDTHS:
        weight = torch.exp(-width * near.distance**2) * fade
        powers = cosine_sums(near, weight, max(_SHARPNESS))
        alone = group_sum(weight**2, near.source, n_atoms)
        for sharpness, sign in itertools.product(_SHARPNESS, (-1, 1)):
            terms = [math.comb(sharpness, i) * sign**i * powers[i] for i in range(sharpness + 1)]
            # A neighbour is no pair with itself: its cosine is 1.
            pairs = torch.stack(terms).sum(0) - alone * (1 + sign) ** sharpness
            site = 2.0 ** (1 - sharpness) * 0.5 * pairs.clamp_min(0.0)
            name = f"g5_{width:g}_{sharpness}_{'plus' if sign > 0 else 'minus'}"
            columns |= pooled(site, batch.crystal_index, len(batch), name)
    return columns


def order_columns(bonds: Bonds) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return mean and deviation over the atoms of the bond-orientational order, 0 to 1.

    Source:
        Steinhardt, Nelson and Ronchetti, Bond-orientational order in liquids and glasses (1983):
        by the addition theorem ``Q_l**2`` is the mean Legendre polynomial over pairs of bonds.
    """
    batch, n = bonds.batch, len(bonds.batch)
    powers = cosine_sums(bonds, torch.ones_like(bonds.distance), max(_ORDERS))
    total = powers[0].masked_fill(powers[0] == 0, torch.nan)
    columns = {}
    for order in _ORDERS:
        terms = [c * powers[i] for i, c in enumerate(_LEGENDRE[order]) if c]
        site = (torch.stack(terms).sum(0) / total).clamp_min(0.0).sqrt()
        columns |= pooled(site, batch.crystal_index, n, f"bond_order_{order}", ("mean", "std"))
    return columns


def cosine_sums(
    edges: Bonds, weight: Float[Tensor, " n_edges"], highest: int
) -> list[Float[Tensor, " n_atoms_total"]]:
    """Return ``sum_jk w_j w_k cos(angle jk)**l`` at each atom for l = 0 … highest.

    The sum runs over all ordered pairs of edges of the atom, each with itself included.
    """
    n_atoms = len(edges.batch.atomic_numbers)
    powers = [torch.ones_like(edges.unit)]
    for _ in range(highest):
        powers.append(powers[-1] * edges.unit)
    stacked = torch.stack(powers)  # (highest + 1, n_edges, 3)
    sums = []
    for rank in range(highest + 1):
        total = torch.zeros(n_atoms, dtype=torch.float64)
        for i, j in itertools.product(range(rank + 1), repeat=2):
            if i + j > rank:
                continue
            k = rank - i - j
            multiplicity = math.factorial(rank) // (
                math.factorial(i) * math.factorial(j) * math.factorial(k)
            )
            term = weight * stacked[i, :, 0] * stacked[j, :, 1] * stacked[k, :, 2]
            total += multiplicity * group_sum(term, edges.source, n_atoms) ** 2
        sums.append(total)
    return sums
