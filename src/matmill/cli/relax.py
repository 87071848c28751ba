"""``matmill relax``: relax given crystals with the embedded potential, or another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import (
    Json,
    NumberOfWorkers,
    Out,
    PotentialName,
    Quiet,
    Seed,
    Weights,
)
from matmill.cli.output import print_json, print_table
from matmill.errors import InputError

if TYPE_CHECKING:
    from matmill.verify.report import RelaxRow

_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("relax")(relax)


def relax(
    files: Annotated[
        list[Path], typer.Argument(help="Structure files or folders: CIF, POSCAR, extxyz, …")
    ],
    fmax: Annotated[
        float, typer.Option("--fmax", min=1e-4, help="Largest force left on atoms and cell, eV/Å.")
    ] = 0.1,
    max_steps: Annotated[
        int,
        typer.Option("--max-steps", min=0, help="After so many steps a crystal is not converged."),
    ] = 200,
    fixed_cell: Annotated[
        bool, typer.Option("--fixed-cell", help="Move the atoms only, keep every cell.")
    ] = False,
    potential: PotentialName = "chgnet",
    weights: Weights = None,
    optimizer: Annotated[
        str,
        typer.Option("--optimizer", help="lbfgs: fewer steps; fire: as most published tables."),
    ] = "lbfgs",
    give_up: Annotated[
        float | None,
        typer.Option(
            "--give-up",
            min=0,
            help="Stop early on crystals that will not come within so many eV/atom of the hull.",
        ),
    ] = None,
    workers: NumberOfWorkers = 0,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Relax crystals with CHGNet 0.3.0 or another potential, many at once.

    Crystals that did not converge, exploded or collapsed are written too, and say so in the column
    "status". Distances to the hull are those of CHGNet: other potentials have none here.
    Relaxation holds no randomness; --seed is there for uniformity.

    Example: matmill relax cifs/ --fmax 0.05 --out relaxed.extxyz
    """
    from contextlib import closing

    from matmill.campaign.workers import LocalWorkers
    from matmill.verify.relax import RelaxSettings
    from matmill.verify.report import relax_files

    del seed  # nothing is drawn
    if optimizer not in ("lbfgs", "fire"):
        raise InputError(f"--optimizer '{optimizer}' is unknown. Use lbfgs or fire.")
    settings = RelaxSettings(
        fmax=fmax, max_steps=max_steps, relax_cell=not fixed_cell, optimizer=optimizer
    )
    with (
        progress.resumable("Nothing was written; smaller sets of files can be given one by one."),
        progress.show(quiet=quiet) as on_event,
    ):
        rows, complaints = relax_files(
            files,
            settings,
            out=out,
            potential=potential,
            weights=weights,
            n_workers=workers,
            # Steps are limited: a part that takes long is large, not stuck.
            start_workers=lambda n: closing(LocalWorkers(n, timeout_s=86_400.0)),
            give_up_above_ev=give_up,
            on_event=on_event,
        )
    for complaint in complaints:
        typer.echo(f"Left out: {complaint}", err=True)
    if json:
        print_json([row.as_dict() for row in rows])
        return
    _print(rows, out)


def _print(rows: "list[RelaxRow]", out: Path | None) -> None:
    columns = ["id", "formula", "status", "steps", "eV/atom", "drop", "above hull", "volume"]
    cells = [
        (
            row.id,
            row.formula,
            row.status,
            row.steps,
            row.energy_ev_per_atom,
            row.energy_drop_ev_per_atom,
            row.energy_above_hull_ev_per_atom,
            f"{100 * (row.volume_ratio - 1):+.1f} %",
        )
        for row in rows[:_SHOWN]
    ]
    print_table(columns, cells)
    if len(rows) > _SHOWN:
        typer.echo(f"… and {len(rows) - _SHOWN} more; --json or --out has all of them.")
    n_good = sum(row.status == "converged" for row in rows)
    if rows:
        hull = rows[0].hull_name or f"none of {rows[0].potential_name}"
        typer.echo(f"{n_good} of {len(rows)} converged. Hull: {hull}")
    if out is not None:
        typer.echo(f"Written to {out}.")
