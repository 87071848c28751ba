"""What an arm learns from: controls without a generator, and ensembles."""

import torch
from wheel_tables import COLUMN, quick, salts

from matmill.steer.flywheel.study import PSEUDO


def test_pseudo_labelled_rows_teach_without_a_generator():
    """The control is self-training: real labels where known, what the labeller says elsewhere."""
    from matmill.steer.flywheel.arms import arm_fit, base_fit
    from matmill.steer.flywheel.rows import prepared, run_rows
    from matmill.steer.flywheel.study import Synthesis
    from matmill.steer.flywheel.synthesis import Made, Turn

    settings = quick()
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "semi-supervised")
    known = rows.is_labelled
    assert rows.train[known].tolist() == rows.labelled.tolist()
    labels = torch.where(known, rows.values[rows.train], torch.full_like(rows.values, -7.0)[:1])
    turn = Turn(
        rows=rows,
        run=0,
        mode="semi-supervised",
        round=1,
        predictor="tiny",
        labels=labels,
        std=torch.full_like(labels, 2.0),
        labeller=base_fit(rows, "tiny", settings),
        labelled_by="tiny",
    )
    nothing = Made(
        crystals=rows.table.crystals.select(rows.train[:0]),
        labels=labels[:0],
        std=labels[:0],
        synthesis=Synthesis(
            mode=turn.mode, predictor="tiny", labelled_by="tiny", round=1, run=0, n_asked=0
        ),
    )
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
    from dataclasses import replace

    from matmill.steer.flywheel.arms import base_fit
    from matmill.steer.flywheel.rows import prepared, run_rows
    from matmill.steer.flywheel.tasks import fit_key

    settings = quick()
    rows = run_rows(prepared(salts(), COLUMN), settings, 0, "supervised")
    alone = base_fit(rows, "tiny", settings)
    assert fit_key(replace(alone, n_fits=3)) == fit_key(alone)
    assert fit_key(replace(alone, seed=alone.seed + 1)) != fit_key(alone)
