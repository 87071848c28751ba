"""The `structure` block: density, symmetry, and what surrounds the atoms of a crystal."""

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density
from matmill.predict.descriptors.bonds import edges_within
from matmill.predict.descriptors.dimensionality import components
from matmill.predict.descriptors.electrostatics import charge_columns
from matmill.predict.descriptors.environment import (
    RADIAL_CUTOFF,
    angle_columns,
    bond_columns,
    nearest_columns,
    radial_distribution,
)
from matmill.predict.descriptors.pooling import group_max, group_mean, group_sum
from matmill.predict.descriptors.properties import element_property
from matmill.predict.descriptors.sites import gaussian_columns, order_columns
from matmill.predict.descriptors.symmetry import symmetry_columns
from matmill.predict.descriptors.table import Features, from_columns

_LARGEST_RATIO = 0.9  # beyond it the Clausius–Mossotti constant runs away: a metal
_MOLAR_VOLUME = 1.66053907  # Å³ per atom for 1 cm³/mol


def structure_block(batch: CrystalBatch) -> Features:
    """Return density, symmetry, distances, bonds, angles and site functions of each crystal.

    Args:
        batch: Any number of crystals.

    Returns:
        One row a crystal. Rotation, translation and the order of the atoms change nothing; a
        supercell changes nothing either. Columns about bonds are NaN where there are none.

    Raises:
        InputError: If a crystal has no volume, unknown coordinates or a masked atom.
    """
    edges = edges_within(batch, RADIAL_CUTOFF)
    bonds = edges.bonded()
    columns = _filling(batch)
    columns |= symmetry_columns(batch)
    columns |= nearest_columns(edges)
    columns |= bond_columns(bonds)
    columns |= angle_columns(bonds)
    columns |= order_columns(bonds)
    columns |= radial_distribution(edges)
    columns |= gaussian_columns(edges)
    columns |= charge_columns(edges, RADIAL_CUTOFF)
    rank = components(bonds).rank.double()
    columns["dimensionality"] = group_max(rank, batch.crystal_index, len(batch))
    columns["dimensionality_mean"] = group_mean(rank, batch.crystal_index, len(batch))
    return from_columns(columns)


def _filling(batch: CrystalBatch) -> dict[str, Tensor]:
    """Return how densely the cell is filled, and the dielectric constant that follows."""
    n = len(batch)
    volume = batch.volume.double()

    def total(values: Tensor) -> Tensor:
        return group_sum(values.nan_to_num(0.0), batch.crystal_index, n)

    def of_atoms(name: str) -> Tensor:
        return element_property(name)[batch.atomic_numbers]

    ratio = 4 * torch.pi / 3 * total(of_atoms("polarizability")) / volume
    bounded = ratio.clamp_max(_LARGEST_RATIO)
    molar = of_atoms("molar_volume")
    n_known = total(torch.isfinite(molar).double())
    mixture = total(molar) * _MOLAR_VOLUME / n_known.masked_fill(n_known == 0, torch.nan)
    per_atom = volume / batch.n_atoms
    return {
        "density_g_per_cm3": density(batch).double(),
        "volume_per_atom_angstrom3": per_atom,
        "atoms_per_angstrom3": 1 / per_atom,
        "valence_electrons_per_angstrom3": total(of_atoms("valence_electrons")) / volume,
        "packing_covalent": total(4 * torch.pi / 3 * of_atoms("pyykko_radius") ** 3) / volume,
        "packing_atomic": total(4 * torch.pi / 3 * of_atoms("atomic_radius") ** 3) / volume,
        "volume_over_elements": per_atom / mixture,
        "clausius_mossotti_ratio": ratio,
        "clausius_mossotti_constant": (1 + 2 * bounded) / (1 - bounded),
    }
