"""What must never reach a model: labels of test rows, and labels that are hidden."""

from dataclasses import replace

import pytest
from wheel_tables import COLUMN, quick, salts

from matmill.campaign.workers import InlineWorkers
from matmill.steer.flywheel import fitting, making
from matmill.steer.flywheel.driver import run_flywheel
from matmill.steer.flywheel.rows import prepared, run_rows


@pytest.fixture
def seen(monkeypatch):
    """Everything that generators were asked for and that the wheel's predictors said."""
    found = []
    make, fit = making.Make.__call__, fitting.Fit.__call__

    def noting_make(self, given):
        found.append((given.key, given.values.tolist()))
        return make(self, given)

    def noting_fit(self, given):
        result = fit(self, given)
        if given.choice.model != "tabular":  # the judge of whole sets does learn from test rows
            found.append((given.key, result["mean"]))
        return result

    monkeypatch.setattr(making.Make, "__call__", noting_make)
    monkeypatch.setattr(fitting.Fit, "__call__", noting_fit)
    return found


def studied(settings, folder, changed_rows):
    """Run a study whose labels of these rows are off by 1,000."""
    table = salts()
    labels = table.crystals.properties[COLUMN].clone()
    labels[changed_rows] += 1000.0
    table = replace(table, crystals=table.crystals.with_properties(**{COLUMN: labels}))
    return run_flywheel(settings, folder=folder, table=table, workers=InlineWorkers()).study


@pytest.mark.parametrize("mode", ["supervised", "semi-supervised"])
def test_no_arm_learns_the_label_of_a_test_row(tmp_path, seen, mode):
    settings = quick(n_runs=1, modes=(mode,), rounds=2)
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, mode)
    first = studied(settings, tmp_path / "true", rows.test[:0])
    before = list(seen)
    seen.clear()
    second = studied(settings, tmp_path / "changed", rows.test)
    assert before
    assert seen == before
    changes = [b.mae - a.mae for a, b in zip(first.scores, second.scores, strict=True)]
    assert min(changes) > 900  # of every arm: they are what is scored
    assert [s.dropped for s in first.syntheses] == [s.dropped for s in second.syntheses]


def test_no_arm_learns_a_label_that_is_hidden(tmp_path, seen):
    settings = quick(n_runs=1, modes=("semi-supervised",), rounds=2)
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "semi-supervised")
    hidden = rows.train[~rows.is_labelled]
    assert len(hidden) > 20
    first = studied(settings, tmp_path / "true", hidden[:0])
    before = list(seen)
    seen.clear()
    second = studied(settings, tmp_path / "changed", hidden)
    assert seen == before
    assert [s.mae for s in first.scores] == [s.mae for s in second.scores]


def test_only_a_predictor_that_holds_them_out_gets_validation_rows():
    from matmill.steer.flywheel.arms import base_fit
    from matmill.steer.flywheel.settings import PredictorChoice

    choices = {
        "kept": PredictorChoice(model="cgcnn", settings={"calibration": "held-out"}),
        "folds": PredictorChoice(model="cgcnn"),
        "trees": PredictorChoice(model="boosted"),
    }
    settings = quick(predictors=tuple(choices), more_predictors=choices)
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "supervised")
    sizes = {name: len(base_fit(rows, name, settings).table) for name in choices}
    n = len(rows.train)
    assert sizes == {"kept": n + len(rows.val), "folds": n, "trees": n}
