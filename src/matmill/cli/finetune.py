"""``matmill finetune``: teach a trained model something new without forgetting anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matmill.cli import progress
from matmill.cli.options import Device, Json, Quiet, Seed, pick_device
from matmill.cli.output import print_json

if TYPE_CHECKING:
    from matmill.generate.finetune import Finetuned

group = typer.Typer(
    no_args_is_help=True, help="Teach a trained model a new property; an interrupted run goes on."
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(group, name="finetune")


@group.callback()
def root() -> None:
    """Teach a trained model a new property; an interrupted run goes on."""


@group.command("generator")
def finetune_generator(
    data: Annotated[
        Path,
        typer.Argument(help="CSV, folder, Parquet, ASE database, extxyz, … of labelled crystals."),
    ],
    name: Annotated[
        str, typer.Option("--property", "-p", help="Its name in requests: exfoliation_energy.")
    ],
    column: Annotated[
        str | None, typer.Option("--column", help="Column with the labels; found by the name.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", help="Unit of the labels; guessed from the column.")
    ] = None,
    structures: Annotated[
        Path | None, typer.Option("--structures", help="Folder with one structure per CSV row.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column of the CSV with the ids.")
    ] = None,
    base: Annotated[
        str, typer.Option("--from", help="The generator to extend: flow, or a checkpoint file.")
    ] = "flow",
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="Training time at most, over all sittings.")
    ] = 3.0,
    attribution: Annotated[
        str | None, typer.Option("--attribution", help="Whose data these are, for the card.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; the same one resumes it."),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Add a property of your own table to a generator: an adapter, from 200 labels on.

    The generator itself is not changed. A part of the labels, by formula, is held out: it decides
    when to stop, and whether the condition does anything.

    Example: matmill finetune generator layers.parquet --property exfoliation_energy
    """
    from matmill.data.table import open_table
    from matmill.errors import InputError
    from matmill.generate.finetune import FinetuneSettings, finetune, request_name
    from matmill.generate.flow import FlowGenerator
    from matmill.generate.protocol import load_generator

    key, _ = request_name(name)
    generator = load_generator(base, device=pick_device(device))
    if not isinstance(generator, FlowGenerator):
        raise InputError(f"--from {base} is not a flow generator; adapters extend those only.")
    folder = out or Path("work/adapters") / key
    settings = FinetuneSettings()
    accelerator = "cpu" if pick_device(device) == "cpu" else "cuda"
    limits = {"max_seconds": 60 * minutes, "accelerator": accelerator}
    settings = settings.model_copy(update={"fit": settings.fit.model_copy(update=limits)})
    hint = "Repeat the command to go on."
    with progress.resumable(hint), progress.show(quiet=quiet) as on_event:
        # Rows without a label are no slip here: they are left out, and counted.
        table = open_table(data, structures=structures, id_column=id_column, on_event=on_event)
        for complaint in table.complaints:
            typer.echo(f"Left out: {complaint}", err=True)
        made = finetune(
            generator,
            table,
            name,
            column=column,
            unit=unit,
            settings=settings,
            folder=folder,
            seed=seed,
            facts={"attribution": attribution or f"the owners of {data.name}"},
            on_event=on_event,
        )
    if json:
        print_json(_summary(made))
        return
    _print(made)


def _summary(made: "Finetuned") -> dict[str, Any]:
    return {
        "adapter": made.path,
        "property": made.learnt.name,
        "unit": made.learnt.unit,
        "low": made.learnt.low,
        "high": made.learnt.high,
        "labels_given": made.n_given,
        "labels_used": made.n_used,
        "steps": made.fit.step,
        "seconds": round(made.fit.seconds),
        "ended_by": made.fit.reason,
        "check": made.effect.card,
    }


def _print(made: "Finetuned") -> None:
    learnt, effect = made.learnt, made.effect
    typer.echo(
        f"{made.fit.step} steps in {made.fit.seconds / 60:.1f} min ({made.fit.reason}) on "
        f"{made.n_used - effect.n} of {made.n_given} labels; {effect.n} held out."
    )
    typer.echo(
        f"Held out, true labels beat shuffled ones by {effect.gain:.4f} ± {effect.error:.4f} in "
        f"loss (base {effect.base:.3f}, true {effect.true:.3f})."
    )
    if not effect.is_seen:
        typer.echo(
            "Warning: this is within chance: asking for the property may do nothing. Give more "
            "labels, or a longer --minutes.",
            err=True,
        )
    middle = (learnt.low * learnt.high) ** 0.5 if learnt.low > 0 else (learnt.low + learnt.high) / 2
    typer.echo(
        f"Use it: matmill generate --adapter {made.path} "
        f'--target "{learnt.name} = {middle:.3g}{f" {learnt.unit}" if learnt.unit else ""}"'
    )
