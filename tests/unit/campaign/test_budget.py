import math
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matmill.campaign.budget import (
    CPU,
    MONEY,
    PROPOSALS,
    RELAXATIONS,
    WALL,
    Budget,
    BudgetSettings,
    BudgetSpentError,
    parse_budget,
)
from matmill.campaign.job import Job
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.request import make_request
from matmill.campaign.runner import run_rounds, stored_rounds
from matmill.campaign.store import Store
from matmill.campaign.workers import InlineWorkers
from matmill.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
fakes = import_module("campaign_fakes")


@pytest.fixture
def store(store_url):
    with closing(Store(store_url)) as opened:
        yield opened


def test_work_is_charged_before_it_is_done_and_once(store):
    budget = Budget(store, {RELAXATIONS: 5, MONEY: 1.0})
    asked = [("a", {RELAXATIONS: 3}), ("b", {RELAXATIONS: 3}), ("c", {RELAXATIONS: 2, MONEY: 0.7})]
    assert budget.grant(asked) == [True, False, True]
    assert budget.grant(asked) == [True, False, True]  # after a kill: paid already
    assert budget.used() == {RELAXATIONS: 5.0, MONEY: 0.7}
    assert budget.left(RELAXATIONS) == 0.0
    assert budget.left("evaluations.dft") == math.inf
    assert budget.spent() == "the budget of 5 relaxations is spent"
    # All meters of a piece have room, or none is charged.
    assert budget.grant([("d", {MONEY: 0.7, PROPOSALS: 1})]) == [False]
    assert PROPOSALS not in budget.used()
    more = Budget(store, {RELAXATIONS: 8})
    assert more.grant(asked) == [True, True, True]
    assert more.left(MONEY) == pytest.approx(0.3)


def test_a_rounding_error_is_no_overdraft(store):
    budget = Budget(store, {MONEY: 1.0})
    assert all(budget.grant([(str(i), {MONEY: 0.1}) for i in range(10)]))
    assert budget.grant([("more", {MONEY: 0.001})]) == [False]
    assert budget.spent().startswith("the budget of 1 money")


@pytest.mark.parametrize("amount", [math.nan, math.inf, -1.0])
def test_costs_are_numbers(store, amount):
    with pytest.raises(InputError, match="cost of a in money"):
        Budget(store).grant([("a", {MONEY: amount})])


def spend(budget, seconds):
    budget.tick(seconds)
    budget.check_time()


def test_time_is_noted_over_all_sittings(store):
    budget = Budget(store, {CPU: 10.0})
    spend(budget, 4.0)
    again = Budget(store)
    with pytest.raises(BudgetSpentError, match=r"0\.00278 cpu hours is spent"):
        spend(again, 6.5)
    assert 10.5 <= again.used()[CPU] < 11.5
    assert 0.0 < again.used()[WALL] < 60.0
    names = [row["meter"] for row in again.table()]
    assert names == [CPU, WALL]
    assert again.table()[0]["left"] == 0.0
    assert again.table()[1]["limit"] is None


class CrashError(Exception):
    """The driver dies here."""


# What a random driver does: pieces of work with costs, each of which may fail or kill the driver.
costs = st.dictionaries(
    st.sampled_from([PROPOSALS, RELAXATIONS, "evaluations.dft", MONEY]),
    st.one_of(st.integers(0, 6), st.floats(0, 6, allow_nan=False)).map(float),
    min_size=1,
)
fates = st.sampled_from(["ok", "fails", "dies before", "dies after"])
works = st.lists(st.tuples(costs, fates), min_size=1, max_size=8)
limits = st.dictionaries(
    st.sampled_from([PROPOSALS, RELAXATIONS, "evaluations.dft", MONEY]),
    st.floats(0, 20, allow_nan=False),
)


