import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from matmill.campaign.focus import formulas_to_follow
from matmill.campaign.job import Job
from matmill.campaign.plan import CampaignSettings, check_request, generation_request
from matmill.campaign.records import PASSED, Row
from matmill.campaign.relaxation import cut, relax_round
from matmill.campaign.request import make_request
from matmill.campaign.runner import run_rounds
from matmill.campaign.shortlist import shortlist
from matmill.campaign.stages import hull, novelty, predict, propose, screen
from matmill.campaign.store import Store
from matmill.campaign.workers import InlineWorkers, LocalWorkers
from matmill.crystals.batch import CrystalBatch
from matmill.errors import DataError, InputError
from matmill.progress import ignore

sys.path.insert(0, str(Path(__file__).parent))
fakes = import_module("campaign_fakes")


@pytest.fixture
def make_job(tmp_path):
    stores = []

    def make(*, workers=None, settings=None, on_event=ignore, changes=None, **request):
        store = Store(tmp_path / f"{len(stores)}.sqlite")
        stores.append(store)
        return Job(
            store=store,
            request=make_request(**request),
            settings=settings or CampaignSettings(),
            parts=fakes.parts(**(changes or {})),
            workers=workers or InlineWorkers(),
            on_event=on_event,
        )

    yield make
    for store in stores:
        store.close()


def cells(*formulas, length=3.3):
    """Caesium-chloride cells of (A, B) pairs."""
    numbers = import_module("matmill.crystals.elements").number
    return CrystalBatch.from_lists(
        [(length * torch.eye(3)).tolist() for _ in formulas],
        [[[0, 0, 0], [0.5, 0.5, 0.5]] for _ in formulas],
        [[numbers(a), numbers(b)] for a, b in formulas],
    )


def fates(job):
    return [c.fate for c in job.store.candidates()]


def test_propose_asks_in_tasks_and_only_once(make_job):
    job = make_job(settings=CampaignSettings(task_size=4))
    propose(job, 0, 10)
    assert job.store.n_candidates() == 10
    assert [r.n for r in job.parts.generator.asked] == [4, 4, 2]
    propose(job, 0, 10)
    assert len(job.parts.generator.asked) == 3


def test_proposals_depend_on_seed_and_round_only(make_job):
    def proposed(seed, round_number, task_size=64):
        job = make_job(seed=seed, settings=CampaignSettings(task_size=task_size))
        propose(job, round_number, 8)
        return [c.proposed for c in job.store.candidates()]

    assert proposed(1, 0) == proposed(1, 0)
    assert proposed(1, 0) != proposed(2, 0)
    assert proposed(1, 0) != proposed(1, 1)


def test_good_compositions_are_followed_in_later_rounds(make_job):
    job = make_job(settings=CampaignSettings(task_size=2, relaxations_per_wanted=2.0))
    job.store.add(cells(("Ga", "N"), ("Te", "In")), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 2)
    relax_round(job, 0)
    assert formulas_to_follow(job, 1) == []
    hull(job, 0)
    followed = formulas_to_follow(job, 1)
    assert followed[0] == {"Ga": 1, "N": 1}
    assert formulas_to_follow(job, 0) == []
    propose(job, 1, 8)
    wanted = [request.formula for request in job.parts.generator.asked]
    assert [w is None for w in wanted] == [True, False, False, True]
    assert all(w in followed for w in wanted if w)


def test_no_formula_takes_all_the_places(make_job):
    job = make_job(settings=CampaignSettings(formula_share=0.5, coarse_steps=0))
    lengths = (3.2, 3.3, 3.4, 3.5)
    for task, length in enumerate(lengths):
        batch = cells(("Ga", "N"), length=length)
        job.store.add(batch, round_number=0, task=task, origin="t")
    job.store.add(cells(("In", "Te")), round_number=0, task=9, origin="t")
    job = replace(job, parts=fakes.parts(first_of_each=lambda batch: list(range(len(batch)))))
    screen(job, 0)
    shortlist(job, 0, 3)
    assert job.store.entrants("relax")[-1] == 4
    shortlist(job, 1, 2)
    assert len(job.store.entrants("relax")) == 5


def test_screen_says_why(make_job):
    job = make_job(elements="Ga,N", n_atoms=(2, 4))
    batch = cells(("Ga", "N"), ("Ga", "As"), ("In", "N"), ("Ga", "N"))
    too_close = cells(("Ga", "N"), length=0.6)
    job.store.add(batch, round_number=0, task=0, origin="t")
    job.store.add(too_close, round_number=0, task=1, origin="t")
    screen(job, 0)
    found = job.store.candidates()
    assert [c.fate for c in found][:4] == [
        PASSED,
        "not_as_requested",
        "not_as_requested",
        "duplicate",
    ]
    assert found[3].reason == "Same crystal as candidate 0."
    assert found[4].fate in ("atoms_too_close", "cell_impossible", "volume_implausible")
    assert found[0].values["smallest_distance_a"] == pytest.approx(3.3 * 3**0.5 / 2)


