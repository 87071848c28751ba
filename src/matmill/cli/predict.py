"""``matmill predict``: properties of given crystals, with error bars."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matmill.cli import progress
from matmill.cli.options import Device, Json, Out, Quiet, Seed, pick_device
from matmill.cli.output import print_json, print_table

if TYPE_CHECKING:
    from matmill.predict.report import Report

_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("predict")(predict)


def predict(
    files: Annotated[
        list[Path], typer.Argument(help="Structure files or folders: CIF, POSCAR, extxyz, …")
    ],
    properties: Annotated[
        list[str] | None,
        typer.Option("--property", "-p", help="e.g. band_gap; repeat for more. Default: all."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="A predictor of your own (.safetensors).")
    ] = None,
    coverage: Annotated[
        float, typer.Option("--coverage", help="Share of true values the intervals should hold.")
    ] = 0.9,
    shifted: Annotated[
        bool,
        typer.Option(
            "--shifted",
            help="Intervals for crystals of another kind than the training data: generated ones.",
        ),
    ] = False,
    by_family: Annotated[
        bool,
        typer.Option(
            "--by-family", help="Intervals that hold within oxides, halides, intermetallics, …"
        ),
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Predict properties of crystals, each with its standard deviation and interval.

    Files that cannot be read are reported and left out. The interval holds the true value with the
    given coverage on crystals like those of training; "in domain" says whether a crystal is one,
    and why not. With --shifted, calibration crystals count the more, the more they are like those
    given; where too few are, the table says "no guarantee".
    Predictions hold no randomness; --seed is there for uniformity.

    Example: matmill predict cifs/ --property band_gap --property bulk_modulus --out table.csv
    """
    from matmill.errors import InputError
    from matmill.predict.report import predict_files

    if shifted and by_family:
        raise InputError("Give --shifted or --by-family, not both.")
    del seed  # nothing is drawn
    with progress.show(quiet=quiet) as on_event:
        report = predict_files(
            files,
            properties or (),
            model=model,
            coverage=coverage,
            intervals="shifted" if shifted else "family" if by_family else "split",
            device=pick_device(device),
            on_event=on_event,
        )
    for complaint in report.complaints:
        typer.echo(f"Left out: {complaint}", err=True)
    if out is not None:
        report.write(out)
    if json:
        print_json(_as_json(report))
        return
    _print(report)
    if out is not None:
        typer.echo(f"{len(report.rows)} rows written to {out}")


def _print(report: "Report") -> None:
    headings = ["id", "formula"]
    for column in report.columns:
        headings += [column.title, f"{report.coverage:.0%} interval"]
    headings.append("in domain")
    rows = []
    for row in report.rows[:_SHOWN]:
        cells: list[object] = [row["id"], row["formula"]]
        for column in report.columns:
            mean, std = row[column.column], row[f"{column.column}_std"]
            low, high = row[f"{column.column}_low"], row[f"{column.column}_high"]
            digits = 1 if column.high >= 500 else 2
            if column.exact:
                cells += [f"{mean:.3g}" if mean < 1000 else f"{mean:.0f}", "exact"]
                continue
            cells.append(f"{mean:.{digits}f} ± {std:.{digits}f}")
            cells.append(_interval(low, high, digits))
        reasons = dict.fromkeys(row[f"{c.column}_reason"] for c in report.columns)
        is_known = all(row[f"{column.column}_in_domain"] for column in report.columns)
        rows.append([*cells, "yes" if is_known else f"no: {'; '.join(filter(None, reasons))}"])
    print_table(headings, rows)
    hidden = len(report.rows) - _SHOWN
    if hidden > 0:
        typer.echo(f"… and {hidden} more; use --out table.csv or --json for all.")
    for column in report.columns:
        kinds = {row[f"{column.column}_interval"] for row in report.rows} - {"", "conformal"}
        sizes = [row[f"{column.column}_effective_size"] for row in report.rows]
        if kinds and None not in sizes:
            least = min(sizes)
            typer.echo(
                f"{column.title}: {' / '.join(sorted(kinds))} intervals, from at least "
                f"{least:.0f} (effective) calibration crystals."
            )


def _interval(low: float, high: float, digits: int) -> str:
    if math.isinf(low) or math.isinf(high):
        return "no bounds"
    return f"{low:.{digits}f} – {high:.{digits}f}"


def _as_json(report: "Report") -> dict[str, Any]:
    return {
        "coverage": report.coverage,
        "models": report.models,
        "predictions": report.rows,
        "left_out": [str(complaint) for complaint in report.complaints],
    }
