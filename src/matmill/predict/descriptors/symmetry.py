"""Columns from the symmetry of a crystal: its space group, and how many kinds of sites it has."""

import math

import numpy as np
import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system, datasets

_NAMES = (
    "space_group_number",
    "crystal_system_rank",
    "is_centrosymmetric",
    "is_polar",
    "n_point_operations",
    "n_primitive_atoms",
    "n_inequivalent_sites",
    "inequivalent_share",
    "complexity_bits_per_atom",
    "complexity_bits_per_cell",
    "conventional_aspect",
    "conventional_angle_spread_degrees",
)


def symmetry_columns(batch: CrystalBatch, symprec: float = 0.1) -> dict[str, Tensor]:
    """Return the space group and what follows from the orbits of the atoms.

    Args:
        batch: Any number of crystals.
        symprec: Tolerance on positions in Å.

    Returns:
        Counts are of the primitive cell, so that a supercell changes nothing. Where no symmetry
        could be found a crystal counts as P1.

    Source:
        Krivovichev, Structural complexity of minerals (2013), for the bits.
    """
    rows = [
        _row(data, n)
        for data, n in zip(datasets(batch, symprec=symprec), batch.n_atoms.tolist(), strict=True)
    ]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(_NAMES))
    return dict(zip(_NAMES, table.unbind(1), strict=True))


def _row(data: object, n_atoms: int) -> tuple[float, ...]:
    if data is None:
        bits = math.log2(n_atoms)
        return (1, 0, 0, 1, 1, n_atoms, n_atoms, 1, bits, bits * n_atoms, 1, 0)
    number: int = data.number  # type: ignore[attr-defined]
    rotations = np.array(data.operations.rotations)  # type: ignore[attr-defined]
    rotations = np.unique(rotations.reshape(-1, 9), axis=0).reshape(-1, 3, 3)
    is_centric = bool((rotations == -np.eye(3, dtype=int)).all((1, 2)).any())
    # A direction that all operations keep: the mean rotation projects on such directions.
    is_polar = abs(rotations.mean(0)).max() > 1e-9
    counts = np.unique(np.array(data.orbits), return_counts=True)[1]  # type: ignore[attr-defined]
    n_primitive = len(data.prim_std_cell.numbers)  # type: ignore[attr-defined]
    share = counts / counts.sum()
    bits = abs(float(-(share * np.log2(share)).sum()))
    cell = np.array(data.std_cell.basis)  # type: ignore[attr-defined]
    length = np.linalg.norm(cell, axis=1)
    cosines = np.clip((cell @ cell.T / np.outer(length, length))[[0, 0, 1], [1, 2, 2]], -1, 1)
    angles = np.degrees(np.arccos(cosines))
    return (
        number,
        CRYSTAL_SYSTEMS.index(crystal_system(number)),
        is_centric,
        is_polar,
        len(rotations),
        n_primitive,
        len(counts),
        len(counts) / n_primitive,
        bits,
        bits * n_primitive,
        length.max() / length.min(),
        abs(angles - 90).max(),
    )
