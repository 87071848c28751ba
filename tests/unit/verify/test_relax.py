"""Batched relaxation against ASE's FIRE, and its promises about failures."""

import warnings

import pytest
import torch
from crystals_for_tests import MP_20, given_crystals, perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.progress import Event
from matmill.verify.potentials import CHGNetPotential, PotentialOutput, load_chgnet
from matmill.verify.relax import RelaxSettings, relax
from matmill.verify.validity import smallest_distance
from matmill.verify.verdict import Fate


@pytest.fixture(scope="module")
def potential() -> CHGNetPotential:
    return load_chgnet()


def shaken(seed: int) -> CrystalBatch:
    """Return the prototypes shaken by 0.05 Å; a few steps bring them back."""
    rng = torch.Generator().manual_seed(seed)
    return perturbed(prototypes(), step=0.05, strain=0.02, rng=rng)


def ase_energies(batch: CrystalBatch, fmax: float) -> list[float]:
    from ase import Atoms

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model import CHGNet, StructOptimizer

        optimizer = StructOptimizer(model=CHGNet.load(use_device="cpu", verbose=False))
        energies = []
        for i in range(len(batch)):
            rows = batch.atoms_of(i)
            atoms = Atoms(
                numbers=batch.atomic_numbers[rows].numpy(),
                scaled_positions=batch.frac_coords[rows].numpy(),
                cell=batch.lattice[i].numpy(),
                pbc=True,
            )
            result = optimizer.relax(atoms, fmax=fmax, steps=500, verbose=False)
            energies.append(float(result["trajectory"].energies[-1]))
    return energies


def test_prototypes_end_where_ase_ends(potential):
    batch = shaken(0).select([0, 1, 4, 5, 8])
    mine = relax(batch, potential, RelaxSettings(fmax=0.05))
    assert bool(mine.converged.all())
    theirs = torch.tensor(ase_energies(batch, 0.05), dtype=torch.float64)
    assert float(((mine.energy_ev - theirs) / batch.n_atoms).abs().max()) < 2e-3


@pytest.mark.slow
@pytest.mark.skipif(not MP_20.exists(), reason="needs the given crystals (MATMILL_DATA)")
def test_given_crystals_end_where_ase_ends(potential):
    rng = torch.Generator().manual_seed(5)
    whole = given_crystals(60, seed=11)
    small = whole.select(whole.n_atoms <= 8).select(torch.arange(10))
    batch = perturbed(small, step=0.05, strain=0.02, rng=rng)
    mine = relax(batch, potential, RelaxSettings(fmax=0.05, max_steps=500))
    assert bool(mine.converged.all())
    theirs = torch.tensor(ase_energies(batch, 0.05), dtype=torch.float64)
    assert float(((mine.energy_ev - theirs) / batch.n_atoms).abs().max()) < 2e-3


def test_what_is_reported_is_what_the_potential_says(potential):
    batch = shaken(1)
    before = batch.lattice.clone(), batch.frac_coords.clone()
    result = relax(batch, potential)
    again = potential.compute(result.batch)
    torch.testing.assert_close(result.energy_ev, again.energy_ev, atol=1e-4, rtol=0)
    start = potential.compute(batch, forces=False).energy_ev
    torch.testing.assert_close(result.start_energy_ev, start, atol=1e-4, rtol=0)
    assert bool((result.energy_ev < start).all())
    assert bool((result.max_force[result.converged] < 0.1).all())
    assert torch.equal(batch.lattice, before[0])
    assert torch.equal(batch.frac_coords, before[1])
    assert result.batch.ids == batch.ids


def test_crystals_do_not_feel_their_neighbours_in_the_batch(potential):
    batch = shaken(2).select([0, 1, 5, 8])
    together = relax(batch, potential)
    alone = relax(batch.select([2]), potential)
    assert int(alone.steps[0]) == int(together.steps[2])
    assert float(alone.energy_ev[0]) == pytest.approx(float(together.energy_ev[2]), abs=2e-3)
    few = relax(batch, potential, RelaxSettings(max_atoms=1))
    torch.testing.assert_close(few.energy_ev, together.energy_ev, atol=5e-3, rtol=0)


def test_running_out_of_steps_is_never_convergence(potential):
    result = relax(shaken(3), potential, RelaxSettings(max_steps=2))
    late = ~result.converged
    assert bool(late.any())
    for i in torch.nonzero(late).flatten().tolist():
        assert result.status[i] is Fate.NOT_CONVERGED
    assert int(result.steps.max()) <= 2
    zero = relax(shaken(3), potential, RelaxSettings(max_steps=0))
    torch.testing.assert_close(zero.batch.lattice, shaken(3).lattice)


def test_fixed_cells_stay(potential):
    batch = shaken(4)
    result = relax(batch, potential, RelaxSettings(relax_cell=False))
    torch.testing.assert_close(result.batch.lattice, batch.lattice)
    moved = result.steps > 0
    assert bool(moved.any())
    assert bool((result.energy_ev < result.start_energy_ev)[moved].all())


class Made:
    """A potential with a made-up energy, for failures that CHGNet seldom shows."""

    name, hash = "made", "0"

    def __init__(self, pressure: float = 0.0, force: float = 0.0, energy: float = 0.0) -> None:
        self.pressure, self.force, self.energy = pressure, force, energy

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        assert forces  # relaxation needs nothing less
        force = torch.zeros_like(batch.frac_coords)
        force[batch.offsets, 0] = self.force
        return PotentialOutput(
            energy_ev=torch.full((len(batch),), self.energy, dtype=torch.float64),
            forces_ev_per_a=force,
            stress_ev_per_a3=torch.eye(3, dtype=torch.float64).expand(len(batch), 3, 3)
            * -self.pressure,
        )


@pytest.mark.parametrize(
    ("made", "fate"),
    [
        (Made(pressure=1.0), Fate.EXPLODED),
        (Made(pressure=-1.0), Fate.COLLAPSED),
        (Made(force=60.0), Fate.FORCES_TOO_LARGE),
        (Made(energy=float("nan")), Fate.EXPLODED),
        (Made(force=1.0), Fate.NOT_CONVERGED),
    ],
)
def test_failures_get_their_name(made, fate):
    result = relax(prototypes(), made, RelaxSettings(max_steps=60, min_distance_a=0.0))
    assert result.status == [fate] * len(prototypes())
    assert not bool(result.converged.any())


def test_atoms_that_meet_have_collapsed():
    meeting = CrystalBatch.from_lists(
        [[[4, 0, 0], [0, 4, 0], [0, 0, 4]]], [[[0, 0, 0], [0.05, 0, 0]]], [[14, 14]]
    )
    batch = concatenate([meeting, prototypes()])
    result = relax(batch, Made(), RelaxSettings())
    assert float(smallest_distance(meeting)) < 0.4
    assert result.status[0] is Fate.COLLAPSED
    assert result.status[1:] == [None] * len(prototypes())


def test_progress_counts_up_to_the_whole_batch(potential):
    seen: list[Event] = []
    batch = shaken(5)
    relax(batch, potential, on_event=seen.append)
    assert [e.done for e in seen] == sorted(e.done for e in seen)
    assert (seen[-1].done, seen[-1].total) == (len(batch), len(batch))
    assert len(relax(CrystalBatch.empty(), potential).batch) == 0
