"""Columns from what surrounds the atoms: distances, bonds and angles."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.predict.descriptors.bonds import Bonds
from matmill.predict.descriptors.pooling import group_max, group_mean, group_sum, pooled

RADIAL_CUTOFF = 8.4
"""Å. The radial distribution ends here."""

_N_RADIAL = 20  # centres, evenly spaced; the last one is one step inside the cutoff
_N_ANGULAR = 10
_DIFFERENCES = {
    "electronegativity": "electronegativity",
    "atomic_number": "atomic_number",
    "mendeleev_number": "mendeleev_number",
    "pyykko_radius": "pyykko_radius_angstrom",
    "first_ionization_energy": "first_ionization_energy_ev",
    "valence_electrons": "valence_electrons",
    "polarizability": "polarizability_angstrom3",
}


def radial_distribution(edges: Bonds) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return neighbours per Å³ in shells of distance, mean and deviation over the atoms.

    Each shell weighs distances by a triangle that ends at the neighbouring centres, so that a
    small move is a small change, also at the cutoff.
    """
    batch, n_atoms = edges.batch, len(edges.batch.atomic_numbers)
    width = RADIAL_CUTOFF / (_N_RADIAL + 1)
    place = edges.distance / width
    lower = place.floor()
    share = place - lower
    counts = torch.zeros(n_atoms * (_N_RADIAL + 2), dtype=torch.float64)
    # The first and the last column are no shells: they take what lies beyond the outer centres.
    for column, weight in ((lower, 1 - share), (lower + 1, share)):
        column = column.long().clamp_max(_N_RADIAL + 1)
        counts = counts.index_add(0, edges.source * (_N_RADIAL + 2) + column, weight)
    table = counts.reshape(n_atoms, _N_RADIAL + 2)[:, 1:-1]
    centre = torch.arange(1, _N_RADIAL + 1).double() * width
    table = table / (4 * torch.pi * width * (centre**2 + width**2 / 6))
    mean = group_mean(table, batch.crystal_index, len(batch))
    spread = (table - mean[batch.crystal_index]) ** 2
    std = group_mean(spread, batch.crystal_index, len(batch)).sqrt()
    columns = {f"radial_{r:.1f}_mean": mean[:, i] for i, r in enumerate(centre.tolist())}
    return columns | {f"radial_{r:.1f}_std": std[:, i] for i, r in enumerate(centre.tolist())}


def nearest_columns(edges: Bonds) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return statistics of the distance from an atom to its nearest neighbour within the cutoff."""
    batch = edges.batch
    nearest = -group_max(-edges.distance, edges.source, len(batch.atomic_numbers))
    columns = pooled(nearest, batch.crystal_index, len(batch), "nearest_angstrom")
    sphere = torch.pi / 6 * nearest.nan_to_num(0.0) ** 3
    filled = group_sum(sphere, batch.crystal_index, len(batch)) / batch.volume.double()
    return columns | {"nearest_packing": filled}


def bond_columns(bonds: Bonds) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return statistics of coordination, bond lengths and what differs along the bonds."""
    batch, n = bonds.batch, len(bonds.batch)
    atom_crystal = batch.crystal_index
    columns = pooled(bonds.coordination, atom_crystal, n, "coordination")
    columns |= pooled(bonds.distance, bonds.crystal, n, "bond_length_angstrom")
    columns |= pooled(bonds.relative, bonds.crystal, n, "bond_length_over_radii")
    n_atoms = len(batch.atomic_numbers)
    for name, label in _DIFFERENCES.items():
        own, other = bonds.values(name)
        gap = (own - other).abs()
        columns |= pooled(gap, bonds.crystal, n, f"bond_gap_{label}", ("mean", "std", "max"))
        is_known = torch.isfinite(gap)
        local = group_mean(gap[is_known], bonds.source[is_known], n_atoms)
        columns |= pooled(local, atom_crystal, n, f"site_gap_{label}", ("std", "min", "max"))
    numbers = batch.atomic_numbers
    is_same = (numbers[bonds.source] == numbers[bonds.target]).double()
    columns["bond_share_same_element"] = group_mean(is_same, bonds.crystal, n)
    own, other = bonds.values("is_metal")
    columns["bond_share_metal_metal"] = group_mean(own * other, bonds.crystal, n)
    columns["bond_share_no_metal"] = group_mean((1 - own) * (1 - other), bonds.crystal, n)
    columns["bonds_per_angstrom3"] = group_sum(
        torch.ones_like(bonds.distance), bonds.crystal, n
    ) / (2 * batch.volume.double())
    return columns | _spring_columns(bonds) | _direction_columns(bonds)


