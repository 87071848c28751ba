"""Errors of the tabular predictor on small published tasks, beside the published figures.

Usage: python benchmarks/tabular.py [--tasks jdft2d,steels] [--data ../shared/data] [--folds 0,1]

Official matbench folds where the table is complete, own five folds otherwise. Everything that is
chosen (scales, columns, learners, weights, thresholds) is chosen inside the training rows of each
fold. One JSON file a fold is kept in --work; a second run continues, and prints all that is there.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import torch

from matmill import registry
from matmill.data.compositions import items
from matmill.predict.benchmark.cells import Cell, divide
from matmill.predict.benchmark.published import SCORES, rank
from matmill.predict.benchmark.scoring import score_classes, score_regression
from matmill.predict.benchmark.tasks import find_task, in_published_order, open_task, with_parts
from matmill.progress import Event
from matmill.training.checkpoint import write_atomically

ROOT = Path(__file__).parents[1]
TASKS = "jdft2d,steels,phonons,poly_total,petousis_n,expt_gap,expt_is_metal,glass,naccarato_n"


def tell(event: Event) -> None:
    print(f"  {event.stage} {event.done}/{event.total} {event.message}", flush=True)


def measure(name, fold, args):
    """Fit and score one fold."""
    task = find_task(name)
    data = args.data / "properties" if (args.data / "properties").is_dir() else args.data
    table = in_published_order(task, open_task(task, data))
    cell = Cell(model=args.model, task=name, split="official", fold=fold, n_folds=5, seed=0)
    division = divide(cell, task, table)
    train = with_parts(table.select(division.train), ["train"] * len(division.train))
    test = table.select(division.test)
    work = args.work / f"{name}-{args.model}-{args.preset}-{fold}"
    began, cpu = time.perf_counter(), time.process_time()
    settings = {"preset": args.preset, "descriptors": args.work / "descriptors" / name}
    if args.learners:
        settings["learners"] = tuple(args.learners.split(","))
    predictor = registry.predictors.load(args.model).fit(
        train, task.column, folder=work, on_event=tell, **settings
    )
    fit_cpu, fit_wall = time.process_time() - cpu, time.perf_counter() - began
    found = predictor.predict(items(test))
    truth = test.column(task.column).double()
    if task.is_classification:
        scores = score_classes(found.mean, truth, threshold=predictor.card["threshold"])
    else:
        scores = score_regression(found, truth)
    size = predictor.save(work / "saved").stat().st_size
    shutil.rmtree(work)
    return {
        "task": name,
        "fold": fold,
        "model": args.model,
        "preset": args.preset,
        "is_official": division.is_official,
        "n_train": len(train),
        "n_test": len(test),
        "fit_cpu_seconds": round(fit_cpu, 1),
        "fit_wall_seconds": round(fit_wall, 1),
        "file_mb": round(size / 1e6, 2),
        "scores": scores,
        "inner": predictor.card["inner"],
    }


def line(name, results):
    """Return one line of the table: mean and spread over folds, place among the published."""
    task = find_task(name)
    key = "balanced_accuracy" if task.is_classification else "mae"
    values = torch.tensor([r["scores"][key] for r in results]).double()
    place = rank(task.published, float(values.mean()), is_classification=task.is_classification)
    listed = [f"{s.model} {s.value}" for s in SCORES.get(task.published, ())[:2]]
    extra = "covered"
    if task.is_classification:
        extra = "roc_auc"
    more = sum(r["scores"][extra] for r in results) / len(results)
    seconds = sum(r["fit_cpu_seconds"] for r in results) / len(results)
    folds = ", ".join(f"{value:.4g}" for value in values.tolist())
    return (
        f"| {name} | {key} {values.mean():.4f} ± {values.std(correction=0):.4f} | {folds} "
        f"| {extra} {more:.3f} | {'official' if results[0]['is_official'] else 'own'} "
        f"| {'' if place is None else f'{place[0]} of {place[1]}'} | {'; '.join(listed)} "
        f"| {seconds:.0f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--model", default="tabular", choices=("tabular", "boosted"))
    parser.add_argument("--preset", default="full", choices=("fast", "full", "thorough"))
    parser.add_argument("--learners", default="")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "tabular")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    lines = []
    for name in args.tasks.split(","):
        results = []
        for fold in map(int, args.folds.split(",")):
            path = args.work / f"{name}-{args.model}-{args.preset}{args.learners}-{fold}.json"
            if not path.exists():
                print(f"{name}, fold {fold}", flush=True)
                found = measure(name, fold, args)
                write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
            results.append(json.loads(path.read_text(encoding="utf-8")))
        lines.append(line(name, results))
        print(lines[-1], flush=True)
    print(
        "\n| task | error | folds | honesty | folds of | place | published | CPU a fold |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
