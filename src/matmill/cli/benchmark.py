"""``matmill benchmark``: measure models on published and own tasks."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import Json, Out, Quiet
from matmill.cli.output import print_json, print_table

group = typer.Typer(no_args_is_help=True, help="Measure models on published and own tasks.")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(group, name="benchmark")


@group.command("predict")
def predict(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="tabular, cgcnn, roost, …; repeat for more."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="jdft2d, steels, …; repeat; see --list-tasks."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the tasks' tables; by default they are fetched."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="A table of your own, with --target.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Column of --table to predict.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split", help="official, random, formula, redundancy, cluster, …; repeat for more."
        ),
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Only these, e.g. 0,1. Default: all five.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repeat with so many seeds.")] = 1,
    sizes: Annotated[
        str,
        typer.Option("--sizes", help="Training rows for learning curves, e.g. 50,100,500,all."),
    ] = "all",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of a model, e.g. cgcnn.epochs=100; repeat."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    list_tasks: Annotated[bool, typer.Option("--list-tasks", help="Name the tasks.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first seed.")] = 0,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure models on tasks, beside the published figures and the median predictor.

    Every fold is one file under the output folder; repeat the command after an interruption and
    only the missing ones run. Models never see a test row before they are scored on it.

    Example: matmill benchmark predict --model tabular --task jdft2d --data tables/
    """
    if list_tasks:
        _print_tasks()
        return
    from matmill.errors import InputError
    from matmill.predict.benchmark import report
    from matmill.predict.benchmark.runner import Plan, run, tasks_named
    from matmill.predict.benchmark.tasks import own_task

    if (table is None) != (target is None):
        raise InputError("--table and --target go together.")
    tasks = tasks_named(task or ())
    files = {}
    if table is not None and target is not None:
        mine = own_task(table, target)
        tasks, files = (*tasks, mine), {mine.name: table}
    if not tasks:
        raise InputError("Give at least one --task (see --list-tasks), or --table and --target.")
    plan = Plan(
        models=tuple(model or ("tabular",)),
        tasks=tasks,
        data=data,
        files=files,
        splits=tuple(split or ("official",)),
        folds=None if folds is None else tuple(_numbers(folds, "--folds")),
        seeds=tuple(range(seed, seed + seeds)),
        sizes=tuple(
            None if part == "all" else _numbers(part, "--sizes")[0]
            for part in sizes.replace(" ", "").split(",")
        ),
        settings=_settings(setting or ()),
    )
    folder = out or Path("runs/benchmark-predict")
    hint = "Repeat the command to go on."
    with progress.resumable(hint), progress.show(quiet=quiet) as on_event:
        results = run(plan, folder, workers=workers, on_event=on_event)
    page = report.write(folder, results, shlex.join(["matmill", *sys.argv[1:]]))
    lines = report.summarise(results)
    for result in results:
        if "error" in result:
            cell = result["cell"]
            typer.echo(
                f"Failed: {cell['task']} {cell['model']} fold {cell['fold']}: {result['error']}",
                err=True,
            )
    if json:
        print_json(
            {
                "report": page,
                "lines": [{name: getattr(line, name) for name in line.__slots__} for line in lines],
            }
        )
    else:
        print_table(*report.table(lines))
        for name in dict.fromkeys(line.task for line in lines):
            if report.leaders(name):
                typer.echo(f"{name}, published: {report.leaders(name)}")
        typer.echo(f"Report: {page}")
    if all("error" in result for result in results):
        raise typer.Exit(1)


def _print_tasks() -> None:
    from matmill.predict.benchmark.report import leaders
    from matmill.predict.benchmark.tasks import TASKS

    print_table(
        ("task", "reads", "column", "rows", "best published", "note"),
        [
            (t.name, t.reads, t.column, t.n_published, leaders(t.name).split(",")[0], t.note)
            for t in TASKS.values()
        ],
    )


def _numbers(text: str, option: str) -> list[int]:
    from matmill.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} '{text}' is not a list of numbers like 0,1.") from None


def _settings(texts: "tuple[str, ...] | list[str]") -> dict[str, dict[str, object]]:
    """Return settings by model from texts like ``cgcnn.epochs=100``."""
    import json

    from matmill.errors import InputError

    found: dict[str, dict[str, object]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        model, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise InputError(f"--set '{text}' is not of the form model.setting=value.")
        try:
            found.setdefault(model, {})[key] = json.loads(value)
        except ValueError:
            found.setdefault(model, {})[key] = value
    return found
