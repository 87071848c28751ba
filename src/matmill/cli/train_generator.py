"""``matmill train generator``: a flow or a Con-CDVAE on the user's own crystals."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from matmill.cli import progress
from matmill.cli.options import Device, Json, Quiet, pick_device
from matmill.cli.output import print_json


def register(app: typer.Typer) -> None:
    """Add the command to the ``train`` group."""
    del app  # the group is in the program already
    from matmill.cli.train import group

    group.command("generator")(train_generator)


def train_generator(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DATA|CONFIG.toml",
            help="Parquet, folder, ASE database, extxyz, … of crystals; a folder of Parquet files "
            "may be larger than memory. Or a TOML file that names the data and all settings.",
        ),
    ],
    family: Annotated[
        str, typer.Option("--family", help="flow, or concdvae; cdvae is that without conditions.")
    ] = "flow",
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition", "-c", help="concdvae: column that can be asked for; repeat for more."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="tiny, S, M or L.", show_default="S")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0,
            help="Training time over all sittings.",
            show_default="120 of a flow",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=0, help="Optimiser steps; default: no limit.")
    ] = None,
    max_atoms: Annotated[
        int | None,
        typer.Option(
            "--max-atoms", min=1, max=64, help="Largest primitive cell.", show_default="20"
        ),
    ] = None,
    n_tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=2, help="Atoms plus cells in a batch.", show_default="1660"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", show_default="0.001")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="Checkpoint whose weights to start from.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Rows whose split column says this.", show_default="train"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the run; the same one resumes it.",
            show_default="work/generator",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices", min=1, help="GPUs, or processes on a CPU; over one: DDP.", show_default="1"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Same seed: same result.", show_default="0"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Train a generator, or continue an interrupted training.

    Columns such as band_gap_ev become conditions. From time to time the weights are scored by
    samples; the best are kept. Flags win over the TOML file; recipe.toml in the folder of the run
    has every setting. Example: matmill train generator mine.parquet --minutes 60

    Con-CDVAE learns from a few hundred crystals in minutes, and passes on what it knows: matmill
    train generator mine.parquet --family concdvae --condition band_gap_ev --from concdvae
    """
    from matmill.errors import InputError

    if family != "flow":
        _train_cdvae(
            source,
            family=family,
            size=size,
            n_tokens=n_tokens,
            changes={
                "conditions": condition or None,
                "max_atoms": max_atoms,
                "start_from": str(start_from) if start_from else None,
                "split": split,
                "out": str(out) if out else None,
                "seed": seed,
                "fit.max_seconds": None if minutes is None else 60 * minutes,
                "fit.max_steps": steps,
                "fit.learning_rate": learning_rate,
                "fit.devices": devices,
                "fit.accelerator": "cpu" if pick_device(device) == "cpu" else "cuda",
            },
            json=json,
            quiet=quiet,
        )
        return
    if condition:
        raise InputError(
            "A flow takes every column that it knows as a condition; --condition is of "
            "--family concdvae. Another property of a flow: matmill finetune generator."
        )
    from matmill.generate.recipe import RESOLVED, follow, make_recipe

    is_toml = source.suffix.lower() == ".toml"
    accelerator = "cpu" if pick_device(device) == "cpu" else "cuda"
    if is_toml and device == "auto":
        accelerator = None  # the file may say
    changes = {
        "data": None if is_toml else str(source),
        "size": size,
        "max_atoms": max_atoms,
        "n_tokens": n_tokens,
        "start_from": str(start_from) if start_from else None,
        "split": split,
        "out": str(out) if out else None,
        "seed": seed,
        "fit.max_seconds": None if minutes is None else 60 * minutes,
        "fit.max_steps": steps,
        "fit.learning_rate": learning_rate,
        "fit.devices": devices,
        "fit.accelerator": accelerator,
    }
    recipe = make_recipe(source if is_toml else None, changes)
    # Lightning starts the other processes of a training with this same command.
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    with (
        progress.show(quiet=quiet or not is_first) as on_event,
        progress.resumable("The same command continues this training."),
    ):
        result = follow(recipe, on_event=on_event)
    if not result.is_chief:
        return
    summary = {
        "steps": result.step,
        "epochs": result.epoch,
        "seconds": round(result.seconds),
        "ended_by": result.reason,
        "sample_score": result.best_score,
        "sample_score_step": result.best_step,
        "checkpoint": recipe.out / "generator.safetensors",
        "recipe": recipe.out / RESOLVED,
    }
    if json:
        print_json(summary)
        return
    score = "" if result.best_score is None else f", sample score {result.best_score:.3f}"
    typer.echo(
        f"{result.step} steps, {result.epoch} epochs in {result.seconds / 60:.1f} min "
        f"({result.reason}{score}). Use it: matmill generate --model {summary['checkpoint']}"
    )


def _train_cdvae(
    source: Path,
    *,
    family: str,
    size: str | None,
    n_tokens: int | None,
    changes: dict[str, Any],
    json: bool,
    quiet: bool,
) -> None:
    from matmill.errors import InputError, UnknownNameError
    from matmill.generate.cdvae.recipe import CdvaeRecipe, follow
    from matmill.generate.recipe import RESOLVED, make_recipe

    if family not in ("cdvae", "concdvae"):
        raise UnknownNameError("family of generators", family, ["flow", "cdvae", "concdvae"])
    if family == "cdvae" and changes["conditions"]:
        raise InputError("cdvae has no conditions; with --condition it is --family concdvae.")
    if size is not None or n_tokens is not None:
        raise InputError(
            "--size and --tokens are of flows; a CDVAE has [size] and batch_size in a TOML file."
        )
    is_toml = source.suffix.lower() == ".toml"
    if not is_toml:
        changes = {"data": str(source), **changes}
    recipe = make_recipe(source if is_toml else None, changes, CdvaeRecipe)
    if family == "concdvae" and not recipe.conditions:
        raise InputError("concdvae needs --condition COLUMN; without any it is --family cdvae.")
    with (
        progress.show(quiet=quiet) as on_event,
        progress.resumable("The same command continues this training."),
    ):
        made = follow(recipe, on_event=on_event)
    parts = made.card["training"]
    both = [parts[name] for name in ("autoencoder", "prior") if name in parts]
    summary = {
        "steps": both[0]["steps"],
        "prior_steps": sum(part["steps"] for part in both[1:]),
        "seconds": sum(part["seconds"] for part in both),
        "ended_by": both[0]["ended_by"],
        "conditions": made.card["conditions"],
        "crystals": made.card["data"]["crystals_used"],
        "checkpoint": recipe.out / "generator.safetensors",
        "recipe": recipe.out / RESOLVED,
    }
    if json:
        print_json(summary)
        return
    typer.echo(
        f"{summary['steps']} steps on {summary['crystals']} crystals, {summary['prior_steps']} of "
        f"the prior, in {summary['seconds'] / 60:.1f} min. "
        f"Use it: matmill generate --model {summary['checkpoint']}"
    )
