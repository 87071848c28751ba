"""What an arm learns from: controls without a generator, longer training, and ensembles."""

from dataclasses import replace

import torch
from wheel_tables import COLUMN, quick, salts

from matmill.steer.flywheel.arms import arm_fit, arms_of, base_fit
from matmill.steer.flywheel.rows import prepared, run_rows
from matmill.steer.flywheel.settings import PredictorChoice
from matmill.steer.flywheel.study import LONGER, PSEUDO, Synthesis
from matmill.steer.flywheel.synthesis import Made, Turn
from matmill.steer.flywheel.tasks import fit_key


def a_turn(n_made=20):
    """A semi-supervised turn whose labeller says -7 ± 2 everywhere, and what was made in it."""
    settings = quick()
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "semi-supervised")
    labels = torch.where(
        rows.is_labelled, rows.values[rows.train], torch.full_like(rows.values, -7.0)[:1]
    )
    turn = Turn(
        rows=rows,
        run=0,
        mode="semi-supervised",
        round=1,
        predictor="tiny",
        labels=labels,
        std=torch.full_like(labels, 2.0),
        labeller=base_fit(rows, "tiny", settings),
        judged_by="tiny",
    )
    made = Made(
        crystals=rows.table.crystals.select(rows.train[:n_made]),
        labels=labels[:n_made],
        std=turn.std[:n_made],
        synthesis=Synthesis(
            mode=turn.mode,
            predictor="tiny",
            judged_by="tiny",
            content="",
            round=1,
            run=0,
            n_asked=n_made,
        ),
    )
    return settings, turn, made


def test_pseudo_labelled_rows_teach_without_a_generator():
    """The control is self-training: real labels where known, what the labeller says elsewhere."""
    settings, turn, nothing = a_turn(0)
    rows = turn.rows
    known = rows.is_labelled
    assert rows.train[known].tolist() == rows.labelled.tolist()
    table = arm_fit(turn, nothing, PSEUDO, settings).table
    origin = table.notes["origin"]
    values = table.column(COLUMN)
    n_unlabelled = int((~known).sum())
    assert sum(name == "synthetic" for name in origin) == n_unlabelled > 0
    assert [float(v) for v, name in zip(values, origin, strict=True) if name == "synthetic"] == [
        -7.0
    ] * n_unlabelled
    real = {float(v) for v, name in zip(values, origin, strict=True) if name == "real"}
    assert real <= set(rows.values.tolist())
    assert len(table) == len(rows.train) + len(rows.val)
    weighted = arm_fit(turn, nothing, PSEUDO, quick(mixing="weighted")).table
    weights = weighted.column("training_weight")
    assert torch.equal(weights[: len(rows.labelled)], torch.ones(len(rows.labelled)).double())
    pseudo = [name == "synthetic" for name in origin]
    # All alike, so exp(-1) each, but together no more than the real rows.
    expected = min(torch.exp(torch.tensor(-1.0)).item(), len(rows.labelled) / n_unlabelled)
    assert torch.allclose(weights[torch.tensor(pseudo)], torch.tensor(expected).double())
    first = arm_fit(turn, nothing, PSEUDO, quick(mixing="finetuned"))
    assert len(first.first) == n_unlabelled + len(rows.val)
    assert len(first.table) == len(rows.labelled) + len(rows.val)


def test_an_ensemble_begins_with_the_predictor_that_stands_alone():
    settings = quick()
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "supervised")
    alone = base_fit(rows, "tiny", settings)
    assert fit_key(replace(alone, n_fits=3)) == fit_key(alone)
    assert fit_key(replace(alone, seed=alone.seed + 1)) != fit_key(alone)


def test_real_rows_alone_can_have_as_many_steps():
    """The control sees real rows as often as an arm sees real and synthetic ones together."""
    settings, turn, made = a_turn()
    alone = base_fit(turn.rows, "tiny", settings)
    control = arm_fit(turn, made, LONGER, settings)
    assert control.table.hash == alone.table.hash
    n_real, n_synthetic = len(turn.rows.labelled), len(made.crystals)
    assert n_synthetic > 10
    epochs = alone.choice.settings["epochs"]
    assert control.choice.settings["epochs"] == round(epochs * (1 + n_synthetic / n_real))
    assert {**control.choice.settings, "epochs": epochs} == alone.choice.settings
    assert LONGER in arms_of(turn, settings)
    trees = quick(predictors=("tabular",))
    assert LONGER not in arms_of(replace(turn, predictor="tabular"), trees)
    published = trees.predictor("cgcnn-reference").longer(2.0)
    assert published.settings["epochs"] == 60


def test_the_weights_that_a_fit_starts_from_count_by_content(tmp_path):
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes(b"first")
    settings = quick()
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "supervised")
    alone = base_fit(rows, "tiny", settings)
    choice = PredictorChoice(
        model="cgcnn", settings={**alone.choice.settings, "start_from": str(weights)}
    )
    given = replace(alone, choice=choice)
    before = fit_key(given)
    weights.write_bytes(b"second")
    assert fit_key(given) != before != fit_key(alone)
