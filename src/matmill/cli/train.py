"""``matmill train``: predictors (and generators) from data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matmill.cli import progress
from matmill.cli.options import Device, IdColumn, Json, Out, Quiet, Seed, Structures, pick_device
from matmill.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matmill.data.compositions import Table
    from matmill.predict.ensemble import EnsembleModel
    from matmill.progress import OnEvent

group = typer.Typer(
    no_args_is_help=True, help="Train a model on your data; an interrupted training goes on."
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(group, name="train")


@group.command("predictor")
def train_predictor(
    data: Annotated[
        Path,
        typer.Argument(help="CSV, folder, Parquet, ASE database or extxyz; formulas alone do."),
    ],
    target: Annotated[
        list[str], typer.Option("--target", "-t", help="Column to predict; repeat for more.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="auto, tabular, boosted, cgcnn, cgcnn-reference, transformer, roost, composition.",
        ),
    ] = "auto",
    structures: Structures = None,
    id_column: IdColumn = None,
    auxiliary: Annotated[
        list[str] | None,
        typer.Option("--auxiliary", help="Column to learn along, not to predict; networks only."),
    ] = None,
    members: Annotated[
        int | None, typer.Option("--members", min=1, help="Networks to average.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Passes over the data; default: by size.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Training time at most, all members.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help='Encoder or predictor to start from: a file, "shipped-encoder" or "shipped".',
        ),
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
    """Train a predictor of properties with honest error bars.

    "auto" tries the models that suit the table on inner folds and says which it took and why.
    Rows are divided by a column "split" (train, val, test; without val a tenth of the training
    rows validates) or else by formula, 80/10/10; the scores that are printed are those on the test
    rows, which nothing else sees. Repeat the same command after Ctrl-C or a kill: it goes on where
    it stopped.

    Example: matmill train predictor data.csv --structures cifs/ --target band_gap
    """
    from matmill import registry
    from matmill.data.opening import open_rows
    from matmill.data.parts import check_target, divided
    from matmill.predict.networks import NETWORKS
    from matmill.predict.scores import score_on_test
    from matmill.training.trackers import make_tracker

    path = out or Path(f"{target[0]}.safetensors")
    work = path.with_suffix(".training")
    kind = _network_for_several(model, target, auxiliary, start_from)
    hint = "Repeat the command to go on."
    with progress.resumable(hint), progress.show(quiet=quiet) as on_event:
        only = target[0] if len(target) == 1 else None
        table = open_rows(
            data, structures=structures, target=only, id_column=id_column, on_event=on_event
        )
        for complaint in table.complaints:
            typer.echo(f"Left out: {complaint}", err=True)
        for name in target:
            check_target(table, name)
        options: dict[str, Any] = {}
        if kind in NETWORKS:
            options = _network_options(members, epochs, minutes, devices, pick_device(device))
            options["trackers"] = tuple(
                make_tracker(name, work, run_name=path.stem) for name in tracker or ()
            )
            options |= {"start_from": start_from} if start_from else {}
        if len(target) > 1 or auxiliary:
            model_made = _train_several(
                kind, table, target, auxiliary or (), options, work, seed, on_event
            )
            card, saved = model_made.card, model_made.save(path)
        else:
            table = divided(table, seed=seed)
            predictor = registry.predictors.load(kind).fit(
                table, target[0], folder=work, seed=seed, on_event=on_event, **options
            )
            predictor.card.setdefault("scores", score_on_test(predictor, table))
            card, saved = predictor.card, predictor.save(path)
    choice = (card.get("choice") or {}).get("why", "")
    if json:
        print_json({"weights": saved, "scores": card.get("scores", {}), "choice": choice})
        return
    if choice:
        typer.echo(f"Chosen: {choice}")
    print_table(("property", "test rows", "MAE", "RMSE", "R²", "90 % covered"), _rows(card))
    typer.echo(f"Predictor: {saved} (card: {saved.with_suffix('.json')})")
    typer.echo(f"Use it: matmill predict FILES --model {saved}")


def _network_for_several(
    model: str, targets: list[str], auxiliary: list[str] | None, start_from: str | None
) -> str:
    """Return the model to train; several targets, or a start, take a network.

    Raises:
        InputError: If the model that was named cannot do what was asked.
    """
    from matmill import registry
    from matmill.errors import InputError
    from matmill.predict.networks import NETWORKS

    registry.predictors.load(model)
    reason = (
        "several targets"
        if len(targets) > 1
        else "--auxiliary"
        if auxiliary
        else "--from"
        if start_from
        else ""
    )
    if not reason or model in NETWORKS:
        return model
    if model == "auto":
        return "cgcnn"
    raise InputError(
        f"--model {model} cannot be trained with {reason}. Use one of {', '.join(NETWORKS)}."
    )


def _network_options(
    members: int | None, epochs: int | None, minutes: float | None, devices: int, where: str
) -> dict[str, Any]:
    """Return the settings of a training that were given; the others keep the model's defaults."""
    given = {
        "n_members": members,
        "epochs": epochs,
        "seconds": None if minutes is None else 60.0 * minutes,
        "devices": devices,
        "accelerator": "cpu" if where == "cpu" else "cuda",
    }
    return {name: value for name, value in given.items() if value is not None}


def _train_several(
    kind: str,
    table: "Table",
    targets: list[str],
    auxiliary: "Sequence[str]",
    options: dict[str, Any],
    work: Path,
    seed: int,
    on_event: "OnEvent",
) -> "EnsembleModel":
    """Train one network for several columns."""
    from matmill.predict.train import TrainSettings, train_predictor

    preset = "reference" if kind == "cgcnn-reference" else "tuned"
    apart = {name: options.pop(name) for name in ("trackers", "start_from") if name in options}
    return train_predictor(
        table,
        targets,
        auxiliary=auxiliary,
        settings=TrainSettings(**{"preset": preset, "network": kind, **options}),
        folder=work,
        seed=seed,
        on_event=on_event,
        **apart,
    )


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
        for column, scores in card.get("scores", {}).items()
    ]
