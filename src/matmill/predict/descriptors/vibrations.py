"""The `vibrations` block: stiffness and frequencies that the embedded potential computes.

Every atom of the primitive cell is moved a little along each axis, the forces give the second
derivatives of the energy, and these the frequencies at Γ. It is the dearest block: a crystal of n
atoms needs 3 n + 3 evaluations of the potential. The crystals are not relaxed first.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import primitive
from matmill.predict.descriptors.bonds import check
from matmill.predict.descriptors.pooling import pooled
from matmill.predict.descriptors.potential import load
from matmill.predict.descriptors.properties import element_property
from matmill.predict.descriptors.table import Features, from_columns
from matmill.units import convert

LARGEST_CELL = 40
"""Atoms of the primitive cell beyond which the block is NaN: its cost grows with their square."""

_STEP = 0.01  # Å; the forces are good to about 1e-4 eV/Å, so stiffness to 0.01 eV/Å²
_STRAIN = 0.005  # of each length, for the bulk modulus
# sqrt(eV/Å²/amu) as a wave number (CODATA 2018).
_PER_CM = math.sqrt(1.602176634e-19 / 1e-20 / 1.66053906660e-27) / (2 * math.pi * 2.99792458e10)


def vibration_block(batch: CrystalBatch) -> Features:
    """Return statistics of the frequencies at Γ, of single atoms' stiffness, and a bulk modulus.

    Args:
        batch: Any number of crystals; their primitive cells are used.

    Returns:
        One row a crystal; NaN where the primitive cell has more than `LARGEST_CELL` atoms or an
        element beyond plutonium. Unstable modes count with a negative frequency.

    Raises:
        InputError: If a crystal has no volume, unknown coordinates or a masked atom.
    """
    check(batch)
    cells = primitive(batch)
    small = torch.nonzero(cells.n_atoms <= LARGEST_CELL).flatten()
    modulus = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    frequency = torch.zeros(0, dtype=torch.float64)
    owner = torch.zeros(0, dtype=torch.int64)
    atoms = cells.select(small)
    hessians = second_derivatives(atoms)
    modulus[small] = bulk_modulus(atoms)
    stiffness, single, atom_owner = [frequency], [frequency], [owner]
    frequencies, owners = [frequency], [owner]
    for crystals, hessian in hessians:
        n = hessian.shape[1] // 3
        rows = atoms.select(crystals).atomic_numbers.reshape(-1, n)
        mass = element_property("mass")[rows].repeat_interleave(3, dim=1)
        dynamic = hessian / (mass[:, :, None] * mass[:, None, :]).sqrt()
        bad = ~torch.isfinite(dynamic).flatten(1).all(1)
        values = torch.linalg.eigvalsh(dynamic.masked_fill(bad[:, None, None], 0.0))
        values = values.masked_fill(bad[:, None], torch.nan)
        frequencies.append((values.sign() * values.abs().sqrt()).flatten() * _PER_CM)
        owners.append(small[crystals].repeat_interleave(3 * n))
        alone = hessian.diagonal(dim1=1, dim2=2).reshape(-1, n, 3).mean(2)
        stiffness.append(alone.flatten())
        mass = mass.reshape(-1, n, 3)[:, :, 0]
        single.append(((alone / mass).clamp_min(0.0).sqrt() * _PER_CM).flatten())
        atom_owner.append(small[crystals].repeat_interleave(n))
    owner, n = torch.cat(atom_owner), len(batch)
    columns = pooled(torch.cat(frequencies), torch.cat(owners), n, "frequency_per_cm")
    columns |= pooled(torch.cat(single), owner, n, "site_frequency_per_cm")
    columns |= pooled(torch.cat(stiffness), owner, n, "site_stiffness_ev_per_angstrom2")
    return from_columns({**columns, "bulk_modulus_gpa": modulus})


def second_derivatives(
    batch: CrystalBatch,
) -> list[tuple[Tensor, Float[Tensor, "n_crystals n_coordinates n_coordinates"]]]:
    """Return the second derivatives of the energy by the atoms' positions, in eV/Å².

    Returns:
        Pairs of row numbers and symmetric matrices, one pair for each size of cell. The acoustic
        sum rule holds: moving all atoms together costs nothing.
    """
    found = []
    for size in torch.unique(batch.n_atoms).tolist():
        crystals = torch.nonzero(batch.n_atoms == size).flatten()
        forces = _displaced_forces(batch.select(crystals))
        hessian = -(forces[:, 1:] - forces[:, :1]) / _STEP  # (n, 3 size, 3 size)
        hessian = 0.5 * (hessian + hessian.mT)
        # Take out motions of all atoms together, which rounding gives a little stiffness.
        together = torch.eye(3, dtype=torch.float64).repeat(size, size) / size
        inner = torch.eye(3 * size, dtype=torch.float64) - together
        found.append((crystals, inner @ hessian @ inner))
    return found


def _displaced_forces(batch: CrystalBatch) -> Float[Tensor, "n_crystals n_moves n_coordinates"]:
    """Return the forces on crystals of one size: as they are, then with each coordinate moved."""
    size = int(batch.n_atoms[0])
    n_moves = 3 * size + 1
    copies = batch.select(torch.arange(len(batch)).repeat_interleave(n_moves))
    steps = torch.cat([torch.zeros(1, 3 * size), _STEP * torch.eye(3 * size)]).double()
    steps = steps.reshape(n_moves, size, 3).repeat(len(batch), 1, 1)
    inverse = torch.linalg.inv(copies.lattice.double())
    moved = copies.frac_coords.double() + (steps @ inverse).reshape(-1, 3)
    forces = load().compute(_with_coords(copies, moved)).forces_ev_per_a
    assert forces is not None
    return forces.reshape(len(batch), n_moves, 3 * size)


def bulk_modulus(batch: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the bulk modulus at fixed fractional coordinates, in GPa."""
    pressures = []
    for scale in (1 - _STRAIN, 1 + _STRAIN):
        stress = load().compute(_with_lattice(batch, batch.lattice * scale)).stress_ev_per_a3
        assert stress is not None
        pressures.append(-stress.diagonal(dim1=1, dim2=2).mean(1))
    strain = 3 * math.log((1 + _STRAIN) / (1 - _STRAIN))
    return (pressures[0] - pressures[1]) / strain * convert(1.0, "eV/A3", "GPa")


def _with_coords(batch: CrystalBatch, frac_coords: Tensor) -> CrystalBatch:
    return CrystalBatch(
        lattice=batch.lattice,
        frac_coords=frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )


def _with_lattice(batch: CrystalBatch, lattice: Tensor) -> CrystalBatch:
    return CrystalBatch(
        lattice=lattice,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )
