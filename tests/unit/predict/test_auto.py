"""The automatic choice: which model, on what evidence, and that a kill costs only one trial."""

import pytest
import torch

from matmill import registry
from matmill.crystals.compositions import parse_formulas
from matmill.data.compositions import LabelledCompositions
from matmill.data.parts import rows_of
from matmill.errors import DataError
from matmill.predict.auto import AutoPredictor, suitable
from matmill.predict.median import MedianPredictor
from matmill.predict.protocol import Prediction

CALLS: list[str] = []
TABLES: list[LabelledCompositions] = []


class NickelPredictor(MedianPredictor):
    """Knows the law of the test data, so it must win."""

    @classmethod
    def fit(cls, table, target, **more):
        CALLS.append("nickel")
        TABLES.append(table)
        plain = MedianPredictor.fit(table, target, **more)
        return cls(plain.values, plain.card)

    def predict(self, batch, *, coverage=0.9):
        mean = 100 + 50 * batch.fractions[:, 28]
        wide = torch.ones_like(mean)
        return Prediction(
            mean=mean,
            std=wide,
            low=mean - 1,
            high=mean + 1,
            column=self.column,
            coverage=coverage,
            in_domain=wide.bool(),
        )


class BrokenPredictor(MedianPredictor):
    """Cannot be fitted."""

    @classmethod
    def fit(cls, *_, **__):
        CALLS.append("broken")
        raise DataError("it needs more rows")


@pytest.fixture
def models(monkeypatch):
    CALLS.clear()
    TABLES.clear()
    targets = {
        "median": "matmill.predict.median:MedianPredictor",
        "nickel": f"{__name__}:NickelPredictor",
        "broken": f"{__name__}:BrokenPredictor",
    }
    monkeypatch.setattr(registry.predictors, "targets", targets)
    monkeypatch.setattr(
        registry,
        "import_module",
        lambda name: __import__("sys").modules.get(name) or __import__(name, fromlist=["x"]),
    )
    return ("median", "nickel", "broken")


def alloys(n=60):
    shares = torch.linspace(0.05, 0.95, n).double()
    batch = parse_formulas([f"Fe{1 - x:.4f}Ni{x:.4f}" for x in shares.tolist()])
    batch = type(batch)(amounts=batch.amounts, properties={"strength": 100 + 50 * shares})
    ids = tuple(f"alloy-{row}" for row in range(n))
    return LabelledCompositions(compositions=batch.with_ids(ids))


def test_the_smallest_inner_error_wins_and_the_card_says_why(models, tmp_path):
    chosen = AutoPredictor.fit(alloys(), "strength", folder=tmp_path, models=models)
    assert isinstance(chosen, NickelPredictor)
    choice = chosen.card["choice"]
    assert choice["model"] == "nickel"
    assert choice["why"].startswith("nickel: smallest error on 3 inner fold(s)")
    assert "could not be fitted: broken" in choice["why"]
    assert len(choice["tried"]["median"]["errors"]) == 3
    assert choice["tried"]["broken"]["failed"] == "it needs more rows"
    assert max(choice["tried"]["nickel"]["errors"]) < 0.01


def test_finished_trials_are_not_repeated(models, tmp_path):
    AutoPredictor.fit(alloys(), "strength", folder=tmp_path, models=models)
    CALLS.clear()
    AutoPredictor.fit(alloys(), "strength", folder=tmp_path, models=models)
    assert CALLS == ["nickel"]  # the final fit only
    CALLS.clear()
    AutoPredictor.fit(alloys(40), "strength", folder=tmp_path, models=models)
    assert CALLS.count("nickel") == 4  # other rows: all over again


@pytest.mark.usefixtures("models")
def test_too_few_rows_and_no_model_at_all(tmp_path):
    with pytest.raises(DataError, match="Only 3 of 3 rows"):
        AutoPredictor.fit(alloys(3), "strength", folder=tmp_path)
    with pytest.raises(DataError, match="broken: it needs more rows"):
        AutoPredictor.fit(alloys(), "strength", folder=tmp_path, models=("broken",))


def test_candidates_suit_the_table():
    assert suitable(alloys()) == ("tabular", "roost")


def test_no_trial_sees_the_rows_that_the_choice_is_scored_on(models, tmp_path):
    AutoPredictor.fit(alloys(), "strength", folder=tmp_path, models=models)
    trials, final = TABLES[:-1], TABLES[-1]
    tested = {final.ids[row] for row in rows_of(final)["test"].tolist()}
    assert len(tested) > 3
    assert len(trials) == 3
    assert all(not tested & set(trial.ids) for trial in trials)