@given(limits, works, st.integers(1, 3))
def test_the_budget_is_never_exceeded_whatever_fails(tmp_path_factory, limits, works, size):
    """What was really done, counted outside, stays within the limits and is never done for free."""
    path = tmp_path_factory.mktemp("b") / "a.sqlite"
    done: dict[str, set[int]] = {}

    def sitting(budget, alive):
        for start in range(0, len(works), size):
            part = range(start, min(start + size, len(works)))
            granted = budget.grant([(str(i), works[i][0]) for i in part])
            for i, may in zip(part, granted, strict=True):
                if not may:
                    continue
                if works[i][1] == "dies before" and alive[i]:
                    alive[i] = False
                    raise CrashError
                for name in works[i][0]:
                    done.setdefault(name, set()).add(i)
                if works[i][1] == "dies after" and alive[i]:
                    alive[i] = False
                    raise CrashError

    alive = [True] * len(works)
    with closing(Store(path)) as store:
        for _ in range(len(works) + 1):
            try:
                sitting(Budget(store, limits), alive)
                break
            except CrashError:
                continue
        used = Budget(store).used()
    for name, pieces in done.items():
        really = sum(works[i][0][name] for i in pieces)
        assert really <= limits.get(name, math.inf) * (1 + 1e-8)
        # Everything that was granted was done in the end, and is counted once.
        assert used.get(name, 0.0) == pytest.approx(really)


def make_job(store, limits, **settings):
    return Job(
        store=store,
        request=make_request(targets=["band_gap = 3 eV"], n=14, seed=5, exclude="As"),
        settings=CampaignSettings(
            **{"proposals_per_wanted": 2.0, "relaxations_per_wanted": 0.7, **settings}
        ),
        parts=fakes.parts(),
        workers=InlineWorkers(),
        budget=Budget(store, limits),
    )


def relaxed(store):
    return sum(c.values.get("energy_ev_per_atom") is not None for c in store.candidates())


def test_a_run_stays_within_its_budget_and_goes_on_with_a_larger_one(store):
    limits = {RELAXATIONS: 11, PROPOSALS: 200}
    assert run_rounds(make_job(store, limits)) == "the budget of 11 relaxations is spent"
    assert relaxed(store) <= 11
    assert stored_rounds(make_job(store, {}))[-1].relax <= 11
    before = store.n_candidates()
    assert run_rounds(make_job(store, limits)) == "the budget of 11 relaxations is spent"
    assert (store.n_candidates(), relaxed(store)) == (before, relaxed(store))
    run_rounds(make_job(store, {RELAXATIONS: 30}))
    assert 11 < relaxed(store) <= 30
    assert store.n_candidates() <= 200
    assert Budget(store).used()[PROPOSALS] == store.n_candidates()


def test_a_limit_in_the_middle_of_a_round_stops_there_and_is_finished_later(tmp_path):
    """The same table comes out whether the money came in one piece or in two."""
    small = {"chunk_atoms": 4, "max_rounds": 1}
    with closing(Store(tmp_path / "whole.sqlite")) as whole:
        run_rounds(make_job(whole, {}, **small))
        expected = whole.candidates()
        sizes = whole.setting("rounds")
    with closing(Store(tmp_path / "pieces.sqlite")) as pieces:
        pieces.set_settings(rounds=sizes)  # begun before the budget was cut
        reason = run_rounds(make_job(pieces, {RELAXATIONS: 3}, **small))
        assert reason == "the budget of 3 relaxations is spent"
        assert 0 < relaxed(pieces) <= 3
        assert pieces.setting("rounds_done") is None
        run_rounds(make_job(pieces, {RELAXATIONS: 1000}, **small))
        assert pieces.candidates() == expected
        assert Budget(pieces).used()[RELAXATIONS] == relaxed(pieces) > 3


def test_time_stops_a_run(store):
    reason = run_rounds(make_job(store, {WALL: 1e-4}))
    assert reason.endswith("wall hours is spent")
    assert store.n_candidates() == 0


def test_settings_and_texts_name_the_same_meters():
    settings = BudgetSettings(relaxations=5, evaluations={"dft": 2}, wall_hours=0.5, money=3.5)
    texts = ["relaxations=5", "evaluations.dft = 2", "wall_hours=0.5", "money=3.5"]
    assert parse_budget(texts) == settings.limits()
    assert settings.limits() == {RELAXATIONS: 5, "evaluations.dft": 2, WALL: 1800.0, MONEY: 3.5}


@pytest.mark.parametrize(
    "text", ["relaxations", "relaxation=3", "money=-1", "money=nan", "evaluations=3", "=2"]
)
def test_a_wrong_text_is_one_line(text):
    with pytest.raises(InputError, match=r"is not of the form name=number\. Names: proposals"):
        parse_budget([text])
