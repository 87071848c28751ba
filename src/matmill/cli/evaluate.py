"""``matmill evaluate`` and ``matmill compare``: scorecards of generated crystals."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import Json, NumberOfWorkers, Quiet, Seed
from matmill.cli.output import print_json, print_table
from matmill.errors import InputError

if TYPE_CHECKING:
    from matmill.crystals.batch import CrystalBatch
    from matmill.progress import OnEvent
    from matmill.verify.judging import Aim
    from matmill.verify.relax import Relaxed, RelaxSettings
    from matmill.verify.scorecard.card import Scorecard
    from matmill.verify.scorecard.subject import Energies

_SHOWN_FAILURES = 10


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("evaluate")(evaluate)
    app.command("compare")(compare)


def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(help="Samples: folders or zips of CIFs, extxyz, Parquet, pymatgen JSON."),
    ],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Training set: novelty, distributions, signatures."),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option("--test", help="Known crystals kept from training: coverage, distributions."),
    ] = None,
    relax: Annotated[
        str, typer.Option("--relax", help="Relax the first N samples, or all; 0 skips energies.")
    ] = "0",
    potentials: Annotated[
        str,
        typer.Option(
            "--potentials", help="Names, by commas; the first decides, several vote on stability."
        ),
    ] = "chgnet",
    hull: Annotated[
        list[Path] | None,
        typer.Option(
            "--hull",
            help="Hull: a table of matmill, or formulas with energies in Parquet, CSV or JSON.",
        ),
    ] = None,
    hull_energy: Annotated[
        str | None, typer.Option("--hull-energy", help="Column with the energies of --hull.")
    ] = None,
    hull_scheme: Annotated[
        str | None,
        typer.Option(
            "--hull-scheme",
            help="mp2020-corrected, mp-raw, tri110-2024, or the potential that computed --hull.",
        ),
    ] = None,
    hull_elements: Annotated[
        Path | None,
        typer.Option(
            "--hull-elements", help="Total energies of the elements, for formation energies."
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="matmill-1, cdvae, diffcsp-csp, mattergen, lemat-genbench or matbench-genmetrics.",
        ),
    ] = "matmill-1",
    n_requested: Annotated[
        int | None,
        typer.Option("--n-requested", min=1, help="Asked of the generator; what lacks failed."),
    ] = None,
    csp: Annotated[
        bool, typer.Option("--csp", help="Sample i was to be test crystal i: match rate, METRe.")
    ] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="Compare predicted formation energies too.")
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help='What the samples were asked for: "band_gap = 2 eV".'),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            "--judge", help="Who else says whether they hit: a property, or a predictor's file."
        ),
    ] = None,
    steering: Annotated[
        list[str] | None,
        typer.Option("--steering", help="What steered or ranked them; the predictor that ships."),
    ] = None,
    unasked: Annotated[
        Path | None,
        typer.Option("--unasked", help="Samples that were asked for nothing: is there an effect?"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for everything, or one .json, .parquet or .html file."
        ),
    ] = None,
    workers: NumberOfWorkers = 0,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge the crystals of any generator: one scorecard with counts, intervals and a protocol.

    Validity, symmetry, uniqueness and novelty always; distributions, novelty against training and
    failure signatures with --reference; coverage with --test; stability, SUN and RMSD with
    --relax, and votes of several --potentials; hits by two independent predictors with --target.
    Every sample gets a status, none is dropped.
    Novelty is judged with the index that ships; with MATMILL_DATA set to a folder of known
    structures, matches are confirmed.

    Example: matmill evaluate samples.zip --reference train.parquet --relax 100 --out scorecard/
    """
    from functools import partial

    from matmill.verify.evaluation import evaluate_files, read_hulls

    hint = "Nothing was written; --relax N relaxes fewer samples."
    with progress.resumable(hint), progress.show(quiet=quiet) as on_event:
        card = evaluate_files(
            files,
            reference=reference,
            test=test,
            hulls=read_hulls(
                hull or [], energy=hull_energy, scheme=hull_scheme, elements=hull_elements
            ),
            potentials=[name.strip() for name in potentials.split(",") if name.strip()],
            energies=_energies() if energy else None,
            aims=_aims(target or [], judge or [], steering or []),
            unasked=unasked,
            protocol=protocol,
            n_relax=_n_relax(relax),
            n_requested=n_requested,
            is_prediction=csp,
            out=out,
            relax_elsewhere=partial(_relax_elsewhere, workers) if workers != 1 else None,
            seed=seed,
            on_event=on_event,
        )
    if json:
        print_json(card.as_dict())
        return
    _print(card)
    if out is not None:
        typer.echo(f"Written to {out}.")


