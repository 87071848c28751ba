"""The whole wheel on a small table: arms, turns, resuming, failures, the report."""

import json
from contextlib import closing

import numpy as np
import pytest
from wheel_tables import COLUMN, quick, salts

from matmill.campaign.store import Store
from matmill.campaign.tasks import TaskBoard
from matmill.campaign.workers import InlineWorkers
from matmill.steer.flywheel import making
from matmill.steer.flywheel.driver import run_flywheel
from matmill.steer.flywheel.settings import FilterSettings
from matmill.steer.flywheel.study import (
    ARMS,
    BOTH,
    ENSEMBLE,
    LONGER,
    MEDIAN,
    PSEUDO,
    REAL,
    SHUFFLED,
    SYNTHETIC,
)


def study_of(settings, folder, **more):
    return run_flywheel(
        settings, folder=folder, table=salts(), workers=InlineWorkers(), **more
    ).study


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return study_of(quick(rounds=2), folder), folder


def test_every_arm_of_every_run_has_a_score(done):
    study, _ = done
    found = {(s.mode, s.predictor, s.arm, s.round, s.run): s for s in study.scores}
    assert len(found) == len(study.scores)
    for run in range(2):
        for mode in ("supervised", "semi-supervised"):
            for arm in (REAL, ENSEMBLE, SYNTHETIC, BOTH, SHUFFLED, LONGER):
                assert found[mode, "tiny", arm, 1, run].mae > 0
            assert found[mode, "", MEDIAN, 1, run].mae > 0
        assert ("semi-supervised", "tiny", BOTH, 2, run) in found
        assert ("supervised", "tiny", BOTH, 2, run) not in found
        few = found["semi-supervised", "tiny", BOTH, 1, run]
        everything = found["supervised", "tiny", BOTH, 1, run]
        assert few.n_real == round(0.3 * everything.n_real)
        assert few.n_synthetic > 10
        assert found["supervised", "tiny", SYNTHETIC, 1, run].n_real == 0
        taught = found["semi-supervised", "tiny", PSEUDO, 1, run]
        assert taught.mae > 0
        assert taught.n_real + taught.n_synthetic == everything.n_real
        assert ("supervised", "tiny", PSEUDO, 1, run) not in found


def test_the_median_row_is_the_closed_form(done):
    from matmill.steer.flywheel.rows import prepared, run_rows

    study, _ = done
    table = prepared(salts(), COLUMN)
    for score in study.scores:
        if score.arm == MEDIAN:
            rows = run_rows(table, study.settings, score.run, score.mode)
            values = table.column(COLUMN)
            middle = values[rows.labelled].median()
            expected = (values[rows.test] - middle).abs().mean()
            assert score.mae == pytest.approx(float(expected))


def test_the_table_compares_arms_with_real_rows_of_the_same_runs(done):
    study, _ = done
    both = next(r for r in study.rows if r.arm == BOTH and r.mode == "supervised")
    real = next(r for r in study.rows if r.arm == REAL and r.mode == "supervised")
    assert both.against_real.mean == pytest.approx(both.mean - real.mean)
    assert both.against_real.n == 2
    arms = [r.arm for r in study.rows if r.mode == "semi-supervised" and r.round == 1]
    assert arms == list(ARMS)
    arms = [r.arm for r in study.rows if r.mode == "supervised"]
    assert arms == [arm for arm in ARMS if arm != PSEUDO]


def test_the_wheel_is_held_against_its_controls(done):
    study, _ = done
    rows = {(r.mode, r.arm, r.round): np.array(r.maes) for r in study.rows}
    found = {(c.mode, c.control, c.round): c.found for c in study.contrasts}
    assert set(found) == {
        *(("supervised", control, 1) for control in (SHUFFLED, LONGER, ENSEMBLE)),
        *(
            ("semi-supervised", control, turn)
            for control in (SHUFFLED, PSEUDO, LONGER, ENSEMBLE)
            for turn in (1, 2)
        ),
    }
    for (mode, control, turn), difference in found.items():
        other = rows[mode, control, 1 if control == ENSEMBLE else turn]
        assert difference.mean == pytest.approx((rows[mode, BOTH, turn] - other).mean())


