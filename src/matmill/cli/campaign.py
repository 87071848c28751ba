"""``matmill campaign``: look at a run, continue it, make its report and files again."""

from pathlib import Path
from typing import Annotated

import typer

from matmill.cli.options import BudgetTexts, Device, Json, Quiet, StoreUrl, WorkersText

Folder = Annotated[Path, typer.Argument(help="Folder of the run, as given to --out.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Look at a run, continue it, export it.")
    group.command("status")(status)
    group.command("resume")(resume)
    group.command("report")(report)
    group.command("export")(export)
    group.command("handout")(handout)
    app.add_typer(group, name="campaign")


def status(folder: Folder, store: StoreUrl = None, json: Json = False) -> None:
    """Show how far a run has got, what it has spent and what is out, also while it runs.

    Example: matmill campaign status runs/gap2
    """
    from matmill.campaign.results import collect
    from matmill.campaign.status import spending, tasks, what_is_out
    from matmill.cli.output import print_json, print_table
    from matmill.steer.design import open_run

    opened, request, settings = open_run(folder, store)
    results = collect(opened, request, settings)
    reason = opened.setting("stopped_because")
    record = {
        "folder": str(folder),
        "state": f"finished: {reason}" if reason else "not finished",
        "wanted": request.n,
        "qualified": len(results.delivered) - results.n_filled,
        "rounds": opened.setting("rounds"),
        "funnel": results.funnel,
        "fates": results.fates,
        "seconds": opened.seconds_by_stage(),
        "budget": spending(opened),
        "tasks": tasks(opened),
        "external": what_is_out(opened),
    }
    opened.close()
    if json:
        print_json(record)
        return
    typer.echo(
        f"{folder}: {record['state']}; {record['qualified']} of {request.n} crystals qualify."
    )
    print_table(("step", "left"), list(results.funnel.items()), title="Funnel")
    print_table(("fate", "candidates"), list(results.fates.items()), title="Fates")
    print_table(("stage", "seconds"), list(record["seconds"].items()), title="Time")
    for name, title in (("budget", "Budget"), ("tasks", "Tasks"), ("external", "Handed out")):
        rows = record[name]
        if rows:
            cells = [["" if x is None else x for x in row.values()] for row in rows]
            print_table(tuple(rows[0]), cells, title=title)


def resume(
    folder: Folder,
    workers: WorkersText = "0",
    store: StoreUrl = None,
    budget: BudgetTexts = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue a run that was killed or interrupted, with the settings it was begun with.

    Takes in first what has come back of crystals that were handed out. A run that a budget
    stopped goes on with a larger one, e.g. --budget relaxations=400.

    Example: matmill campaign resume runs/gap2
    """
    from matmill.campaign.budget import parse_budget
    from matmill.campaign.crew import make_workers
    from matmill.campaign.parts import load_parts
    from matmill.cli.design import show_summary
    from matmill.cli.options import pick_device
    from matmill.cli.progress import resumable, show
    from matmill.steer import design as driver

    spending = parse_budget(budget or [])
    opened, request, settings = driver.open_run(folder, store)
    arguments = opened.setting("arguments")
    opened.close()
    hint = f"Continue with: matmill campaign resume {folder}"
    with resumable(hint), show(quiet=quiet or json) as on_event:
        summary = driver.design(
            request,
            settings,
            folder=folder,
            parts=load_parts(request, device=pick_device(device)),
            workers=make_workers(workers),
            resume=True,
            arguments=arguments,
            store_url=store,
            budget=spending,
            on_event=on_event,
        )
    show_summary(summary, json=json)


def report(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; in the folder by default.")
    ] = None,
    store: StoreUrl = None,
    quiet: Quiet = False,
) -> None:
    """Write report.html again, also of a run that is not finished.

    Example: matmill campaign report runs/gap2 --out gap2.html
    """
    from matmill.campaign import report as pages
    from matmill.campaign.results import all_warnings, collect
    from matmill.steer.design import open_run

    opened, request, settings = open_run(folder, store)
    path = out or folder / "report.html"
    results = collect(opened, request, settings)
    pages.write(opened, results, settings, path, warnings=all_warnings(opened, results))
    opened.close()
    if not quiet:
        typer.echo(f"Wrote {path}")


def export(
    folder: Folder,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A folder (Parquet table, CIFs and extxyz), or one file of the delivered "
            "crystals; its suffix decides the format.",
        ),
    ] = None,
    store: StoreUrl = None,
    quiet: Quiet = False,
) -> None:
    """Write the crystals of a run as files, also of a run that is not finished.

    Example: matmill campaign export runs/gap2 --out best.cif
    """
    from matmill.campaign.export import write_all
    from matmill.campaign.results import collect
    from matmill.crystals import files
    from matmill.crystals.symmetry import SYMPREC
    from matmill.steer.design import open_run

    opened, request, settings = open_run(folder, store)
    results = collect(opened, request, settings)
    target = out or folder
    if out is not None and out.suffix:
        files.write(results.crystals, out, symprec=SYMPREC)
    else:
        target.mkdir(parents=True, exist_ok=True)
        write_all(opened, results, target)
    opened.close()
    if not quiet:
        typer.echo(f"Wrote {len(results.crystals)} crystals to {target}")


def handout(
    folder: Folder,
    to: Annotated[Path, typer.Option("--to", help="Folder where inputs are put, and answers.")],
    column: Annotated[
        list[str],
        typer.Option("--column", help="What is asked for, e.g. band_gap_ev. May be repeated."),
    ],
    name: Annotated[str, typer.Option("--name", help="Who does the work.")] = "external",
    days: Annotated[
        float | None, typer.Option("--days", min=0.0, help="When to give up waiting.")
    ] = None,
    cost_class: Annotated[
        str, typer.Option("--cost-class", help="Budget meter evaluations.CLASS that counts it.")
    ] = "external",
    money: Annotated[float, typer.Option("--money", min=0.0, help="Price of one crystal.")] = 0.0,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Hand the delivered crystals to somebody who computes or measures them, days or weeks long.

    Writes CIF, extxyz and a manifest that says what is asked and how to answer; nobody is asked
    twice. The next resume takes the answers in, as columns measured_... of every table.

    Example: matmill campaign handout runs/gap2 --to lab --column band_gap_ev --name lab --days 30
    """
    from matmill.campaign.evaluators import Cost
    from matmill.campaign.status import hand_out
    from matmill.cli.output import print_json
    from matmill.steer.design import open_run

    opened, request, settings = open_run(folder, store)
    timeout_s = None if days is None else 86400.0 * days
    cost = Cost(cost_class=cost_class, money=money, timeout_s=timeout_s)
    record = hand_out(opened, request, settings, to, column, name=name, cost=cost)
    opened.close()
    if json:
        print_json(record)
        return
    said = (
        f"{record['n_new']} crystals are new there" if record["batch"] else "Nothing is new there"
    )
    typer.echo(f"{said}; {record['n_out']} are out in {to}.")
    if record["n_refused"]:
        typer.echo(f"Note: the budget does not allow {record['n_refused']} more.")
