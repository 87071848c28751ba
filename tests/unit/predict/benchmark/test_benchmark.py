"""The benchmark: who is measured on what, what is kept, and what the tables say."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.model_selection import KFold

from matmill.crystals.compositions import parse_formulas
from matmill.data.compositions import LabelledCompositions
from matmill.data.parts import with_parts
from matmill.errors import InputError, UnknownNameError
from matmill.predict.benchmark import report, runner
from matmill.predict.benchmark.cells import Cell, divide
from matmill.predict.benchmark.published import SCORES, rank
from matmill.predict.benchmark.runner import Plan, measure, run
from matmill.predict.benchmark.scoring import score_classes, score_regression
from matmill.predict.benchmark.tasks import TASKS, find_task, in_published_order, open_task
from matmill.predict.median import MedianPredictor
from matmill.predict.protocol import Prediction, load_predictor


def alloys(n=60, seed=0):
    """Iron-nickel alloys whose label is a smooth function of the nickel content."""
    rng = np.random.default_rng(seed)
    shares = np.round(rng.uniform(0.01, 0.99, n), 4)
    batch = parse_formulas([f"Fe{1 - x:.4f}Ni{x:.4f}" for x in shares])
    values = torch.tensor(100 + 50 * shares)
    batch = type(batch)(
        amounts=batch.amounts,
        properties={"yield_strength_mpa": values},
        ids=tuple(f"mb-steels-{i + 1:03d}" for i in range(n)),
    )
    return LabelledCompositions(compositions=batch, source="alloys")


@pytest.fixture
def folder(tmp_path):
    alloys(312).save(tmp_path / "matbench_steels.parquet")
    return tmp_path


def plan(folder, **more):
    return Plan(models=("median",), tasks=(find_task("steels"),), data=folder, **more)


def test_official_folds_are_those_of_matbench():
    table = alloys(312)
    cell = Cell(model="median", task="steels", split="official", fold=2, n_folds=5, seed=0)
    found = divide(cell, TASKS["steels"], table)
    theirs = list(KFold(5, shuffle=True, random_state=18012019).split(range(312)))[2]
    assert found.is_official
    assert found.test.tolist() == theirs[1].tolist()
    assert found.train.tolist() == theirs[0].tolist()
    assert 0 < int(found.is_val.sum()) < len(found.train)


def test_a_table_with_rows_missing_has_own_folds():
    table = alloys(200)
    tested = []
    for fold in range(5):
        cell = Cell(model="median", task="steels", split="official", fold=fold, n_folds=5, seed=0)
        found = divide(cell, TASKS["steels"], table)
        assert not found.is_official
        assert not set(found.train.tolist()) & set(found.test.tolist())
        tested += found.test.tolist()
    assert sorted(tested) == list(range(200))


def test_every_fold_of_elements_holds_out_others():
    formulas = [f"{a}{n}{b}" for a in ("Li", "Na", "K", "Rb", "Cs") for b in "FOSN" for n in (1, 2)]
    batch = parse_formulas(formulas).with_properties(yield_strength_mpa=torch.arange(40.0))
    table = LabelledCompositions(compositions=batch)
    tested = set()
    for fold in range(5):
        cell = Cell(model="median", task="steels", split="element", fold=fold, n_folds=5, seed=0)
        found = divide(cell, TASKS["steels"], table)
        assert not set(found.train.tolist()) & set(found.test.tolist())
        tested.add(tuple(found.test.tolist()))
    assert len(tested) > 2


def test_training_sets_of_a_learning_curve_are_nested():
    table = alloys(312)

    def rows(size):
        cell = Cell(
            model="median", task="steels", split="random", fold=0, n_folds=5, seed=3, size=size
        )
        return set(divide(cell, TASKS["steels"], table).train.tolist())

    assert len(rows(20)) == 20
    assert rows(20) < rows(80) < rows(None)
    with pytest.raises(InputError, match="cannot be drawn"):
        rows(1000)


def test_rows_come_in_the_published_order():
    table = alloys(30).select(torch.randperm(30, generator=torch.Generator().manual_seed(0)))
    ordered = in_published_order(TASKS["steels"], table)
    assert ordered.ids == tuple(f"mb-steels-{i + 1:03d}" for i in range(30))


def test_median_row_is_right_and_always_there(folder, tmp_path):
    results = run(plan(folder), tmp_path / "out")
    table = open_task(TASKS["steels"], folder)
    values = table.column("yield_strength_mpa").numpy()
    errors = [
        np.abs(values[test] - np.sort(values[train])[(len(train) - 1) // 2]).mean()
        for train, test in KFold(5, shuffle=True, random_state=18012019).split(values)
    ]
    assert [r["scores"]["mae"] for r in results] == pytest.approx(errors, rel=1e-6)
    (line,) = report.summarise(results)
    assert line.value == pytest.approx(np.mean(errors))
    assert line.spread == pytest.approx(np.std(errors, ddof=1))
    assert plan(folder).cells()[0].model == "median"


def test_a_second_run_measures_only_what_is_missing(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(plan(folder), out)
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(runner, "measure", counted)
    assert run(plan(folder), out) == first
    assert calls == []
    sorted((out / "results").glob("*.json"))[0].unlink()
    assert [r["scores"] for r in run(plan(folder), out)] == [r["scores"] for r in first]
    assert len(calls) == 1


def test_a_cell_that_fails_is_told_and_tried_again(folder, tmp_path):
    out = tmp_path / "out"
    results = run(plan(folder, sizes=(None, 1000)), out)
    failed = [result for result in results if "error" in result]
    assert len(failed) == 5
    assert "cannot be drawn" in failed[0]["error"]
    lines = report.summarise(results)
    assert sorted(line.n_failed for line in lines) == [0, 5]
    assert not [p for p in (out / "results").iterdir() if p.suffix != ".json"]


def test_workers_give_the_same_results(folder, tmp_path):
    alone = run(plan(folder, folds=(0, 1)), tmp_path / "a")
    together = run(plan(folder, folds=(0, 1)), tmp_path / "b", workers=2)
    assert [r["scores"] for r in alone] == [r["scores"] for r in together]


def test_report_names_leaders_rank_and_command(folder, tmp_path):
    results = run(plan(folder), tmp_path)
    page = report.write(tmp_path, results, "matmill benchmark predict --task steels")
    text = page.read_text(encoding="utf-8")
    assert "TPOT-Mat 79.95" in text
    assert "benchmark predict --task steels" in text
    assert "| steels |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    (line,) = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert len(line["cells"]) == 5


def test_a_rank_needs_every_fold(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "BASELINE", "another")
    some = report.table(report.summarise(run(plan(folder, folds=(0, 1)), tmp_path)))[1]
    every = report.table(report.summarise(run(plan(folder), tmp_path)))[1]
    assert some[0][-1] is None
    assert every[0][-1] == "1 of 5"


def test_learning_curves_are_drawn(folder, tmp_path):
    results = run(plan(folder, folds=(0,), sizes=(20, 50, 100, None)), tmp_path)
    page = report.write(tmp_path, results, "x").read_text(encoding="utf-8")
    assert page.count("<circle") == 4


def test_rank_counts_who_is_better():
    assert rank("steels", 70.0, is_classification=False) == (1, 5)
    assert rank("steels", 90.0, is_classification=False) == (3, 5)
    assert rank("glass", 0.97, is_classification=True) == (1, 4)
    assert rank("poly_total", 1.0, is_classification=False) is None
    for name, scores in SCORES.items():
        values = [score.value for score in scores]
        assert values == sorted(values, reverse=TASKS[name].is_classification)


def test_scores_of_a_prediction_by_hand():
    mean = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    prediction = Prediction(
        mean=mean,
        std=one,
        low=mean - 1,
        high=mean + 1,
        column="x",
        coverage=0.9,
        in_domain=torch.ones(3, dtype=torch.bool),
    )
    scores = score_regression(prediction, torch.tensor([1.0, 3.0, 1.0]))
    assert scores["mae"] == pytest.approx(4 / 3)
    assert scores["rmse"] == pytest.approx(math.sqrt(10 / 3))
    assert scores["covered"] == pytest.approx(2 / 3)
    assert scores["mean_width"] == pytest.approx(2.0)
    classes = score_classes(torch.tensor([0.9, 0.2, 0.6, 0.4]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert classes["balanced_accuracy"] == pytest.approx(0.5)
    assert classes["roc_auc"] == pytest.approx(0.75)
    assert classes["mcc"] == pytest.approx(0.0)


def test_median_predictor_saves_and_covers(tmp_path):
    table = alloys(200)
    model = MedianPredictor.fit(table, "yield_strength_mpa", folder=tmp_path)
    prediction = model.predict(table.compositions, coverage=0.8)
    truth = table.column("yield_strength_mpa")
    held = ((truth >= prediction.low) & (truth <= prediction.high)).double().mean()
    assert 0.78 < float(held) < 0.83
    again = load_predictor(model.save(tmp_path / "m.safetensors")).predict(table.compositions)
    assert torch.equal(again.mean, prediction.mean)


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_classes_are_those_of_scikit_learn(seed):
    rng = torch.Generator().manual_seed(seed)
    truth = (torch.rand(50, generator=rng) < 0.3).double()
    truth = truth if seed else torch.zeros(50).double()  # the first holds one class
    chance = torch.rand(50, generator=rng).round(decimals=1)
    found = score_classes(chance, truth, threshold=0.6)
    said = chance.double() >= 0.6
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, said, zero_division=0))
    assert found["precision"] == pytest.approx(
        metrics.precision_score(truth, said, zero_division=0)
    )
    assert found["recall"] == pytest.approx(metrics.recall_score(truth, said, zero_division=0))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said))
    ranked = ("roc_auc", "pr_auc", "balanced_accuracy")
    if not seed:
        assert all(math.isnan(found[name]) for name in ranked)
        return
    theirs = (
        metrics.roc_auc_score(truth, chance),
        metrics.average_precision_score(truth, chance),
        metrics.balanced_accuracy_score(truth, said),
    )
    assert [found[name] for name in ranked] == pytest.approx(theirs)


def test_the_median_is_that_of_the_training_rows(tmp_path):
    table = alloys(100)
    truth = table.column("yield_strength_mpa")
    is_test = truth > truth.median()
    named = with_parts(table, ["test" if flag else "train" for flag in is_test.tolist()])
    model = MedianPredictor.fit(named, "yield_strength_mpa", folder=tmp_path)
    assert float(model.values.max()) == float(truth[~is_test].max())
    assert len(model.values) == int((~is_test).sum())


def test_unknown_names_are_told(folder):
    with pytest.raises(UnknownNameError, match="jdft2d"):
        find_task("jdft2")
    with pytest.raises(UnknownNameError):
        Plan(models=("nonsense",), tasks=(TASKS["steels"],)).cells()
    with pytest.raises(InputError, match="Folds go from 0 to 4"):
        plan(folder, folds=(7,)).cells()
    with pytest.raises(InputError, match=r"no matbench_glass\.parquet"):
        open_task(TASKS["glass"], folder)
