"""Relaxation in parts and processes: the same crystals, whatever breaks."""

import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.campaign.workers import InlineWorkers, LocalWorkers
from matmill.crystals.batch import CrystalBatch
from matmill.progress import Event
from matmill.verify.evaluation import evaluate
from matmill.verify.potentials import load_chgnet
from matmill.verify.relax import Relaxed, RelaxSettings, relax
from matmill.verify.relax_workers import dealt, is_worth_it, n_processes, relax_in_workers
from matmill.verify.verdict import Fate

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = RelaxSettings(fmax=0.1, max_steps=30)


@pytest.fixture(scope="module")
def shaken() -> CrystalBatch:
    rng = torch.Generator().manual_seed(0)
    return perturbed(prototypes(), step=0.05, strain=0.02, rng=rng)


@pytest.fixture(scope="module")
def here(shaken) -> Relaxed:
    return relax(shaken, load_chgnet(), QUICK)


def test_parts_are_alike_and_complete(shaken):
    parts = dealt(shaken, 2)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(shaken)))
    sizes = [int(shaken.n_atoms[rows].sum()) for rows in parts]
    assert len(parts) == 2
    assert abs(sizes[0] - sizes[1]) <= int(shaken.n_atoms.max())
    many = shaken.select(torch.arange(600) % len(shaken))
    assert len(dealt(many, 2)) == 2
    assert len(dealt(shaken.select(torch.arange(9000) % len(shaken)), 2)) % 2 == 0
    assert dealt(CrystalBatch.empty(), 2) == []
    assert len(dealt(shaken.select([0]), 4)) == 1
    assert is_worth_it(many)
    assert (n_processes(0, shaken), n_processes(3, shaken)) == (1, 3)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_parts_end_where_the_whole_ends(shaken, here, n_workers):
    seen: list[Event] = []
    there = relax_in_workers(
        shaken, load_chgnet, QUICK, InlineWorkers(), n_workers=n_workers, on_event=seen.append
    )
    per_atom = (there.energy_ev - here.energy_ev) / shaken.n_atoms
    assert float(per_atom.abs().max()) < 2e-3
    assert there.status == here.status
    assert there.batch.ids == shaken.ids
    assert torch.equal(there.batch.atomic_numbers, shaken.atomic_numbers)
    again = load_chgnet().compute(there.batch)
    torch.testing.assert_close(again.energy_ev, there.energy_ev, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.forces_ev_per_a, there.forces_ev_per_a, atol=1e-3, rtol=0)
    torch.testing.assert_close(again.stress_ev_per_a3, there.stress_ev_per_a3, atol=1e-4, rtol=0)
    assert (seen[-1].done, seen[-1].total) == (len(shaken), len(shaken))


class Picky:
    """CHGNet that breaks the whole part when it meets tungsten."""

    name, hash, scheme = "picky", "0", "other"

    def __init__(self) -> None:
        self.potential = load_chgnet()

    def compute(self, batch, *, forces=True):
        if bool((batch.atomic_numbers == 74).any()):
            raise RuntimeError("took longer than 1 s" if len(batch) == 1 else "no tungsten here")
        return self.potential.compute(batch, forces=forces)


def test_a_crystal_that_breaks_its_part_costs_nobody_else(shaken, here):
    there = relax_in_workers(shaken, Picky, QUICK, InlineWorkers(), n_workers=2)
    tungsten = [i for i, f in enumerate(shaken.formula) if f == "W"]
    assert len(tungsten) == 1
    for i in range(len(shaken)):
        if i in tungsten:
            assert there.status[i] is Fate.TIMED_OUT
            assert bool(torch.isnan(there.energy_ev[i]))
            assert not bool(there.converged[i])
        else:
            assert there.status[i] is here.status[i]
            per_atom = (there.energy_ev[i] - here.energy_ev[i]) / shaken.n_atoms[i]
            assert abs(float(per_atom)) < 2e-3


def test_limits_travel_with_their_crystals(shaken, here):
    limit = here.energy_ev / shaken.n_atoms + 0.05
    limit[5] -= 1.0
    there = relax_in_workers(
        shaken,
        load_chgnet,
        RelaxSettings(fmax=0.02, max_steps=30),
        InlineWorkers(),
        n_workers=3,
        limit_ev_per_atom=limit,
    )
    lost = [i for i, status in enumerate(there.status) if status is Fate.HOPELESS]
    assert lost == [5]


@pytest.mark.slow
def test_real_processes_do_the_same(shaken, here):
    workers = LocalWorkers(2, timeout_s=600.0)
    try:
        there = relax_in_workers(shaken, load_chgnet, QUICK, workers, n_workers=2)
    finally:
        workers.close()
    per_atom = (there.energy_ev - here.energy_ev) / shaken.n_atoms
    assert float(per_atom.abs().max()) < 2e-3


def test_a_scorecard_is_the_same_with_workers(shaken):
    def elsewhere(batch, settings, on_event):
        return relax_in_workers(
            batch, load_chgnet, settings, InlineWorkers(), n_workers=2, on_event=on_event
        )

    some = shaken.select([3, 4, 8])
    plain = evaluate(some, n_relax=3)
    moved = evaluate(some, n_relax=3, relax_elsewhere=elsewhere)
    assert moved.counts == plain.counts
    assert [row["status"] for row in moved.rows] == [row["status"] for row in plain.rows]
    assert evaluate(some, n_relax=3, relax_elsewhere=lambda *_: None).counts == plain.counts
    lost = relax_in_workers(some, Picky, QUICK, InlineWorkers(), n_workers=1)
    broken = evaluate(some, n_relax=3, relax_elsewhere=lambda *_: lost)
    assert [row["status"] for row in broken.rows].count("relax_diverged") == 1
