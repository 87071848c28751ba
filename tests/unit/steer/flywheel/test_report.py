"""What a study says of itself, from scores that are made up."""

import pytest
from wheel_tables import COLUMN, quick

from matmill.steer.flywheel import report
from matmill.steer.flywheel.study import BOTH, ENSEMBLE, LONGER, REAL, ArmScore, Study, Synthesis

REAL_MAES = [10.0, 12.0, 11.0, 13.0, 9.0, 12.5, 11.5, 10.5]


def made_up(**shifts):
    """A study whose arms differ from real rows by a shift, a little more or less in each run."""
    arms = {"real": REAL, "both": BOTH, "longer": LONGER, "ensemble": ENSEMBLE}
    scores = [
        ArmScore(
            mode="supervised",
            predictor="tiny",
            arm=arms[name],
            round=1,
            run=run,
            mae=mae + shift + (0.1 if run % 2 else -0.1) * (name != "real"),
            n_real=50,
            cpu_s={"both": 6.0, "ensemble": 9.0}.get(name, 3.0),
        )
        for name, shift in {"real": 0.0, **shifts}.items()
        for run, mae in enumerate(REAL_MAES)
    ]
    sets = [
        Synthesis(
            mode="supervised",
            predictor="tiny",
            judged_by="tiny",
            content=str(run),
            round=1,
            run=run,
            n_asked=50,
            n_kept=40,
            dropped={"repeated crystal": 10},
            train_cpu_s=20.0,
            sample_cpu_s=5.0,
            other_cpu_s=1.0,
        )
        for run in range(len(REAL_MAES))
    ]
    return Study(
        settings=quick(n_runs=len(REAL_MAES)),
        column=COLUMN,
        n_rows=100,
        scores=tuple(scores),
        syntheses=tuple(sets),
    )


@pytest.mark.parametrize(
    ("shift", "said"),
    [(-1.0, "is better than"), (1.0, "is worse than"), (0.0, "cannot be told from")],
)
def test_an_arm_is_called_better_only_beyond_its_interval(shift, said):
    texts = report.verdicts(made_up(both=shift))
    assert sum(said in text for text in texts if f": {BOTH} " in text) == 1


def test_a_gain_of_longer_training_is_told_from_one_of_synthetic_rows():
    texts = report.verdicts(made_up(both=-1.0, longer=-0.6, ensemble=0.0))
    (told,) = [text for text in texts if "not trained to its end" in text]
    assert "(-0.6)" in told
    (contrast,) = [text for text in texts if f"{BOTH} against {LONGER}" in text]
    assert contrast.endswith(": -0.4 (-0.4 … -0.4).")
    assert not any("trained to its end" in t for t in report.verdicts(made_up(both=-1.0, longer=0)))


def test_what_the_wheel_and_its_ensemble_cost_is_said():
    study = made_up(both=-1.0, ensemble=-0.5)
    assert study.extra_cpu_s == {("supervised", "tiny"): (20 + 5 + 1 + 6, 9.0)}
    text = report.verdicts(study)[-1]
    assert "takes 32 CPU seconds, its ensemble of 2 9" in text


def test_the_page_has_every_arm_and_what_was_dropped():
    page = report.render(made_up(both=-1.0, longer=-0.6, ensemble=0.0), {"seed": 0})
    for text in (BOTH, LONGER, ENSEMBLE, "repeated crystal", "80", "not trained to its end"):
        assert text in page
