"""The vibration block against closed forms on springs, and CHGNet's package through ASE."""

import itertools
import math

import pytest
import torch
from descriptor_crystals import crystal, cubic, diamond, known_crystals, rock_salt, supercell

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import primitive
from matmill.predict.descriptors import vibrations
from matmill.predict.descriptors.describe import describe
from matmill.predict.descriptors.vibrations import (
    LARGEST_CELL,
    bulk_modulus,
    second_derivatives,
    vibration_block,
)
from matmill.verify.potentials import PotentialOutput

PER_CM = 521.4709  # sqrt(eV/Å²/amu) as a wave number
STIFFNESS = 3.0  # eV/Å²
LENGTH = 2.0  # Å, where the springs rest


class Springs:
    """Springs between an atom and the six others near 2 Å of it."""

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        assert forces
        strain = torch.zeros(len(batch), 3, 3, dtype=torch.float64, requires_grad=True)
        lattice = batch.lattice @ (torch.eye(3).double() + strain)
        frac = batch.frac_coords.clone()
        cart = torch.einsum("ai,aij->aj", frac, lattice[batch.crystal_index])
        move = torch.zeros_like(cart, requires_grad=True)
        energies = [cart.new_zeros(0)]
        steps = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3))).double()
        for i in range(len(batch)):
            rows = batch.atoms_of(i)
            points = (cart + move)[rows]
            images = points[None, :, None] + (steps @ lattice[i])[None, None]
            length = (images - points[:, None, None]).square().sum(-1).clamp_min(1e-12).sqrt()
            near = (length > 0.5) & (length < 1.3 * LENGTH)
            energies.append(0.25 * STIFFNESS * ((length - LENGTH) ** 2 * near).sum()[None])
        energy = torch.cat(energies)
        slope, virial = torch.autograd.grad(
            energy.sum(), (move, strain), allow_unused=True, materialize_grads=True
        )
        stress = virial / batch.volume[:, None, None]
        return PotentialOutput(
            energy_ev=energy.detach(), forces_ev_per_a=-slope, stress_ev_per_a3=stress
        )


@pytest.fixture
def springs(monkeypatch) -> None:
    monkeypatch.setattr(vibrations, "load", Springs)


@pytest.mark.usefixtures("springs")
def test_two_sublattices_on_springs():
    """At Γ the sublattices of rock salt move against each other: ω² = 2 k (1/m + 1/M)."""
    salt = rock_salt(a=2 * LENGTH)
    found = vibration_block(salt)
    mass = 1 / (1 / 22.98976928 + 1 / 35.45)
    top = PER_CM * math.sqrt(2 * STIFFNESS / mass)
    assert float(found.column("frequency_per_cm_max")[0]) == pytest.approx(top, rel=1e-4)
    assert float(found.column("frequency_per_cm_mean")[0]) == pytest.approx(top / 2, rel=1e-3)
    assert float(found.column("frequency_per_cm_min")[0]) == pytest.approx(0, abs=1e-3)
    for statistic in ("min", "max"):
        value = float(found.column(f"site_stiffness_ev_per_angstrom2_{statistic}")[0])
        assert value == pytest.approx(2 * STIFFNESS, rel=1e-4)
    single = PER_CM * math.sqrt(2 * STIFFNESS / 22.98976928)
    assert float(found.column("site_frequency_per_cm_max")[0]) == pytest.approx(single, rel=1e-4)


@pytest.mark.usefixtures("springs")
def test_bulk_modulus_of_springs():
    """Six springs to an atom, three to itself: K = k / (3 r)."""
    cells = primitive(rock_salt(a=2 * LENGTH))
    expected = STIFFNESS / (3 * LENGTH) * 160.21766
    assert float(bulk_modulus(cells)[0]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.usefixtures("springs")
def test_second_derivatives_obey_their_sum_rule():
    batch = primitive(known_crystals().select([0, 1, 4]))
    for _, hessian in second_derivatives(batch):
        torch.testing.assert_close(hessian, hessian.mT)
        n = hessian.shape[1] // 3
        total = hessian.reshape(-1, n, 3, n, 3).sum(3)
        torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-9, rtol=0)


def test_chgnet_agrees_with_its_package_through_ase():
    """Frequencies at Γ of rock salt from ASE's own finite displacements."""
    import warnings

    from ase import Atoms, units
    from chgnet.model import CHGNetCalculator

    cell = primitive(rock_salt())
    warnings.simplefilter("ignore")
    atoms = Atoms(
        numbers=cell.atomic_numbers.numpy(),
        scaled_positions=cell.frac_coords.numpy(),
        cell=cell.lattice[0].numpy(),
        pbc=True,
        calculator=CHGNetCalculator(use_device="cpu"),
    )
    atoms.set_masses([22.98976928 if z == 11 else 35.45 for z in cell.atomic_numbers.tolist()])
    hessian = torch.zeros(6, 6).double()
    for row in range(6):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            positions = moved.get_positions()
            positions[row // 3, row % 3] += sign * 0.01
            moved.set_positions(positions)
            hessian[row] -= sign * torch.as_tensor(moved.get_forces()).flatten() / 0.02
    mass = torch.as_tensor(atoms.get_masses()).repeat_interleave(3)
    values = torch.linalg.eigvalsh(0.5 * (hessian + hessian.T) / (mass[:, None] * mass).sqrt())
    top = math.sqrt(float(values[-1]) * units._e / 1e-20 / units._amu) / (
        2 * math.pi * units._c * 100
    )
    found = float(vibration_block(rock_salt()).column("frequency_per_cm_max")[0])
    assert found == pytest.approx(top, rel=0.01)


def test_supercells_share_their_frequencies():
    plain = vibration_block(diamond())
    large = vibration_block(supercell(diamond(), (1, 2, 1)))
    torch.testing.assert_close(plain.values, large.values, rtol=1e-3, atol=0.5)
    assert len(describe([f"vibrations.{name}" for name in plain.names])) == plain.n_columns


def test_large_cells_and_unknown_elements_are_left_out():
    rng = torch.Generator().manual_seed(0)
    coords = torch.rand(LARGEST_CELL + 1, 3, generator=rng, dtype=torch.float64).tolist()
    large = crystal(cubic(12.0), [(6, *x) for x in coords])
    assert vibration_block(large).values.isnan().all()
    assert vibration_block(CrystalBatch.empty()).values.shape[0] == 0
