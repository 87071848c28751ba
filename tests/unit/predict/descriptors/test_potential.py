"""The potential block against the package whose weights it uses."""

import warnings

import pytest
import torch
from descriptor_crystals import known_crystals, reversed_atoms, rock_salt, rotated, supercell

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.predict.descriptors.describe import describe
from matmill.predict.descriptors.potential import load, potential_block
from matmill.units import convert


def strained() -> CrystalBatch:
    """Crystals off their minima, so that there are forces and shear."""
    batch = known_crystals()
    rng = torch.Generator().manual_seed(3)
    noise = 0.02 * torch.rand(batch.frac_coords.shape, generator=rng, dtype=torch.float64)
    shear = torch.tensor([[1.02, 0.01, 0], [0, 0.99, 0.015], [0, 0, 1.0]]).double()
    return CrystalBatch(
        lattice=batch.lattice @ shear,
        frac_coords=batch.frac_coords + noise,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )


@pytest.fixture(scope="module")
def package():
    warnings.simplefilter("ignore")
    from chgnet.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


def test_sites_agree_with_the_package(package):
    from pymatgen.core import Structure

    batch = strained()
    found = load().describe(batch)
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        structure = Structure(
            batch.lattice[i].numpy(),
            batch.atomic_numbers[rows].tolist(),
            batch.frac_coords[rows].numpy(),
        )
        theirs = package.predict_structure(
            structure, task="efsm", return_atom_feas=True, return_site_energies=True
        )
        before = torch.as_tensor(theirs["atom_fea"])
        torch.testing.assert_close(found.before[rows], before, atol=2e-4, rtol=1e-3)
        moment = torch.as_tensor(theirs["m"]).double()
        torch.testing.assert_close(found.moment_bohr_magneton[rows], moment, atol=1e-4, rtol=1e-3)
        energy = found.energy_ev[rows] + load().network.composition_energy(
            batch.atomic_numbers[rows]
        )
        site = torch.as_tensor(theirs["site_energies"]).double()
        torch.testing.assert_close(energy, site, atol=1e-4, rtol=1e-4)
        force = torch.as_tensor(theirs["f"]).double()
        torch.testing.assert_close(found.forces_ev_per_a[rows], force, atol=3e-4, rtol=1e-3)


def test_block_is_what_the_sites_say():
    batch = strained()
    sites, found = load().describe(batch), potential_block(batch)
    stress = sites.stress_ev_per_a3 * convert(1.0, "eV/A3", "GPa")
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        expected = {
            "feature_07_mean": sites.after[rows, 7].double().mean(),
            "feature_63_max": sites.after[rows, 63].double().max(),
            "feature_00_std": sites.after[rows, 0].double().std(correction=0),
            "site_energy_ev_min": sites.energy_ev[rows].min(),
            "force_ev_per_angstrom_max": sites.forces_ev_per_a[rows].norm(dim=1).max(),
            "pressure_gpa": -stress[i].trace() / 3,
        }
        for name, value in expected.items():
            assert float(found.column(name)[i]) == pytest.approx(float(value), rel=1e-6, abs=1e-9)
    assert len(describe([f"potential.{name}" for name in found.names])) == found.n_columns


def test_uniaxial_stress_is_its_own_von_mises_stress():
    tensor = torch.diag(torch.tensor([5.0, 0, 0]).double())
    pressure = -tensor.trace() / 3
    deviator = tensor + pressure * torch.eye(3)
    assert float((1.5 * (deviator**2).sum()).sqrt()) == pytest.approx(5.0)


def test_the_crystal_alone_matters():
    batch = strained()
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    first = potential_block(batch)
    for changed in (reversed_atoms(rotated(batch, turn)), supercell(batch, (1, 1, 2))):
        second = potential_block(changed)
        torch.testing.assert_close(first.values, second.values, atol=2e-3, rtol=1e-3)


def test_elements_beyond_plutonium_are_unknown_not_wrong():
    both = potential_block(concatenate([rock_salt(cation=96), rock_salt()]))
    assert both.values[0].isnan().all()
    torch.testing.assert_close(both.values[1], potential_block(rock_salt()).values[0])
