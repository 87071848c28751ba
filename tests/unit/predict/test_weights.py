"""Rows that count more or less, and synthetic rows: these teach, but judge nothing."""

from dataclasses import replace

import pytest
import torch
from salt_tables import SMALL, make_table

from matmill.data.parts import ORIGIN, SYNTHETIC, WEIGHT, is_synthetic
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError
from matmill.predict.tabular.learners import LEARNERS, Task
from matmill.predict.tabular.predictor import TabularPredictor
from matmill.predict.train import TrainSettings, train_predictor

COLUMN = "formation_energy_per_atom_ev"


def spoilt(table, n=60, weight=None):
    """The table with copies of training rows that carry wrong labels and say they are synthetic."""
    wrong = table.select(torch.arange(n))
    values = dict(wrong.crystals.properties)
    values[COLUMN] = 5.0 - 4.0 * values[COLUMN]
    batch = replace(wrong.crystals, properties=values, ids=tuple(f"w{i}" for i in range(n)))
    from matmill.crystals.batch import concatenate

    both = concatenate([table.crystals, batch])
    if weight is not None:
        counts = torch.ones(len(both), dtype=torch.float64)
        counts[len(table) :] = weight
        both = both.with_properties(**{WEIGHT: counts})
    split = (*table.notes["split"], *["train"] * n)
    origin = (*["real"] * len(table), *[SYNTHETIC] * n)
    return LabelledCrystals(crystals=both, notes={"split": split, ORIGIN: origin})


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "networks"])
def test_heavier_rows_pull_a_learner_to_their_side(name):
    rng = torch.Generator().manual_seed(0)
    columns = torch.randn(40, 3, generator=rng, dtype=torch.float64).repeat(2, 1)
    target = torch.cat([torch.zeros(40), torch.ones(40)]).double()

    def middle(weights):
        task = Task(
            columns=columns, target=target, classify=False, seed=0, is_final=True, weights=weights
        )
        learner = LEARNERS[name]
        model = learner.fit(task, learner.variants(80, 3, 0)[:1])[0]
        return float(model.predict(columns).median())

    low = torch.cat([torch.full((40,), 1.9), torch.full((40,), 0.1)]).double()
    assert middle(low) < 0.3
    assert middle(low.flip(0)) > 0.7


def test_networks_follow_the_weights_too():
    test_heavier_rows_pull_a_learner_to_their_side("networks")


def test_a_network_is_hardly_spoilt_by_rows_that_count_little(tmp_path):
    settings = TrainSettings(
        **{**SMALL, "n_members": 1}, epochs=60, learning_rate=5e-3, calibration="held-out"
    )
    table = make_table()

    def error(given, folder):
        model = train_predictor(given, [COLUMN], settings=settings, folder=tmp_path / folder)
        return model.card["scores"][COLUMN]["mae"], model

    clean, _ = error(table, "clean")
    misled, _ = error(spoilt(table, 100), "misled")
    warned, model = error(spoilt(table, 100, weight=0.01), "warned")
    assert misled > 1.5 * clean
    assert warned < clean + 0.25 * (misled - clean)
    assert model.card["calibration"][COLUMN]["n_calibration"] == 60


def test_synthetic_rows_do_not_calibrate_over_folds(tmp_path):
    small = {name: value for name, value in SMALL.items() if name != "n_members"}
    settings = TrainSettings(**small, epochs=3)
    model = train_predictor(spoilt(make_table()), [COLUMN], settings=settings, folder=tmp_path)
    assert model.card["calibration"][COLUMN]["method"] == "folds"
    assert model.card["calibration"][COLUMN]["n_calibration"] == 180
    assert model.calibration_rows.folds is not None
    assert len(model.calibration_rows.folds) == 180


def test_a_tabular_predictor_is_chosen_and_calibrated_on_real_rows(tmp_path):
    plain = {"preset": "fast", "n_folds": 3, "n_scales": 1}
    given = spoilt(make_table(), 60, weight=1e-3)
    model = TabularPredictor.fit(given, COLUMN, folder=tmp_path / "a", **plain)
    assert model.card["calibration"]["n_calibration"] == 180
    clean = TabularPredictor.fit(make_table(), COLUMN, folder=tmp_path / "b", **plain)
    assert model.card["scores"][COLUMN]["mae"] < 1.3 * clean.card["scores"][COLUMN]["mae"]
    only = given.select(
        is_synthetic(given) | torch.tensor([s == "test" for s in given.notes["split"]])
    )
    alone = TabularPredictor.fit(only, COLUMN, folder=tmp_path / "c", **plain)
    assert alone.card["calibration"]["n_calibration"] == 60


def test_bad_weights_are_told_before_training(tmp_path):
    given = spoilt(make_table(), 60, weight=-1.0)
    with pytest.raises(DataError, match="training_weight"):
        train_predictor(given, [COLUMN], folder=tmp_path / "n")
    with pytest.raises(DataError, match="training_weight"):
        TabularPredictor.fit(given, COLUMN, folder=tmp_path / "t", preset="fast")
