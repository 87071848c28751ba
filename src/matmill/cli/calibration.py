"""``matmill calibration``: are the error bars of a predictor honest on given data?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import Device, IdColumn, Json, Out, Quiet, Seed, Structures, pick_device
from matmill.cli.output import plain, print_json, print_table

if TYPE_CHECKING:
    from matmill.data.compositions import Table


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("calibration")(calibration)


def calibration(
    model: Annotated[
        str, typer.Argument(help="A predictor (.safetensors), or a property for the shipped one.")
    ],
    data: Annotated[
        Path, typer.Argument(help="Labelled crystals that it did not train on; as for train.")
    ],
    target: Annotated[
        str, typer.Option("--target", "-t", help="Column of the data with the true values.")
    ],
    structures: Structures = None,
    id_column: IdColumn = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            help='Only rows whose column "split" says this, or "all". Default: test, if there is '
            "such a column.",
        ),
    ] = None,
    shifted: Annotated[
        bool, typer.Option("--shifted", help="Judge intervals for shifted crystals; see predict.")
    ] = False,
    by_family: Annotated[
        bool, typer.Option("--by-family", help="Judge intervals within families; see predict.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
) -> None:
    """Compare error bars with true errors: coverage, width, sharpness, and whether σ ranks errors.

    --out report.html writes tables and charts, --out report.json the figures. Use rows that the
    predictor did not train on, or the verdict is worth nothing. Nothing is drawn at random; --seed
    is there for uniformity.

    Example: matmill calibration gap.safetensors data.parquet --target band_gap --out report.html
    """
    from json import dumps

    from matmill.data.opening import open_rows
    from matmill.errors import InputError
    from matmill.predict.calibration_page import coverage_rows, fact_rows, family_rows, write_page
    from matmill.predict.protocol import kinds_of, load_predictor
    from matmill.predict.scores import outcome_of, scores_of
    from matmill.training.checkpoint import write_atomically

    del seed  # nothing is drawn
    kind = _kind(shifted=shifted, by_family=by_family)
    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise InputError(f"Cannot write '{out}': use .html or .json.")
    predictor = load_predictor(model, column=_column_of(model, target))
    if kind != "split" and kind not in kinds_of(predictor):
        raise InputError(
            f"{model} cannot give intervals of this kind: it was saved without calibration rows. "
            "Train it again, or leave out --shifted and --by-family."
        )
    move = getattr(predictor, "to", None)
    if move is not None:
        move(pick_device(device))
    with progress.show(quiet=quiet) as on_event:
        table = open_rows(
            data, structures=structures, target=target, id_column=id_column, on_event=on_event
        )
        for complaint in table.complaints:
            typer.echo(f"Left out: {complaint}", err=True)
        chosen, which = _rows(table, rows)
        outcome = outcome_of(predictor, chosen, target, intervals=kind)
    scores = scores_of(outcome)
    name = {"split": "conformal", "family": "within-family", "shifted": "weighted"}[kind]
    where = f"{data.name}{which}"
    report = {"model": model, "data": str(data), "rows": which.strip(" ()"), "intervals": name}
    report |= {"column": outcome.column, "scores": scores}
    if out is not None and out.suffix.lower() == ".html":
        write_page(out, outcome, scores, model=Path(model).name, table=where, kind=name)
    elif out is not None:
        write_atomically(out, (dumps(plain(report), indent=2) + "\n").encode())
    if json:
        print_json(report)
        return
    title = f"{Path(model).name} on {scores['n_test']:,} rows of {where}, {name} intervals"
    print_table(("wanted", "found", "mean width", "verdict"), coverage_rows(scores), title=title)
    if scores["covered_by_family"]:
        print_table(("family", "rows", "in 90 % intervals"), family_rows(scores))
    print_table(("score", "value", "meaning"), fact_rows(scores, is_log=outcome.is_log))
    if out is not None:
        typer.echo(f"Report: {out}")


def _kind(*, shifted: bool, by_family: bool) -> str:
    from matmill.errors import InputError

    if shifted and by_family:
        raise InputError("Give --shifted or --by-family, not both.")
    return "shifted" if shifted else "family" if by_family else "split"


def _column_of(model: str, target: str) -> str | None:
    """Return which property of a file to judge: the target where the file predicts several."""
    from matmill.training.checkpoint import card_path

    card = card_path(model)
    if not card.exists():
        return None
    from json import loads

    columns = loads(card.read_text(encoding="utf-8")).get("columns") or []
    return target if len(columns) > 1 else None


def _rows(table: "Table", wanted: str | None) -> "tuple[Table, str]":
    """Return the rows to judge and a word about which they are."""
    import torch

    from matmill.errors import InputError

    notes = table.notes.get("split")
    if wanted is None:
        wanted = "test" if notes is not None and "test" in notes else "all"
    if wanted == "all":
        return table, ""
    found = sorted({note for note in notes or () if note})
    if wanted not in found:
        known = f"It says: {', '.join(found)}." if found else "There is no such column."
        raise InputError(f"No row has '{wanted}' in a column \"split\". {known} Or use --rows all.")
    mask = torch.tensor([note == wanted for note in notes or ()])
    return table.select(mask), f" ({wanted} rows)"