def test_a_fixed_formula_is_held(make_job):
    job = make_job(formula="GaN")
    job.store.add(cells(("Ga", "N"), ("Ga", "Ga")), round_number=0, task=0, origin="t")
    screen(job, 0)
    assert fates(job) == [PASSED, "not_as_requested"]


def test_shortlist_takes_the_promising_and_keeps_the_rest(make_job):
    job = make_job(targets=["band_gap = 3 eV"])
    # The fake gap is 60 over the mean atomic number: GaO 3.08, AlN 6, InTe 1.2.
    pairs = (("In", "Te"), ("Ga", "O"), ("Al", "N"))
    job.store.add(cells(*pairs), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 1)
    assert job.store.entrants("relax") == [1]
    assert job.store.unfinished("shortlist") == [0, 2]
    shortlist(job, 0, 1)
    assert job.store.entrants("relax") == [1]
    shortlist(job, 1, 1)
    assert job.store.entrants("relax") == [1, 2]  # InTe balances no charges and lies higher


def test_a_coarse_relaxation_precedes_the_choice(make_job):
    settings = CampaignSettings(coarse_steps=1, coarse_per_relaxation=1.0)
    job = make_job(settings=settings)
    job.store.add(cells(("Ga", "N"), ("Al", "N"), length=3.8), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 1)
    (chosen,) = [c for c in job.store.candidates() if "shortlist_round" in c.values]
    assert chosen.structure != chosen.proposed
    assert chosen.values["n_coarse_steps"] == 1
    before, after = job.store.batch([chosen.proposed, chosen.structure]).volume.tolist()
    assert after < before
    relax_round(job, 0)
    (done,) = [c for c in job.store.candidates() if "energy_ev" in c.values]
    assert done.values["n_relax_steps"] > 1
    strain = math.log(before / 2 / fakes.IDEAL_A3)
    assert done.values["energy_drop_ev_per_atom"] == pytest.approx(strain**2, rel=0.05)


def test_an_element_outside_the_hull_falls_before_relaxation(make_job):
    changes = {"hull": OnlyGallium()}
    job = make_job(changes=changes)
    job.store.add(cells(("Ga", "N"), ("In", "N")), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 5)
    assert fates(job) == [PASSED, "hull_lacks_element"]


class OnlyGallium(fakes.FakeHull):
    def energy_above(self, energy_ev, batch):
        above = super().energy_above(energy_ev, batch)
        has_indium = torch.tensor(["In" in formula for formula in batch.formula])
        return torch.where(has_indium, torch.nan, above)


def test_relaxation_reaches_the_minimum_and_is_cached(make_job):
    job = make_job(settings=CampaignSettings(coarse_steps=0))
    job.store.add(cells(("Ga", "N"), ("Al", "N"), length=3.8), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 2)
    relax_round(job, 0)
    found = job.store.candidates()
    relaxed = job.store.batch([c.structure for c in found])
    volume = relaxed.volume / relaxed.n_atoms
    # fmax = 0.1 on 2 ln(v / v0) leaves the volume within five per cent.
    torch.testing.assert_close(volume, torch.full((2,), fakes.IDEAL_A3).double(), rtol=0.06, atol=0)
    assert all(c.values["energy_drop_ev_per_atom"] > 0 for c in found)
    (key,) = {e for e in _evaluators(job) if e.startswith("relax")}
    paid = job.store.evaluations(key, [c.proposed for c in found])
    assert [paid[c.proposed].result for c in found] == [c.structure for c in found]


def _evaluators(job):
    from sqlalchemy import text

    with job.store.transaction() as connection:
        return list(connection.scalars(text("select distinct evaluator from evaluation")))


def test_a_crash_costs_one_row(make_job):
    workers = LocalWorkers(1)
    job = make_job(workers=workers, changes={"make_potential": fakes.make_deadly_potential})
    pairs = [("Ga", "N"), ("Po", "N"), ("Al", "N")]
    job.store.add(cells(*pairs), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 3)
    relax_round(job, 0)
    workers.close()
    assert fates(job) == [PASSED, "failed", PASSED]
    assert "exit code -9" in job.store.candidates()[1].reason


def test_tasks_do_not_depend_on_order():
    batch = cells(*[("Ga", "N")] * 5).with_ids([str(i) for i in range(5)])
    tasks = cut([0, 1, 2, 3, 4], batch, 4)
    assert [task.candidates for task in tasks] == [(0, 1), (2, 3), (4,)]
    order = [4, 2, 0, 1, 3]
    assert cut(order, batch.select(order), 4) == tasks
    assert [len(t.candidates) for t in cut([0], batch.select([0]), 1)] == [1]


def test_what_relaxes_into_the_same_crystal_is_a_duplicate(make_job):
    job = make_job()
    for task, length in enumerate((2.8, 3.8)):
        batch = cells(("Ga", "N"), length=length)
        job.store.add(batch, round_number=0, task=task, origin="t")
    screen(job, 0)
    assert fates(job) == [PASSED, PASSED]
    shortlist(job, 0, 2)
    relax_round(job, 0)
    hull(job, 0)
    novelty(job, 0)
    predict(job, 0)
    first, second = job.store.candidates()
    assert (first.fate, second.fate) == (PASSED, "duplicate")
    assert second.reason == "Relaxed into the same crystal as candidate 0."
    assert first.values["known_as"] == "known-1"
    assert first.values["band_gap_ev"] == pytest.approx(60 / 19)
    assert first.values["band_gap_ev_std"] == pytest.approx(0.3)
    assert "density_g_cm3_std" not in first.values


