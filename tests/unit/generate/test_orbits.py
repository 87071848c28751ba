"""Space groups on dense states: symmetric noise, symmetric steps, symmetric cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.lattice import metric_tensor
from matmill.generate.orbits import Orbits, free_directions
from matmill.generate.process import add_symmetric_noise
from matmill.generate.state import LatticeScale, from_dense, to_dense
from matmill.generate.symmetric import SymmetricBatch, SymmetricSet, WithSymmetric
from matmill.generate.wyckoff.positions import operations
from matmill.randomness import child


@pytest.fixture(scope="module")
def cells(crystals) -> CrystalBatch:
    """Two perovskites and rutile, in standard primitive cells."""
    return symmetry.primitive(crystals.select([4, 5, 1]), symprec=0.01)


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    return [221, 136, 221]


def orbits_of(batch: CrystalBatch, number: int) -> Orbits:
    orbits, fits = Orbits.of_crystals(batch, torch.tensor([number]))
    assert bool(fits.all())
    return orbits


def misfit(f: torch.Tensor, number: int, orbits: Orbits) -> float:
    """Return how far the operations miss the sites that they should land on."""
    w, t = operations(number)
    worst = 0.0
    for g in range(len(w)):
        moved = f[0].double() @ w[g].double().T + t[g].double()
        step = moved - f[0].double()[orbits.image[0, g]]
        worst = max(worst, float((step - step.round()).abs().max()))
    return worst


@pytest.mark.parametrize("row", [0, 1, 2])
def test_displaced_and_new_sites_keep_every_operation(cells, numbers, row):
    batch = cells.select([row])
    orbits = orbits_of(batch, numbers[row])
    rng = child(0, "orbits")
    for _ in range(5):
        moved = batch.frac_coords[None] + orbits.displacement(rng)
        assert misfit(moved, numbers[row], orbits) < 1e-9
        assert misfit(orbits.start(rng), numbers[row], orbits) < 1e-6


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_projection_is_a_projection_and_lets_symmetric_fields_pass(cells, numbers, seed):
    rng = torch.Generator().manual_seed(seed)
    batch = cells.select([1])
    orbits = orbits_of(batch, numbers[1])
    field = torch.randn(1, 6, 3, generator=rng, dtype=torch.float64)
    once = orbits.project_velocity(field)
    assert torch.allclose(orbits.project_velocity(once), once, atol=1e-12)
    free = orbits.displacement(rng)
    assert torch.allclose(orbits.project_velocity(free), free, atol=1e-12)
    # Orthogonal to what is taken away, as a mean over a group of signed permutations is here.
    assert float(((field - once) * once).sum().abs()) < 1e-9


def test_rutile_has_one_free_direction_at_the_anion_and_none_at_the_cation(cells, numbers):
    orbits = orbits_of(cells.select([1]), numbers[1])
    n_free = (orbits.basis[0].abs().sum(-1) > 0).sum(-1)
    z = cells.select([1]).atomic_numbers
    assert n_free[z == 8].tolist() == [1] * 4
    assert n_free[z == 22].tolist() == [0] * 2


def test_cells_become_invariant_and_keep_their_volume(cells, numbers):
    scale = LatticeScale.fit(cells)
    rng = torch.Generator().manual_seed(3)
    for row, number in enumerate(numbers):
        orbits = orbits_of(cells.select([row]), number)
        y = torch.randn(1, 6, generator=rng, dtype=torch.float64)
        even = orbits.project_lattice(y, scale)
        assert torch.allclose(orbits.project_lattice(even, scale), even, atol=1e-9)
        assert torch.allclose(even[:, 5], y[:, 5], atol=1e-9)  # the number that holds the volume
        gram = metric_tensor(scale.decode(even, cells.n_atoms[row : row + 1]))
        w = operations(number)[0].double()
        assert torch.allclose(w.transpose(1, 2) @ gram @ w, gram.expand_as(w), atol=1e-8)
        real = scale.encode(cells.lattice[row : row + 1], cells.n_atoms[row : row + 1])
        assert torch.allclose(orbits.project_lattice(real, scale), real, atol=1e-9)


def test_noisy_states_have_the_group_that_they_were_made_in(cells, numbers):
    scale = LatticeScale.fit(cells)
    found = []
    for row, number in enumerate(numbers):
        batch = cells.select([row])
        orbits = orbits_of(batch, number)
        ((_, clean),) = to_dense(batch, scale).values()
        state, _ = add_symmetric_noise(clean, orbits, scale, child(row, "noise"))
        found.append(from_dense(state.crystals, scale))
    # At a tolerance below any accidental symmetry; a higher group contains the one asked for.
    assert symmetry.find(concatenate(found), symprec=1e-3).number.tolist() == numbers


def test_velocity_leads_from_noise_to_the_crystal(cells, numbers):
    scale = LatticeScale.fit(cells)
    batch = cells.select([1])
    orbits = orbits_of(batch, numbers[1])
    ((_, clean),) = to_dense(batch, scale).values()
    state, targets = add_symmetric_noise(clean, orbits, scale, child(1, "noise"))
    left = (1 - state.site_clock)[..., None] * targets.site_velocity
    step = state.crystals.f + left - clean.f
    assert float((step - step.round()).abs().max()) < 1e-5


def test_a_crystal_that_lacks_the_group_is_refused(cells):
    batch = cells.select([1])
    _, fits = Orbits.of_crystals(batch, torch.tensor([221]))
    assert not bool(fits.any())


def test_free_directions_are_primitive():
    # x, 2x, z of hexagonal groups: the plane of (1, 2, 0) and (0, 0, 1).
    projector = torch.tensor([[0.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    basis = free_directions(projector[None])[0]
    assert sorted(map(tuple, basis.tolist())) == [(0, 0, 0), (0, 0, 1), (1, 2, 0)]


def test_both_modes_are_served_as_often_as_asked(crystals, training_set):
    symmetric = SymmetricSet(crystals, training_set.scale, max_atoms=20)
    both = WithSymmetric(training_set, symmetric, passes=2)
    batches = list(both.epoch(0, child(0, "epoch")))
    assert len(batches) == both.n_batches()
    in_groups = [b for b in batches if isinstance(b, SymmetricBatch)]
    assert sum(map(len, in_groups)) == 2 * len(symmetric) == 12
    assert sum(len(b.crystals) for b in batches) == len(both) == 18
    for batch in in_groups:
        shown = batch.shown(child(1, "drop"))
        assert (shown.space_group == batch.orbits.space_group).all()
