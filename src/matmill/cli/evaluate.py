"""``matmill evaluate``: one sheet of numbers about a set of generated crystals."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import Json, Out, Quiet, Seed
from matmill.cli.output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("evaluate")(evaluate)


def evaluate(
    files: Annotated[
        list[Path], typer.Argument(help="Structure files or folders: CIF, extxyz, Parquet, …")
    ],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Crystals whose distributions to compare with."),
    ] = None,
    n_relax: Annotated[
        int, typer.Option("--relax", min=0, help="Relax this many of them; 0 skips energies.")
    ] = 0,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge crystals: validity, symmetry, uniqueness, novelty and, if asked, stability.

    Every share is printed with its numerator and denominator. Novelty is judged with the index
    that ships; with MATMILL_DATA set to a folder of known structures, matches are confirmed. With
    --reference the ways in which generators break are looked for as well, with advice.
    Nothing is drawn at random; --seed is there for uniformity.

    Example: matmill evaluate samples.extxyz --reference train.parquet --relax 100
    """
    from matmill.verify.evaluation import PROTOCOL, evaluate_files, signatures_of_files

    del seed  # nothing is drawn
    with progress.show(quiet=quiet) as on_event:
        found, complaints = evaluate_files(
            files, reference=reference, n_relax=n_relax, on_event=on_event
        )
        signs = [] if reference is None else signatures_of_files(files, reference)
    for complaint in complaints:
        typer.echo(f"Left out: {complaint}", err=True)
    report: dict[str, object] = {
        "protocol": PROTOCOL,
        "metrics": [asdict(metric) for metric in found],
    }
    if signs:
        report["signatures"] = [asdict(signature) for signature in signs]
    if out is not None:
        from json import dumps

        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if json:
        print_json(report)
        return
    rows = [(metric.name, *metric.shown()) for metric in found]
    print_table(["metric", "value", "of"], rows, title=f"Protocol {PROTOCOL['name']}")
    if signs:
        verdicts = [
            (
                sign.name,
                "FOUND" if sign.is_found else "not found",
                f"{sign.value:.3g} against {sign.reference:.3g}",
                sign.advice if sign.is_found else "",
            )
            for sign in signs
        ]
        print_table(["signature", "", "measured, known", "advice"], verdicts)
