"""``matmill campaign``: look at a run, continue it, make its report and files again."""

from pathlib import Path
from typing import Annotated

import typer

from matmill.cli.options import Device, Json, Quiet

Folder = Annotated[Path, typer.Argument(help="Folder of the run, as given to --out.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Look at a run, continue it, export it.")
    group.command("status")(status)
    group.command("resume")(resume)
    group.command("report")(report)
    group.command("export")(export)
    app.add_typer(group, name="campaign")


def status(folder: Folder, json: Json = False) -> None:
    """Show how far a run has got, also while it runs.

    Example: matmill campaign status runs/gap2
    """
    from matmill.campaign.results import collect
    from matmill.cli.output import print_json, print_table
    from matmill.steer.design import open_run

    store, request, settings = open_run(folder)
    results = collect(store, request, settings)
    reason = store.setting("stopped_because")
    record = {
        "folder": str(folder),
        "state": f"finished: {reason}" if reason else "not finished",
        "wanted": request.n,
        "qualified": len(results.delivered) - results.n_filled,
        "rounds": store.setting("rounds"),
        "funnel": results.funnel,
        "fates": results.fates,
        "seconds": store.seconds_by_stage(),
    }
    store.close()
    if json:
        print_json(record)
        return
    typer.echo(
        f"{folder}: {record['state']}; {record['qualified']} of {request.n} crystals qualify."
    )
    print_table(("step", "left"), list(results.funnel.items()), title="Funnel")
    print_table(("fate", "candidates"), list(results.fates.items()), title="Fates")
    print_table(("stage", "seconds"), list(record["seconds"].items()), title="Time")


def resume(
    folder: Folder,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Relaxation processes; 0 is one a core.")
    ] = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue a run that was killed or interrupted, with the settings it was begun with.

    Example: matmill campaign resume runs/gap2
    """
    from matmill.campaign.parts import load_parts
    from matmill.campaign.workers import LocalWorkers
    from matmill.cli.design import show_summary
    from matmill.cli.options import pick_device
    from matmill.cli.progress import resumable, show
    from matmill.steer import design as driver

    store, request, settings = driver.open_run(folder)
    arguments = store.setting("arguments")
    store.close()
    hint = f"Continue with: matmill campaign resume {folder}"
    with resumable(hint), show(quiet=quiet or json) as on_event:
        summary = driver.design(
            request,
            settings,
            folder=folder,
            parts=load_parts(request, device=pick_device(device)),
            workers=LocalWorkers(workers),
            resume=True,
            arguments=arguments,
            on_event=on_event,
        )
    show_summary(summary, json=json)


def report(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; in the folder by default.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write report.html again, also of a run that is not finished.

    Example: matmill campaign report runs/gap2 --out gap2.html
    """
    from matmill.campaign import report as pages
    from matmill.campaign.results import all_warnings, collect
    from matmill.steer.design import open_run

    store, request, settings = open_run(folder)
    path = out or folder / "report.html"
    results = collect(store, request, settings)
    pages.write(store, results, settings, path, warnings=all_warnings(store, results))
    store.close()
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

    store, request, settings = open_run(folder)
    results = collect(store, request, settings)
    target = out or folder
    if out is not None and out.suffix:
        files.write(results.crystals, out, symprec=SYMPREC)
    else:
        target.mkdir(parents=True, exist_ok=True)
        write_all(store, results, target)
    store.close()
    if not quiet:
        typer.echo(f"Wrote {len(results.crystals)} crystals to {target}")