def test_the_hull_limit_is_the_requests(make_job):
    job = make_job(hull_threshold_ev_per_atom=0.02)
    job.store.add(cells(("Ga", "N"), ("In", "N")), round_number=0, task=0, origin="t")
    screen(job, 0)
    shortlist(job, 0, 2)
    relax_round(job, 0)
    hull(job, 0)
    found = job.store.candidates()
    assert [c.fate for c in found] == [PASSED, "above_hull"]
    assert "the limit is 0.02" in found[1].reason
    assert found[0].values["hull_name"] == "fake-hull"


def test_rounds_go_on_until_enough(make_job):
    settings = CampaignSettings(proposals_per_wanted=1.0, relaxations_per_wanted=0.2)
    job = make_job(n=12, settings=settings, elements="Ga,N,O,Al,P,S")
    assert run_rounds(job) == "enough"
    assert len(job.store.setting("rounds")) > 1
    assert sum(c.fate == PASSED and c.stage == "predict" for c in job.store.candidates()) >= 12


def test_a_dry_run_of_rounds_ends(make_job):
    settings = CampaignSettings(max_rounds=30)
    job = make_job(n=50, settings=settings, elements="Ga,N")
    assert "found nothing new" in run_rounds(job)
    assert len(job.store.setting("rounds")) < 30


def test_what_cannot_be_served_is_said_before_work():
    parts = fakes.parts()
    settings = CampaignSettings()
    with pytest.raises(InputError, match=r"predicts bulk_modulus\. Known: band_gap, d"):
        check_request(make_request(targets=["max bulk_modulus"]), settings, parts)
    with pytest.raises(InputError, match="no entry for Pb"):
        check_request(make_request(elements="Ga,Pb"), settings, parts)
    warnings = check_request(make_request(targets=["band_gap = 9.5"]), settings, parts)
    assert ["predictor" in w for w in warnings] == [True, False]
    assert all("outside 0 to 8 eV" in warning for warning in warnings)
    assert check_request(make_request(targets=["band_gap = 2"]), settings, parts) == []


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("band_gap = 2", 2.0),
        ("band_gap = 12", 8.0),
        ("band_gap > 3", (3.0, 8.0)),
        ("band_gap < 3", (0.0, 3.0)),
        ("band_gap > 9", 8.0),
        ("max band_gap", (4.8, 7.2)),
        ("min band_gap", (0.8, 3.2)),
    ],
)
def test_targets_become_conditions_within_the_trained_range(text, condition):
    card = {"conditions": {"band_gap_ev": {"low": 0.0, "high": 8.0}}}
    request = make_request(targets=[text, "density < 5"], exclude="Pb", space_group=225)
    asked = generation_request(request, CampaignSettings(), card, n=7)
    assert asked.conditions == {"band_gap_ev": pytest.approx(condition)}
    assert (asked.n, asked.exclude, asked.space_group) == (7, ("Pb",), 225)


def test_a_hull_aware_generator_is_asked_for_ground_states():
    card = {"conditions": {"energy_above_hull_ev": {"low": 0.0, "high": 0.1}}}
    asked = generation_request(make_request(), CampaignSettings(), card, n=1)
    assert asked.conditions == {"energy_above_hull_ev": 0.0}


def test_rows_default_to_passed():
    assert Row(candidate=1).fate == PASSED


class Rubbish(fakes.FakeGenerator):
    """Every other crystal is spoilt, each in another way."""

    def sample(self, request, rng, on_batch=None):
        batch = super().sample(request, rng, on_batch)
        lattice, coords = batch.lattice.clone(), batch.frac_coords.clone()
        numbers = batch.atomic_numbers.clone()
        lattice[0] = torch.nan
        lattice[2] = torch.inf
        lattice[4] = 0.0
        coords[batch.atoms_of(6)] = torch.nan
        numbers[batch.atoms_of(8)] = 0
        return replace(batch, lattice=lattice, frac_coords=coords, atomic_numbers=numbers)


def test_rubbish_of_a_generator_falls_with_its_reason(make_job):
    job = make_job(changes={"generator": Rubbish()}, settings=CampaignSettings(task_size=10))
    propose(job, 0, 10)
    screen(job, 0)
    found = job.store.candidates()
    assert len(found) == 10
    for number in (0, 2, 4, 6, 8):
        assert found[number].fate != PASSED, number
        assert found[number].reason


def test_a_generator_that_returns_no_crystals_is_one_line(make_job):
    class Nothing(fakes.FakeGenerator):
        def sample(self, request, rng, on_batch=None):  # noqa: ARG002
            return "crystals"

    job = make_job(changes={"generator": Nothing()})
    with pytest.raises(DataError, match="The generator fake returned no crystals but str"):
        propose(job, 0, 4)
    assert job.store.n_candidates() == 0