def _spring_columns(bonds: Bonds) -> dict[str, Tensor]:
    """Return frequencies of atoms on springs that stiffen as bonds shorten.

    A spring has the stiffness ``(sum of radii / length)**6`` in arbitrary units. ``spring_pair``
    is that of the two atoms alone, ``spring_site`` that of an atom among fixed neighbours.
    """
    batch, n = bonds.batch, len(bonds.batch)
    stiffness = bonds.relative**-6
    own, other = bonds.values("mass")
    pair = (stiffness * (1 / own + 1 / other)).sqrt()
    site = (group_sum(stiffness / own, bonds.source, len(batch.atomic_numbers)) / 3).sqrt()
    columns = pooled(pair, bonds.crystal, n, "spring_pair", ("mean", "max"))
    columns |= pooled(site, batch.crystal_index, n, "spring_site")
    total = group_sum(stiffness * bonds.distance**2, bonds.crystal, n)
    columns["spring_modulus"] = total / (18 * batch.volume.double())
    return columns


def _direction_columns(bonds: Bonds) -> dict[str, Tensor]:
    """Return how unevenly the bonds point: eigenvalues of the mean outer product of directions."""
    outer = (bonds.unit[:, :, None] * bonds.unit[:, None, :]).flatten(1)
    mean = group_mean(outer, bonds.crystal, len(bonds.batch)).reshape(-1, 3, 3)
    has_bonds = torch.isfinite(mean).flatten(1).all(1)
    values = torch.linalg.eigvalsh(mean.nan_to_num(0.0))
    values = values.masked_fill(~has_bonds[:, None], torch.nan)
    return {
        "bond_direction_least": values[:, 0],
        "bond_direction_middle": values[:, 1],
        "bond_direction_most": values[:, 2],
    }


def angle_columns(bonds: Bonds) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return statistics of the angles between bonds, and their distribution over the cosine."""
    batch, n = bonds.batch, len(bonds.batch)
    left, right = bond_pairs(bonds.source, len(batch.atomic_numbers))
    cosine = (bonds.unit[left] * bonds.unit[right]).sum(1).clamp(-1.0, 1.0)
    crystal = bonds.crystal[left]
    columns = pooled(torch.rad2deg(torch.arccos(cosine)), crystal, n, "angle_degrees")
    place = (cosine + 1) / 2 * (_N_ANGULAR - 1)
    lower = place.floor().clamp_max(_N_ANGULAR - 2)
    share = place - lower
    counts = torch.zeros(n * _N_ANGULAR, dtype=torch.float64)
    for column, weight in ((lower, 1 - share), (lower + 1, share)):
        counts = counts.index_add(0, crystal * _N_ANGULAR + column.long(), weight)
    table = counts.reshape(n, _N_ANGULAR)
    total = table.sum(1, keepdim=True)
    table = table / total.masked_fill(total == 0, torch.nan)
    for i, middle in enumerate(torch.linspace(-1, 1, _N_ANGULAR).tolist()):
        columns[f"angle_cosine_{middle:+.2f}"] = table[:, i]
    return columns


def bond_pairs(
    source: Int[Tensor, " n_edges"], n_atoms: int
) -> tuple[Int[Tensor, " n_pairs"], Int[Tensor, " n_pairs"]]:
    """Return all unordered pairs of edges that leave the same atom.

    Args:
        source: Atom that each edge leaves, ascending.
        n_atoms: Number of atoms.
    """
    count = torch.bincount(source, minlength=n_atoms)
    last = count.cumsum(0)[source]
    place = torch.arange(len(source))
    n_partners = last - place - 1
    left = torch.repeat_interleave(place, n_partners)
    before = torch.repeat_interleave(n_partners.cumsum(0) - n_partners, n_partners)
    return left, left + 1 + torch.arange(len(left)) - before
