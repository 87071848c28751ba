"""Columns from the symmetry of a crystal: its space group, and how many kinds of sites it has."""

import math

import numpy as np
import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system, datasets

# Last space group of each crystal class; order of its point group; centric; polar.
# fmt: off
_CLASSES = (
    (1, 1, 0, 1), (2, 2, 1, 0), (5, 2, 0, 1), (9, 2, 0, 1), (15, 4, 1, 0), (24, 4, 0, 0),
    (46, 4, 0, 1), (74, 8, 1, 0), (80, 4, 0, 1), (82, 4, 0, 0), (88, 8, 1, 0), (98, 8, 0, 0),
    (110, 8, 0, 1), (122, 8, 0, 0), (142, 16, 1, 0), (146, 3, 0, 1), (148, 6, 1, 0),
    (155, 6, 0, 0), (161, 6, 0, 1), (167, 12, 1, 0), (173, 6, 0, 1), (174, 6, 0, 0),
    (176, 12, 1, 0), (182, 12, 0, 0), (186, 12, 0, 1), (190, 12, 0, 0), (194, 24, 1, 0),
    (199, 12, 0, 0), (206, 24, 1, 0), (214, 24, 0, 0), (220, 24, 0, 0), (230, 48, 1, 0),
)
# fmt: on

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


def crystal_class(number: int) -> tuple[bool, bool, int]:
    """Return whether a space group has an inversion centre and a polar axis, and the point order.

    The operations of a cell would not do: a supercell keeps only some of them.
    """
    _, order, is_centric, is_polar = next(row for row in _CLASSES if number <= row[0])
    return bool(is_centric), bool(is_polar), order


def _row(data: object, n_atoms: int) -> tuple[float, ...]:
    if data is None:
        bits = math.log2(n_atoms)
        return (1, 0, *crystal_class(1), n_atoms, n_atoms, 1, bits, bits * n_atoms, 1, 0)
    number: int = data.number  # type: ignore[attr-defined]
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
        *crystal_class(number),
        n_primitive,
        len(counts),
        len(counts) / n_primitive,
        bits,
        bits * n_primitive,
        length.max() / length.min(),
        abs(angles - 90).max(),
    )
