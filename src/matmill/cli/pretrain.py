"""``matmill pretrain``: an encoder from crystals without the property that is wanted."""

from pathlib import Path
from typing import Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import Device, Json, Quiet, Seed, Structures, pick_device
from matmill.cli.output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(pretrain)


def pretrain(
    data: Annotated[
        Path, typer.Argument(help="Parquet, folder, ASE database, extxyz, … of crystals.")
    ],
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            help="simclr, barlow, supervised-simclr, supervised-barlow or multi-task.",
        ),
    ] = "supervised-barlow",
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            "--surrogate",
            help="metal (default), magnetic, gap-type, gap-class or crystal-system; "
            "repeat for multi-task.",
        ),
    ] = None,
    structures: Structures = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data.")] = 15,
    batch: Annotated[
        int, typer.Option("--batch", min=2, help="Crystals in a batch; two views of each.")
    ] = 256,
    delta: Annotated[
        float, typer.Option("--delta", min=0.0, help="Largest noise on a distance, in Å (GNDN).")
    ] = 0.5,
    no_gndn: Annotated[
        bool, typer.Option("--no-gndn", help="No noise on distances; as --delta 0.")
    ] = False,
    atom_mask: Annotated[
        float, typer.Option("--atom-mask", min=0.0, max=0.99, help="Share of masked atoms.")
    ] = 0.1,
    edge_mask: Annotated[
        float, typer.Option("--edge-mask", min=0.0, max=0.99, help="Share of masked edges.")
    ] = 0.1,
    unsupervised_share: Annotated[
        float,
        typer.Option("--unsupervised-share", min=0.0, help="Mixed into supervised objectives."),
    ] = 0.3,
    network: Annotated[str, typer.Option("--network", help="cgcnn or transformer.")] = "cgcnn",
    wrong_labels: Annotated[
        float,
        typer.Option("--wrong-labels", min=0.0, max=1.0, help="Share to replace by wrong ones."),
    ] = 0.0,
    random_labels: Annotated[
        bool, typer.Option("--random-labels", help="Deal the labels out at random: a control.")
    ] = False,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=1e-9, help="Peak rate.")
    ] = 1e-3,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Encoder to write; its folder resumes.")
    ] = Path("encoder.safetensors"),
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Pretrain an encoder; "train predictor --from" starts from it.

    The progress line shows whether features collapse: their effective rank, their spread, and
    how well neighbours tell the class. Repeat the same command after Ctrl-C: it goes on.

    Example: matmill pretrain crystals.parquet --objective supervised-barlow --surrogate metal
    """
    from matmill.data.table import open_table
    from matmill.predict.pretrain.train import PretrainSettings
    from matmill.predict.pretrain.train import pretrain as run

    settings = PretrainSettings(
        objective=objective,
        surrogates=tuple(surrogate or ("metal",)),
        epochs=epochs,
        batch=batch,
        delta=0.0 if no_gndn else delta,
        atom_mask=atom_mask,
        edge_mask=edge_mask,
        unsupervised_share=unsupervised_share,
        network=network,
        wrong_labels=wrong_labels,
        random_labels=random_labels,
        learning_rate=learning_rate,
        accelerator="cpu" if pick_device(device) == "cpu" else "cuda",
    )
    work = out.with_suffix(".training")
    hint = "Repeat the command to go on."
    with progress.resumable(hint), progress.show(quiet=quiet) as on_event:
        table = open_table(data, structures=structures, on_event=on_event)
        for complaint in table.complaints:
            typer.echo(f"Left out: {complaint}", err=True)
        found = run(table, settings=settings, folder=work, seed=seed, on_event=on_event)
        path = found.save(out)
    training = found.card["training"]
    if json:
        print_json({"encoder": path, **training, "surrogates": found.card["surrogates"]})
        return
    health = training["health"] or {}
    columns = ("crystals", "steps", "minutes", "effective rank", "spread", "class separation")
    row = (
        found.card["data"]["n_crystals"],
        training["steps"],
        training["seconds"] / 60,
        health.get("rank"),
        health.get("spread"),
        health.get("separation"),
    )
    print_table(columns, [row], title=f"{objective} on {data.name}")
    typer.echo(f"Encoder: {path} (card: {path.with_suffix('.json')})")
    typer.echo(f"Use it: matmill train predictor DATA --target COLUMN --from {path}")