def test_a_named_labeller_turns_with_the_wheel(done):
    """With one predictor it makes no difference whether the labeller is named."""
    study, folder = done
    named = study_of(quick(rounds=2, labeller="tiny"), folder)
    assert [r.maes for r in named.rows] == [r.maes for r in study.rows]
    turns = {s.round: s.mae for s in named.scores if s.arm == BOTH and s.mode == "semi-supervised"}
    assert turns[1] != turns[2]


def test_doing_it_again_does_nothing_and_finds_the_same(done, monkeypatch):
    study, folder = done

    def refuse(_self, _given):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(making.Make, "__call__", refuse)
    monkeypatch.setattr("matmill.steer.flywheel.fitting.Fit.__call__", refuse)
    again = study_of(quick(rounds=2), folder)
    assert json.dumps(again.as_dict()) == json.dumps(study.as_dict())


def test_a_study_that_differs_late_shares_what_comes_before(done, tmp_path, monkeypatch):
    _, folder = done
    made = []
    original = making.Make.__call__
    monkeypatch.setattr(
        making.Make, "__call__", lambda self, g: made.append(g.key) or original(self, g)
    )
    with closing(Store(folder / "flywheel.sqlite")) as store:
        before = TaskBoard(store).counts()
    store = f"sqlite:///{folder / 'flywheel.sqlite'}"
    study_of(quick(mixing="weighted"), tmp_path, store=store)
    assert not made  # the synthetic crystals are those of the first study
    with closing(Store(folder / "flywheel.sqlite")) as store:
        after = TaskBoard(store).counts()
    new = after["flywheel fit 1"]["done"] - before["flywheel fit 1"]["done"]
    # Arms with both kinds of rows, two runs: two supervised, three with pseudo-labels.
    assert new == 10


def test_the_files_tell_the_same(done):
    study, folder = done
    table = json.loads((folder / "table.json").read_text())
    assert table["column"] == COLUMN
    assert len(table["table"]) == len(study.rows)
    page = (folder / "report.html").read_text()
    assert "real + synthetic" in page
    assert "http" not in page.split("</style>")[1].split("<h2>Record")[0]
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["n_runs"] == 2
    assert record["cpu_s"]["predictors"] > 0


def test_a_generator_that_returns_rubbish_costs_its_arms_only(tmp_path, monkeypatch):
    def rubbish(_self, given):
        n = len(given.values)
        return {
            "crystals": {
                "n_atoms": [1] * n,
                "lattice": [[float("nan")] * 9] * n,
                "frac_coords": [float("inf")] * 3 * n,
                "atomic_numbers": [200] * n,
            },
            "generator": "",
            "train_cpu_s": 0.0,
            "sample_cpu_s": 0.0,
        }

    monkeypatch.setattr(making.Make, "__call__", rubbish)
    study = study_of(quick(n_runs=1, modes=("supervised",)), tmp_path)
    scores = {s.arm: s for s in study.scores}
    assert scores[REAL].mae > 0
    assert scores[BOTH].error == "only 0 synthetic crystals are left"
    assert study.syntheses[0].n_asked > 10
    assert study.syntheses[0].dropped["no crystal"] == study.syntheses[0].n_asked
    row = next(r for r in study.rows if r.arm == BOTH)
    assert (row.n_failed, row.maes) == (1, ())


def test_a_generator_that_crashes_is_told_by_name(tmp_path, monkeypatch):
    def crash(_self, _given):
        raise RuntimeError("out of noise")

    monkeypatch.setattr(making.Make, "__call__", crash)
    study = study_of(quick(n_runs=1, modes=("supervised",)), tmp_path)
    assert "out of noise" in next(s for s in study.scores if s.arm == BOTH).error
    assert "out of noise" in study.syntheses[0].error
    assert study.syntheses[0].n_asked > 10
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"mixing": "finetuned"},
        {"label": "predictor", "filters": FilterSettings(copies=False, near=False, certainty=0.3)},
        {"conditions": "beyond", "filters": FilterSettings.none()},
        {"synthetic_weight": 0.3, "synthetic_ratio": 0.5},
    ],
)
def test_options_change_the_arms(done, tmp_path, changes):
    study, _ = done
    other = study_of(quick(n_runs=1, modes=("supervised",), **changes), tmp_path)
    maes = [
        next(s.mae for s in each.scores if s.arm == BOTH and s.run == 0) for each in (study, other)
    ]
    assert maes[0] != maes[1]
    assert all(value > 0 for value in maes)


