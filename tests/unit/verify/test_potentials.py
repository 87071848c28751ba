"""The batched CHGNet against the package it takes its weights from, and against itself."""

import warnings

import pytest
import torch
from crystals_for_tests import MP_20, given_crystals, perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify.ase_potential import AsePotential
from matmill.verify.potentials import CHGNetPotential, load_chgnet

GPA_PER_EV_A3 = 160.21766208


@pytest.fixture(scope="module")
def potential() -> CHGNetPotential:
    return load_chgnet()


@pytest.fixture(scope="module")
def package():
    warnings.simplefilter("ignore")
    from chgnet.model import CHGNet

    return CHGNet.load(use_device="cpu", verbose=False)


def compare_with_package(batch: CrystalBatch, potential: CHGNetPotential, package) -> None:
    from pymatgen.core import Structure

    mine = potential.compute(batch)
    assert mine.forces_ev_per_a is not None
    assert mine.stress_ev_per_a3 is not None
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        structure = Structure(
            batch.lattice[i].numpy(),
            batch.atomic_numbers[rows].tolist(),
            batch.frac_coords[rows].numpy(),
        )
        theirs = package.predict_structure(structure, task="efs")
        assert abs(float(mine.energy_ev[i] / batch.n_atoms[i]) - float(theirs["e"])) < 1e-5
        force = torch.as_tensor(theirs["f"]).double()
        # The package takes angles in float32: near 180° its own forces are only good to 3e-4.
        torch.testing.assert_close(mine.forces_ev_per_a[rows], force, atol=3e-4, rtol=1e-4)
        stress = torch.as_tensor(theirs["s"]).double() / GPA_PER_EV_A3
        stress = 0.5 * (stress + stress.mT)
        torch.testing.assert_close(mine.stress_ev_per_a3[i], stress, atol=1e-4, rtol=1e-4)


def test_prototypes_agree_with_the_package(potential, package):
    rng = torch.Generator().manual_seed(0)
    batch = prototypes()
    compare_with_package(batch, potential, package)
    compare_with_package(perturbed(batch, step=0.1, strain=0.03, rng=rng), potential, package)


@pytest.mark.skipif(not MP_20.exists(), reason="needs the given crystals (MATMILL_DATA)")
def test_given_crystals_agree_with_the_package(potential, package):
    rng = torch.Generator().manual_seed(1)
    batch = perturbed(given_crystals(60, seed=3), step=0.1, strain=0.02, rng=rng)
    compare_with_package(batch, potential, package)


def test_fast_path_and_batching_change_nothing(potential):
    batch = concatenate([prototypes(), prototypes()])
    with_forces = potential.compute(batch)
    torch.testing.assert_close(
        with_forces.energy_ev, potential.compute(batch, forces=False).energy_ev, atol=1e-4, rtol=0
    )
    alone = [potential.compute(batch.select([i])).energy_ev for i in range(len(batch))]
    torch.testing.assert_close(with_forces.energy_ev, torch.cat(alone), atol=1e-4, rtol=0)


def test_forces_are_the_slope_of_the_energy(potential):
    rng = torch.Generator().manual_seed(2)
    batch = perturbed(prototypes(), step=0.1, strain=0.02, rng=rng).select([5])
    forces = potential.compute(batch).forces_ev_per_a
    h = 1e-2
    for axis in range(3):
        energies = []
        for sign in (-1.0, 1.0):
            frac = batch.frac_coords.clone()
            step = torch.zeros(3, dtype=torch.float64)
            step[axis] = sign * h
            frac[0] += step @ torch.linalg.inv(batch.lattice[0])
            moved = CrystalBatch(
                lattice=batch.lattice,
                frac_coords=frac,
                atomic_numbers=batch.atomic_numbers,
                n_atoms=batch.n_atoms,
            )
            energies.append(float(potential.compute(moved, forces=False).energy_ev))
        slope = (energies[1] - energies[0]) / (2 * h)
        assert abs(-slope - float(forces[0, axis])) < 0.02


def test_untreatable_crystals_become_nan_and_leave_the_others_alone(potential):
    batch = prototypes()
    numbers = batch.atomic_numbers.clone()
    numbers[batch.atoms_of(1)] = 96
    frac = batch.frac_coords.clone()
    frac[batch.atoms_of(3)] = torch.nan
    mixed = CrystalBatch(
        lattice=batch.lattice, frac_coords=frac, atomic_numbers=numbers, n_atoms=batch.n_atoms
    )
    output, clean = potential.compute(mixed), potential.compute(batch)
    bad = torch.tensor([i in (1, 3) for i in range(len(batch))])
    assert torch.equal(torch.isnan(output.energy_ev), bad)
    torch.testing.assert_close(output.energy_ev[~bad], clean.energy_ev[~bad], atol=1e-4, rtol=0)
    assert bool(torch.isfinite(output.forces_ev_per_a[~bad[batch.crystal_index]]).all())


def test_empty_batch_and_lonely_atom(potential):
    assert potential.compute(CrystalBatch.empty()).energy_ev.shape == (0,)
    alone = CrystalBatch.from_lists([[[9, 0, 0], [0, 9, 0], [0, 0, 9]]], [[[0, 0, 0]]], [[18]])
    output = potential.compute(alone)
    assert bool(torch.isfinite(output.energy_ev).all())
    assert float(output.forces_ev_per_a.abs().max()) == 0.0


def test_ase_calculators_are_potentials():
    from ase.calculators.lj import LennardJones

    potential = AsePotential(
        lambda: LennardJones(sigma=2.3, epsilon=0.1, rc=8.0), name="lj", hash="0"
    )
    output = potential.compute(prototypes().select([3, 4]))
    assert output.energy_ev.shape == (2,)
    assert output.forces_ev_per_a.shape == (6, 3)
    assert output.stress_ev_per_a3.shape == (2, 3, 3)


def test_float32_noise_of_forces_is_below_a_tenth_of_a_mev(potential):
    """The same network in float64 is the judge of our rounding."""
    rng = torch.Generator().manual_seed(4)
    batch = perturbed(prototypes(), step=0.1, strain=0.03, rng=rng)
    mine = potential.compute(batch)
    judge = CHGNetPotential(dtype=torch.float64).compute(batch)
    torch.testing.assert_close(mine.forces_ev_per_a, judge.forces_ev_per_a, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(mine.energy_ev, judge.energy_ev, atol=1e-4, rtol=0)
