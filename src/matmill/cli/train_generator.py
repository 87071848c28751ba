"""``matmill train generator``: the flow on the user's own crystals."""

from pathlib import Path
from typing import Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import Device, Json, Quiet, Seed, pick_device
from matmill.cli.output import print_json


def register(app: typer.Typer) -> None:
    """Add the command to the ``train`` group."""
    del app  # the group is in the program already
    from matmill.cli.train import group

    group.command("generator")(train_generator)


def train_generator(
    data: Annotated[
        Path,
        typer.Argument(help="Parquet, folder, ASE database, extxyz, … of crystals to learn from."),
    ],
    size: Annotated[str, typer.Option("--size", help="tiny, S, M or L.")] = "S",
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="Training time over all sittings.")
    ] = 120.0,
    max_atoms: Annotated[
        int, typer.Option("--max-atoms", min=1, max=64, help="Largest primitive cell to use.")
    ] = 20,
    n_tokens: Annotated[
        int, typer.Option("--tokens", min=2, help="Atoms plus lattice tokens in a batch.")
    ] = 1660,
    learning_rate: Annotated[float, typer.Option("--learning-rate")] = 1e-3,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="Checkpoint whose weights to start from.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Use only rows whose split column says this.")
    ] = "train",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the same one resumes it.")
    ] = Path("work/generator"),
    devices: Annotated[int, typer.Option("--devices", min=1, help="GPUs; over one: DDP.")] = 1,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Train a flow generator, or continue an interrupted training.

    Columns such as band_gap_ev become conditions. Example: matmill train generator mine.parquet
    """
    from matmill.errors import DataError
    from matmill.generate.train import GeneratorSettings, labelled_crystals, train
    from matmill.training.fit import FitSettings

    with progress.show(quiet=quiet) as on_event:
        crystals, space_group, facts = labelled_crystals(data, split=split, on_event=on_event)
        if not len(crystals):
            raise DataError(f"{data} has no row with split '{split}'. Use --split to choose.")
        accelerator = "cpu" if pick_device(device) == "cpu" else "cuda"
        settings = GeneratorSettings(
            size=size,
            max_atoms=max_atoms,
            n_tokens=n_tokens,
            fit=FitSettings(
                max_seconds=60 * minutes,
                learning_rate=learning_rate,
                warmup_steps=500,
                ema_decay=0.9995,
                accelerator=accelerator,
                devices=devices,
            ),
        )
        with progress.resumable("The same command continues this training."):
            result = train(
                crystals,
                space_group,
                settings=settings,
                folder=out,
                seed=seed,
                start_from=start_from,
                facts=facts,
                on_event=on_event,
            )
    summary = {
        "steps": result.step,
        "epochs": result.epoch,
        "seconds": round(result.seconds),
        "ended_by": result.reason,
        "checkpoint": out / "generator.safetensors",
    }
    if json:
        print_json(summary)
        return
    typer.echo(
        f"{result.step} steps, {result.epoch} epochs in {result.seconds / 60:.1f} min "
        f"({result.reason}). Use it: matmill generate --model {summary['checkpoint']}"
    )