def _relax_elsewhere(
    wanted: int, batch: "CrystalBatch", settings: "RelaxSettings", on_event: "OnEvent"
) -> "Relaxed | None":
    """Relax crystals in worker processes; None where these would not be done earlier."""
    from contextlib import closing

    from matmill.campaign.workers import LocalWorkers
    from matmill.verify.potentials import load_chgnet
    from matmill.verify.relax_workers import n_processes, relax_in_workers

    n = n_processes(wanted, batch)
    if n == 1:
        return None
    # Steps are limited: a part that takes long is large, not stuck.
    with closing(LocalWorkers(n, timeout_s=86_400.0)) as workers:
        return relax_in_workers(
            batch, load_chgnet, settings, workers, n_workers=n, on_event=on_event
        )


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(help="Scorecards: JSON files, or folders that evaluate wrote."),
    ],
    json: Json = False,
    quiet: Quiet = False,  # noqa: ARG001 - nothing to silence: there is no progress
) -> None:
    """Put scorecards side by side, if they were made by the same protocol.

    Numbers of different protocols, reference sets, hulls or library versions are refused: they do
    not mean the same.

    Example: matmill compare flow/scorecard.json random/scorecard.json
    """
    from matmill.verify.scorecard.compare import compare_files

    found = compare_files(files)
    if json:
        print_json(
            {
                "protocol": found.protocol[0],
                "protocol_id": found.protocol[1],
                "names": found.names,
                "counts": found.counts,
                "rows": [
                    {
                        "group": title,
                        "label": label,
                        "numbers": [None if n is None else n.as_dict() for n in numbers],
                    }
                    for title, label, numbers in found.rows
                ],
            }
        )
        return
    rows: list[list[str]] = [
        ["", name, *(f"{counts[name]:,}" for counts in found.counts)] for name in found.counts[0]
    ]
    last = ""
    for title, label, numbers in found.rows:
        cells = []
        for number in numbers:
            shown = None if number is None else number.shown()
            cells.append("–" if shown is None else f"{shown[0]}  [{shown[1]}]")
        rows.append([title if title != last else "", label, *cells])
        last = title
    title = f"Protocol {found.protocol[0]}, id {found.protocol[1]}"
    print_table(["", "metric [95 % interval]", *found.names], rows, title=title)


def _n_relax(text: str) -> int | None:
    if text == "all":
        return None
    if text.isdigit():
        return int(text)
    raise InputError(f"--relax '{text}' is no number of samples. Give one, or all.")


def _energies() -> "tuple[str, Energies]":
    from matmill.predict.protocol import load_predictor

    predictor = load_predictor("formation_energy_per_atom")
    return "formation_energy_per_atom", lambda batch: predictor.predict(batch).mean


def _aims(targets: list[str], judges: list[str], steering: list[str]) -> "list[Aim]":
    from matmill.campaign.aims import aims

    return aims(targets, judges=judges, steering=steering)


def _print(card: "Scorecard") -> None:
    counts = ", ".join(f"{name} {count:,}" for name, count in card.counts.items())
    title = f"{card.name}: {counts}. Protocol {card.basis.protocol.name}, id {card.basis.id}"
    rows, last = [], ""
    for group, numbers in card.groups.items():
        for number in numbers:
            rows.append((group if group != last else "", number.label, *number.shown()))
            last = group
    heads = ["", "metric", "value", "95 % interval", "out of", "per valid"]
    print_table(heads, rows, title=title)
    print_table(["status", "samples"], list(card.statuses.items()))
    failed = [row for row in card.rows if row["status"] != "ok"]
    for row in failed[:_SHOWN_FAILURES]:
        typer.echo(f"{row['name']}: {row['status']}: {row['reason']}", err=True)
    if len(failed) > _SHOWN_FAILURES:
        typer.echo(f"… and {len(failed) - _SHOWN_FAILURES} more; --out has all of them.", err=True)
    if card.signatures:
        verdicts = [
            (
                sign.name,
                "FOUND" if sign.is_found else "not found",
                f"{sign.value:.3g} against {sign.reference:.3g}",
                sign.advice if sign.is_found else "",
            )
            for sign in card.signatures
        ]
        print_table(["signature", "", "measured, known", "advice"], verdicts)
    for line in [*card.basis.protocol.departures, *card.notes]:
        typer.echo(f"Note: {line}.", err=True)
