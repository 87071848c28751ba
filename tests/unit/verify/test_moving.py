"""Steps of relaxation on energies that are known in closed form."""

import math

import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify.potentials import PotentialOutput, load_chgnet
from matmill.verify.relax import RelaxSettings, relax

OPTIMIZERS = ("lbfgs", "fire")


class Springs:
    """Each atom on a spring to a place of its own; the cell wants to be a cube of a given volume.

    Energy of a crystal: the sum of k/2 |x - x0|² over atoms, in a cell that does not matter to
    them, and K/2 N tr(e²) of the strain from the cube, e = log of the stretch.
    """

    name, hash, scheme = "springs", "0", "other"

    def __init__(self, stiffness: tuple[float, ...], cube_a: float) -> None:
        self.stiffness = torch.tensor(stiffness, dtype=torch.float64)
        self.cube_a = cube_a

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        assert forces
        k = self.stiffness[torch.arange(len(batch.frac_coords)) % len(self.stiffness)]
        away = batch.frac_coords - 0.5  # all want to be in the middle
        cart = torch.einsum("ai,aij->aj", away, batch.lattice[batch.crystal_index])
        energy = torch.zeros(len(batch), dtype=torch.float64)
        energy = energy.index_add(0, batch.crystal_index, 0.5 * k * (cart**2).sum(1))
        force = -k[:, None] * cart
        virial = torch.zeros(len(batch), 3, 3, dtype=torch.float64)
        virial = virial.index_add(
            0, batch.crystal_index, k[:, None, None] * cart[:, :, None] * cart[:, None, :]
        )
        # log V/V0 for the cell: K/2 N (ln V/V0)²
        n, stiff = batch.n_atoms, 8.0
        grown = torch.log(batch.volume / self.cube_a**3)
        energy = energy + 0.5 * stiff * n * grown**2
        virial = virial + (stiff * n * grown)[:, None, None] * torch.eye(3, dtype=torch.float64)
        return PotentialOutput(
            energy_ev=energy,
            forces_ev_per_a=force,
            stress_ev_per_a3=virial / batch.volume[:, None, None],
        )


def boxes(n: int, seed: int, a: float = 4.0) -> CrystalBatch:
    rng = torch.Generator().manual_seed(seed)
    frac = [(0.5 + 0.1 * torch.randn(3, 3, generator=rng)).tolist() for _ in range(n)]
    cells = [[[a, 0, 0], [0.2, a, 0], [0, 0.1, a]] for _ in range(n)]
    return CrystalBatch.from_lists(cells, frac, [[14, 8, 8]] * n)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_springs_and_volume_come_to_rest_where_they_must(optimizer):
    springs = Springs((3.0, 12.0, 40.0), cube_a=4.5)
    settings = RelaxSettings(fmax=1e-6, max_steps=600, optimizer=optimizer, min_distance_a=0.0)
    result = relax(boxes(6, 0), springs, settings)
    assert bool(result.converged.all())
    assert float(result.energy_ev.abs().max()) < 1e-8
    torch.testing.assert_close(result.batch.frac_coords, torch.full((18, 3), 0.5).double())
    volume = torch.full((6,), 4.5**3, dtype=torch.float64)
    torch.testing.assert_close(result.batch.volume, volume, rtol=1e-6, atol=0)
    assert float(result.forces_ev_per_a.abs().max()) < 1e-6
    assert float(result.stress_ev_per_a3.abs().max()) < 1e-6


def test_lbfgs_needs_fewer_steps_than_fire_on_stiff_and_soft_springs():
    springs = Springs((2.0, 20.0, 60.0), cube_a=4.3)
    steps = {}
    for optimizer in OPTIMIZERS:
        settings = RelaxSettings(fmax=1e-4, max_steps=600, optimizer=optimizer, min_distance_a=0.0)
        result = relax(boxes(8, 1), springs, settings)
        assert bool(result.converged.all())
        steps[optimizer] = float(result.steps.double().mean())
    assert steps["lbfgs"] < 0.7 * steps["fire"]


class Egg(Springs):
    """Springs in an egg box: hills and valleys, where a quasi-Newton step can land uphill."""

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        output = super().compute(batch, forces=forces)
        wave = 2 * math.pi * 3
        x = batch.frac_coords
        bumps = torch.zeros(len(batch), dtype=torch.float64)
        bumps = bumps.index_add(0, batch.crystal_index, (1 - torch.cos(wave * x)).sum(1))
        inverse = torch.linalg.inv(batch.lattice)[batch.crystal_index]
        slope = torch.einsum("ai,aji->aj", wave * torch.sin(wave * x), inverse)
        return PotentialOutput(
            energy_ev=output.energy_ev + 0.3 * bumps,
            forces_ev_per_a=output.forces_ev_per_a - 0.3 * slope,
            stress_ev_per_a3=output.stress_ev_per_a3,
        )


