"""Measure Roost on composition tasks: from the pretrained encoder, from nothing, beside trees.

Usage: python benchmarks/roost.py [--data FOLDER] [--work FOLDER] [--tasks expt_gap,steels]
           [--arms pretrained,scratch,trees,median] [--folds 0,1,2,3,4]

Repeat the command after an interruption: finished folds are kept. Folds are matbench's where all
rows are there; expt_gap and expt_is_metal lack a fifth of their rows, so their folds are random
ones of our own. The encoder has seen no formula of any of these tasks; see
``pretrain_compositions.py``.

Arms: ``pretrained`` and ``scratch`` are ensembles of Roost that hold a tenth of the training rows
back to calibrate their intervals; ``trees`` is gradient boosting on element fractions and
statistics of element facts, fitted to all training rows; ``median`` says the training median.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from matmill.predict.baselines import composition_descriptors
from matmill.predict.benchmark.cells import Cell, divide, result_file
from matmill.predict.benchmark.published import SCORES
from matmill.predict.benchmark.runner import Plan, measure
from matmill.predict.benchmark.scoring import score_classes
from matmill.predict.benchmark.tasks import find_task, in_published_order, open_task
from matmill.training.checkpoint import write_atomically

ROOT = Path(__file__).parents[1]
TASKS = "steels,expt_gap,expt_is_metal,glass,dielectric,log_kvrh,log_gvrh"
NETWORK_ARMS = {"pretrained": {}, "scratch": {"start_from": None}, "median": {}}


def trees(cell, task, rows):
    """Return scores of gradient-boosted trees on one fold."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    division = divide(cell, task, rows)
    features = composition_descriptors(rows.compositions).numpy()
    values = rows.column(task.column).double()
    train, test = division.train.numpy(), division.test.numpy()
    started = time.perf_counter()
    if task.is_classification:
        model = HistGradientBoostingClassifier(random_state=cell.seed)
        model.fit(features[train], values[train].numpy())
        said = torch.from_numpy(model.predict_proba(features[test])[:, 1])
        scores = score_classes(said, values[division.test])
    else:
        model = HistGradientBoostingRegressor(random_state=cell.seed)
        model.fit(features[train], values[train].numpy())
        said = torch.from_numpy(model.predict(features[test]))
        scores = {"mae": float((said - values[division.test]).abs().mean())}
    return {
        "cell": cell.as_dict(),
        "scores": scores,
        "is_official": division.is_official,
        "fit_seconds": round(time.perf_counter() - started, 2),
    }


def outcome_of(arm, task, fold, given, rows):
    """Return the scores of one arm on one fold, measured now or before."""
    folder = given.work / arm
    if arm == "trees":
        cell = Cell(model=arm, task=task.name, split="official", fold=fold, n_folds=5, seed=0)
        file = result_file(folder, cell)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(trees(cell, task, rows)).encode())
        return json.loads(file.read_text())
    model = "median" if arm == "median" else "roost"
    settings = {"roost": {**NETWORK_ARMS[arm], **given.settings}} if model == "roost" else {}
    plan = Plan(models=(model,), tasks=(task,), data=given.data, folds=(fold,), settings=settings)
    (cell,) = [cell for cell in plan.cells() if cell.model == model]
    file = result_file(folder, cell)
    if file.exists() and "scores" in (known := json.loads(file.read_text())):
        return known
    return measure(plan, folder, cell)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "properties")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "roost")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--arms", default="median,trees,pretrained,scratch")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--settings", type=json.loads, default={}, help="of roost, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for name in given.tasks.split(","):
        task = find_task(name)
        rows = in_published_order(task, open_task(task, given.data))
        for arm in given.arms.split(","):
            found = [
                outcome_of(arm, task, int(fold), given, rows) for fold in given.folds.split(",")
            ]
            failed = [one["error"] for one in found if "error" in one]
            if failed:
                print(f"{name} {arm}: {failed[0]}")
                continue
            lines.append(line(task, arm, found))
            print(" | ".join(map(str, lines[-1])), flush=True)
    heads = [
        "task",
        "arm",
        "folds",
        "score",
        "std of folds",
        "balanced accuracy",
        "covered",
        "time",
    ]
    print()
    for row in [heads, *lines]:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    for name in given.tasks.split(","):
        best = ", ".join(f"{s.model} {s.value:g}" for s in SCORES.get(name, ())[:4])
        print(f"{name}, published: {best or 'nothing'}")


def line(task, arm, found):
    """Return one row of the table."""
    metric = "roc_auc" if task.is_classification else "mae"
    scores = torch.tensor([one["scores"][metric] for one in found], dtype=torch.float64)
    more = [_mean(found, name) for name in ("balanced_accuracy", "covered")]
    seconds = sum(one["fit_seconds"] for one in found) / len(found)
    kind = "official" if found[0]["is_official"] else "own"
    spread = float(scores.std()) if len(scores) > 1 else 0.0
    return [
        task.name,
        arm,
        f"{len(found)} {kind}",
        f"{float(scores.mean()):.4f}",
        f"{spread:.4f}",
        *more,
        f"{seconds:.0f} s a fold",
    ]


def _mean(found, name):
    values = [one["scores"][name] for one in found if name in one["scores"]]
    return f"{sum(values) / len(values):.3f}" if values else "–"


if __name__ == "__main__":
    main()
