"""``matmill train``: predictors (and generators) from data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from matmill.cli import progress
from matmill.cli.options import Device, Json, Out, Quiet, Seed, pick_device
from matmill.cli.output import print_json, print_table

group = typer.Typer(
    no_args_is_help=True, help="Train a model on your data; an interrupted training goes on."
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(group, name="train")


@group.command("predictor")
def train_predictor(
    data: Annotated[
        Path, typer.Argument(help="CSV of labels, folder, Parquet, ASE database or extxyz.")
    ],
    target: Annotated[
        list[str], typer.Option("--target", "-t", help="Column to predict; repeat for more.")
    ],
    structures: Annotated[
        Path | None, typer.Option("--structures", help="Folder with one structure per CSV row.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Column of the CSV with the ids.")
    ] = None,
    auxiliary: Annotated[
        list[str] | None,
        typer.Option("--auxiliary", help="Column to learn along, not to predict; repeat."),
    ] = None,
    network: Annotated[
        str, typer.Option("--network", help="cgcnn (structures) or composition.")
    ] = "cgcnn",
    members: Annotated[int, typer.Option("--members", min=1, help="Networks to average.")] = 3,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the data; default: by size.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Training time at most, all members.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--start-from", help='Predictor to start from: "shipped", or a file.'),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option("--tracker", help="tensorboard, mlflow or wandb, beside the CSV log."),
    ] = None,
    devices: Annotated[int, typer.Option("--devices", min=1, help="More than 1: DDP.")] = 1,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Train an ensemble that predicts properties with honest error bars.

    Rows are divided by a column "split" (train, val, test) or else by formula, 80/10/10. The
    scores that are printed are those on the test rows. Repeat the same command after Ctrl-C or a
    kill: it goes on where it stopped.

    Example: matmill train predictor data.csv --structures cifs/ --target band_gap
    """
    from matmill.data.table import open_table, require_target
    from matmill.predict.train import TrainSettings
    from matmill.predict.train import train_predictor as train
    from matmill.training.trackers import make_tracker

    path = out or Path(f"{target[0]}.safetensors")
    work = path.with_suffix(".training")
    where = pick_device(device)
    settings = TrainSettings(
        network=network,
        n_members=members,
        epochs=epochs,
        seconds_per_member=60.0 * minutes / members if minutes is not None else None,
        devices=devices,
        accelerator="cpu" if where == "cpu" else "cuda",
    )
    hint = "Repeat the command to go on."
    with progress.resumable(hint), progress.show(quiet=quiet) as on_event:
        table = open_table(data, structures=structures, id_column=id_column, on_event=on_event)
        if len(target) == 1:
            table = require_target(table, target[0])
        for complaint in table.complaints:
            typer.echo(f"Left out: {complaint}", err=True)
        model = train(
            table,
            target,
            auxiliary=auxiliary or (),
            settings=settings,
            folder=work,
            seed=seed,
            start_from=start_from,
            on_event=on_event,
            trackers=tuple(make_tracker(n, work, run_name=path.stem) for n in tracker or ()),
        )
        model.save(path)
    if json:
        print_json({"weights": path, "scores": model.card["scores"]})
        return
    print_table(("property", "test rows", "MAE", "RMSE", "R²", "90 % covered"), _rows(model.card))
    typer.echo(f"Predictor: {path} (card: {path.with_suffix('.json')})")
    typer.echo(f"Use it: matmill predict FILES --model {path}")


def _rows(card: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (
            column,
            scores["n_test"],
            scores["mae"],
            scores["rmse"],
            scores["r2"],
            scores["intervals"]["0.90"]["covered"],
        )
        for column, scores in card["scores"].items()
    ]