def test_agreement_counts_where_the_condition_is_the_label(tmp_path):
    """A crystal that misses its condition is labelled wrongly, unless a predictor labels it."""
    off = "predicted value off its condition"

    def lost(label="condition", **given):
        filters = FilterSettings(copies=False, near=False, **given)
        settings = quick(
            n_runs=1, modes=("supervised",), controls=False, label=label, filters=filters
        )
        return study_of(settings, tmp_path).syntheses[0].dropped.get(off, 0)

    assert lost(agreement=0.3) > lost(agreement=0.9) == lost() > 0
    assert lost("predictor") == 0
    assert lost("predictor", agreement=0.3) == lost(agreement=0.3)


def test_an_energy_is_kept_for_its_hull_and_potential(monkeypatch):
    from matmill.steer.flywheel import tasks
    from matmill.steer.flywheel.looking import SettleInput
    from matmill.verify.hull import Hull

    asked = []
    monkeypatch.setattr(tasks.Bench, "_run", lambda _self, _kind, items, *_: asked.append(items))
    bench = tasks.Bench(board=None, workers=None, folder=None)  # pyright: ignore[reportArgumentType]
    given = [SettleInput(crystals=salts(3).crystals, stability="single-point")]
    bench.settle(given)
    shipped = Hull.load()
    other = Hull(shipped.entries, name="other", hash="0")
    monkeypatch.setattr(tasks.Hull, "load", lambda: other)
    bench.settle(given)
    assert asked[0] != asked[1]
    assert {**asked[0][0], "hull": "0"} == asked[1][0]


def test_few_words_make_the_same_study(done):
    import matmill
    from matmill.errors import InputError

    study, folder = done
    words = {**quick(rounds=2).model_dump(exclude={"data", "target", "predictors", "generator"})}
    again = matmill.Flywheel(
        labels=salts(), target=COLUMN, predictor="tiny", generator="augment", folder=folder,
        workers=InlineWorkers(), **words,
    ).run()  # fmt: skip
    assert [r.maes for r in again.study.rows] == [r.maes for r in study.rows]
    assert again.folder == folder
    with pytest.raises(InputError, match="which property"):
        matmill.Flywheel(labels=salts())
    with pytest.raises(InputError, match="speed"):
        matmill.Flywheel(labels=salts(), target=COLUMN, speed="high")


def test_augmented_crystals_are_no_forbidden_copies(tmp_path):
    study = study_of(
        quick(n_runs=1, modes=("supervised",), controls=False, filters=FilterSettings(near=False)),
        tmp_path,
    )
    assert "copy of a training row" not in study.syntheses[0].dropped
    assert study.syntheses[0].n_kept > 10


def test_what_predictors_share_is_counted_once(tmp_path):
    """Two predictors, one labeller: the same sets, and what they cost falls on the first."""
    from matmill.steer.flywheel import report

    tiny = quick().more_predictors["tiny"]
    other = tiny.model_copy(update={"settings": {**tiny.settings, "width": 6}})
    settings = quick(
        predictors=("tiny", "other"),
        more_predictors={"tiny": tiny, "other": other},
        labeller="tiny",
        label="predictor",
        modes=("supervised",),
    )
    study = study_of(settings, tmp_path)
    first = [s for s in study.syntheses if s.predictor == "tiny"]
    assert len(study.syntheses) == 2 * len(first) == 4
    counted = report.dropped(study.syntheses)
    assert sum(counted.values()) == sum(s.n_asked for s in first)
    assert report.quality_rows(study.syntheses) == report.quality_rows(tuple(first))
    made = sum(s.train_cpu_s + s.sample_cpu_s + s.other_cpu_s for s in study.syntheses)
    for name in ("tiny", "other"):  # either would have to make the set
        spent = [s for s in study.scores if s.predictor == name]
        both = sum(s.cpu_s for s in spent if s.arm == BOTH)
        alone = sum(s.cpu_s for s in spent if s.arm == ENSEMBLE)
        assert study.extra_cpu_s["supervised", name] == pytest.approx(
            ((made + both) / 2, alone / 2)
        )
