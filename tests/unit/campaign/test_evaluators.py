import math
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
import torch

from matmill.campaign.budget import MONEY, WALL, Budget, BudgetSpentError
from matmill.campaign.evaluators import (
    FAILED,
    OK,
    TIMED_OUT,
    Cost,
    Evaluator,
    FunctionEvaluator,
    PredictorEvaluator,
    evaluate,
)
from matmill.campaign.store import Store
from matmill.campaign.workers import InlineWorkers, Outcome
from matmill.crystals.batch import CrystalBatch

sys.path.insert(0, str(Path(__file__).parent))
fakes = import_module("campaign_fakes")


def cells(n):
    return CrystalBatch.from_lists(
        [((4.0 + 0.1 * i) * torch.eye(3)).tolist() for i in range(n)],
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]] * n,
        [[31, 7]] * n,
    )


@pytest.fixture
def store(store_url):
    with closing(Store(store_url)) as opened:
        yield opened


class Counted:
    def __init__(self, answer=None):
        self.seen = []
        self.answer = answer or (lambda batch: [{"volume_a3": v} for v in batch.volume.tolist()])

    def __call__(self, batch):
        self.seen += batch.ids
        return self.answer(batch)


def make(function, **changes):
    return FunctionEvaluator(
        **{"name": "volume", "function": function, "columns": ("volume_a3",), **changes}
    )


def test_a_crystal_is_paid_once(store):
    ids = store.add_structures(cells(5))
    function = Counted()
    evaluator = make(function, cost=Cost(cost_class="dft", money=2.5, batch_size=2))
    assert isinstance(evaluator, Evaluator)
    budget = Budget(store, {"evaluations.dft": 4})
    found = evaluate(store, evaluator, [ids[0], ids[0], ids[1]], InlineWorkers(), budget=budget)
    assert found[0] == found[1]
    assert found[2].values == {"volume_a3": pytest.approx(4.1**3)}
    assert found[2].status == OK
    found = evaluate(store, evaluator, ids, InlineWorkers(), budget=budget)
    assert [e is None for e in found] == [False] * 4 + [True]
    assert function.seen == list(ids[:4])
    assert budget.used()["evaluations.dft"] == 4
    assert budget.used()[MONEY] == 10.0
    other = make(function, version="2")
    assert other.hash != evaluator.hash
    assert evaluate(store, other, ids[:1], InlineWorkers())[0].status == OK
    assert function.seen == [*ids[:4], ids[0]]


def test_rubbish_is_a_failed_row_and_costs_nobody_else(store):
    ids = store.add_structures(cells(6))

    def answer(batch):
        (one,) = batch.ids if len(batch) == 1 else (None,)
        if ids[0] in batch.ids:
            raise RuntimeError("did not converge")
        rubbish = {
            ids[1]: [{"volume_a3": math.nan}],
            ids[2]: [{"volume": 1.0}],
            ids[3]: [{"volume_a3": "12"}],
            ids[4]: {"volume_a3": 1.0},
        }
        return rubbish.get(one, [{"volume_a3": 1.0}] * len(batch))

    function = Counted(answer)
    # The first batch of two breaks; its crystals are tried alone.
    evaluator = make(function, cost=Cost(batch_size=2))
    found = evaluate(store, evaluator, [ids[0], ids[5]], InlineWorkers())
    assert [(e.status, e.values) for e in found] == [
        (FAILED, {"error": "RuntimeError: did not converge"}),
        (OK, {"volume_a3": 1.0}),
    ]
    found = evaluate(store, make(function, version="one"), ids, InlineWorkers())
    assert [e.status for e in found] == [FAILED] * 5 + [OK]
    assert [e.values["error"] for e in found[1:5]] == [
        "volume_a3 is nan",
        "volume_a3 is missing",
        "volume_a3 is no number: '12'",
        "volume gave no list of 1 records",
    ]
    n = len(function.seen)
    evaluate(store, make(function, version="one"), ids, InlineWorkers())
    assert len(function.seen) == n
    evaluate(store, make(function, version="one"), ids, InlineWorkers(), retry_failed=True)
    assert len(function.seen) == n + 5


def test_time_stops_between_batches_and_keeps_what_is_done(store):
    ids = store.add_structures(cells(3))
    budget = Budget(store, {WALL: 1e-6})
    with pytest.raises(BudgetSpentError, match="wall hours is spent"):
        evaluate(store, make(Counted()), ids, InlineWorkers(), budget=budget)
    assert len(store.evaluations(make(Counted()).hash, ids)) == 1


def test_a_predictor_is_an_evaluator(store):
    ids = store.add_structures(cells(3))
    evaluator = PredictorEvaluator(predictor=fakes.FakePredictor())
    found = evaluate(store, evaluator, ids, InlineWorkers())
    assert found[0].values == {"band_gap_ev": pytest.approx(60.0 / 19.0), "band_gap_ev_std": 0.3}


class Clocked(InlineWorkers):
    """Says what a task is that takes longer than it may, without waiting for it."""

    def map(self, function, items, *, on_done=None, timeout_s=None):
        assert callable(function)
        assert on_done is not None
        for position in range(len(items)):
            error = f"took longer than {timeout_s:g} s"
            on_done(position, Outcome(error=error, seconds=timeout_s))
        return []


def test_a_declared_timeout_reaches_the_workers(store):
    ids = store.add_structures(cells(1))
    (found,) = evaluate(store, make(Counted(), cost=Cost(timeout_s=1.5)), ids, Clocked())
    assert (found.status, found.values["error"]) == (TIMED_OUT, "took longer than 1.5 s")
    assert found.seconds == 1.5