def test_lbfgs_takes_back_steps_that_went_uphill():
    seen: list[torch.Tensor] = []

    class Watched(Egg):
        def compute(self, batch, *, forces=True):
            output = super().compute(batch, forces=forces)
            seen.append(output.energy_ev)
            return output

    settings = RelaxSettings(
        fmax=1e-4, max_steps=400, max_step_a=0.6, relax_cell=False, min_distance_a=0.0
    )
    uphill = 0
    for seed in range(6):
        seen.clear()
        result = relax(boxes(1, seed), Watched((1.0, 1.0, 1.0), cube_a=4.0), settings)
        energies = torch.cat(seen)
        assert bool(result.converged.all())
        assert float(result.energy_ev[0]) <= float(energies.min()) + 1e-6
        uphill += int((energies.diff() > 1e-3).sum())
    assert uphill > 0  # it does happen, and none of it lasted


@pytest.fixture(scope="module")
def potential():
    return load_chgnet()


def shaken(seed: int) -> CrystalBatch:
    rng = torch.Generator().manual_seed(seed)
    return perturbed(prototypes().select([0, 5, 6]), step=0.06, strain=0.02, rng=rng)


def with_lattice(batch: CrystalBatch, lattice: torch.Tensor) -> CrystalBatch:
    return CrystalBatch(
        lattice=lattice,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_turned_crystals_relax_alike(potential, optimizer):
    batch = shaken(3)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())
    q = q * torch.sign(torch.linalg.det(q))
    settings = RelaxSettings(fmax=0.02, optimizer=optimizer)
    there = relax(batch, potential, settings)
    turned = relax(with_lattice(batch, batch.lattice @ q.T), potential, settings)
    per_atom = (there.energy_ev - turned.energy_ev) / batch.n_atoms
    assert float(per_atom.abs().max()) < 1e-4
    torch.testing.assert_close(there.batch.volume, turned.batch.volume, rtol=2e-3, atol=0)


def test_atoms_in_another_order_relax_alike(potential):
    batch = shaken(4).select([1])
    order = torch.tensor([2, 0, 3, 1])
    other = CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords[order],
        atomic_numbers=batch.atomic_numbers[order],
        n_atoms=batch.n_atoms,
    )
    there = relax(batch, potential, RelaxSettings(fmax=0.02))
    here = relax(other, potential, RelaxSettings(fmax=0.02))
    assert float((there.energy_ev - here.energy_ev).abs()) < 4e-4
    step = here.batch.frac_coords - there.batch.frac_coords[order]
    assert float((step - step.round()).abs().max()) < 2e-3
    assert torch.equal(here.batch.atomic_numbers, other.atomic_numbers)


def test_a_supercell_relaxes_to_the_energy_of_its_cell(potential):
    batch = shaken(5).select([1])
    frac = torch.cat([batch.frac_coords, batch.frac_coords + torch.tensor([1.0, 0, 0])])
    double = CrystalBatch(
        lattice=batch.lattice * torch.tensor([2.0, 1, 1]).double()[None, :, None],
        frac_coords=frac * torch.tensor([0.5, 1, 1]),
        atomic_numbers=batch.atomic_numbers.repeat(2),
        n_atoms=2 * batch.n_atoms,
    )
    settings = RelaxSettings(fmax=0.01)
    one = relax(batch, potential, settings)
    two = relax(double, potential, settings)
    per_atom = one.energy_ev / batch.n_atoms - two.energy_ev / double.n_atoms
    assert float(per_atom.abs()) < 1e-3
    assert int((two.steps - one.steps).abs()) <= 6  # cells of any size are equally stiff


def test_hopeless_crystals_are_given_up_and_others_are_not(potential):
    batch = concatenate([shaken(6), shaken(6)])
    settings = RelaxSettings(fmax=0.05)
    free = relax(batch, potential, settings)
    final = free.energy_ev / batch.n_atoms
    limit = final + torch.tensor([0.05, 0.05, 0.05, -0.5, torch.nan, -0.5]).double()
    limited = relax(batch, potential, settings, limit_ev_per_atom=limit)
    names = [None if s is None else s.value for s in limited.status]
    assert names == [None, None, None, "hopeless", None, "hopeless"]
    assert not bool(limited.converged[3] | limited.converged[5])
    assert int(limited.steps[3]) < int(free.steps[3])
    torch.testing.assert_close(limited.energy_ev[:3], free.energy_ev[:3], atol=2e-3, rtol=0)
