"""``matmill data``: list and get public data sets, look into a table, reduce and divide it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matmill.cli import progress
from matmill.cli.options import IdColumn, Json, Out, Quiet, Seed, Structures
from matmill.cli.output import print_json, print_table

if TYPE_CHECKING:
    from matmill.data.redundancy.report import LeakReport
    from matmill.data.summary import Summary

_BAR = 40  # characters of the longest bar
_MOST_ELEMENTS = 15

group = typer.Typer(
    no_args_is_help=True, help="Public data sets, and a look into your own, before training."
)
Table = Annotated[
    Path,
    typer.Argument(help="CSV of labels, folder, Parquet, ASE database, CIF or any structure file."),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Column to predict; a short name will do.")
]
By = Annotated[
    str, typer.Option("--by", help="What near-copies are alike in: composition or structure.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Nearer than this is a near-copy; a usual one by default."),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="mendeleev, pettifor, electronegativity, radius, atomic or facts by composition; "
        "xrd or ofm by structure.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(group, name="data")


@group.command("list")
def list_sources(json: Json = False) -> None:
    """List the public data sets that "matmill data get" can fetch.

    Example: matmill data list
    """
    from dataclasses import asdict

    from matmill.data.catalogue import CATALOGUE, OPTIMADE_PROVIDERS

    if json:
        print_json(
            {
                "sources": [asdict(source) for source in CATALOGUE.values()],
                "optimade_providers": OPTIMADE_PROVIDERS,
            }
        )
        return
    print_table(
        ("name", "crystals", "what", "licence"),
        [(s.name, s.rows, s.what, s.licence) for s in CATALOGUE.values()],
    )
    names = ", ".join(OPTIMADE_PROVIDERS)
    typer.echo(f"And any OPTIMADE database: optimade:NAME ({names}) or optimade:https://…")


@group.command("get")
def get_source(
    name: Annotated[str, typer.Argument(help='Name from "matmill data list", or optimade:….')],
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="Filter of a database, e.g. chemsys=Ga-N; repeat for more."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most crystals.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Of the Materials Project; else MP_API_KEY.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore what was kept before.")] = False,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a data set, check it and write it as a table.

    Downloads are kept in MATMILL_CACHE and go on where they stopped.

    Example: matmill data get matbench_jdft2d --out jdft2d.parquet
    """
    from matmill.data.catalogue import find_source
    from matmill.data.sources import Request, get

    source = find_source(name)
    request = Request(query=_pairs(query or []), limit=limit, key=key, is_fresh=fresh)
    with (
        progress.resumable("Run the same command to go on."),
        progress.show(quiet=quiet) as on_event,
    ):
        table = get(source, request, on_event=on_event)
    path = out or Path(f"{''.join(c if c.isalnum() or c in '._-' else '_' for c in name)}.parquet")
    table.save(path)
    facts = {
        "name": name,
        "file": str(path),
        "crystals": len(table),
        "columns": table.columns,
        "left_out": len(table.complaints),
        "hash": table.hash,
        "licence": source.licence,
        "citation": source.citation,
    }
    if json:
        print_json(facts)
        return
    print_table(("", name), [(label, _text(value)) for label, value in facts.items()][1:])


@group.command("show")
def show_table(
    path: Table,
    structures: Structures = None,
    target: Target = None,
    id_column: IdColumn = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what is in a table: columns, units, gaps, sizes, splits, and what looks wrong.

    Example: matmill data show labels.csv --structures cifs/ --target band_gap
    """
    from matmill.data.summary import summarise
    from matmill.data.table import open_table

    with progress.show(quiet=quiet) as on_event:
        table = open_table(path, structures=structures, id_column=id_column, on_event=on_event)
        summary = summarise(table, target)
    if json:
        print_json(summary.as_dict())
    else:
        _print_summary(summary)


@group.command("reduce")
def reduce_table(
    path: Table,
    by: By = "composition",
    threshold: Threshold = None,
    metric: Metric = None,
    first: Annotated[
        str | None, typer.Option("--first", help="Id or formula of the row to keep first.")
    ] = None,
    max_atoms: Annotated[
        int | None, typer.Option("--max-atoms", min=1, help="Leave out larger rows.")
    ] = None,
    structures: Structures = None,
    id_column: IdColumn = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Drop near-copies: keep rows that are further apart than the threshold.

    Example: matmill data reduce mine.parquet --by composition --threshold 1.0 --out kept.parquet
    """
    from matmill.data.opening import open_rows
    from matmill.data.redundancy.metrics import METRICS
    from matmill.data.redundancy.reduce import reduce

    file = out or path.with_name(f"{path.stem}.kept.parquet")
    with progress.show(quiet=quiet) as on_event:
        table = open_rows(path, structures=structures, id_column=id_column, on_event=on_event)
        reduced = reduce(
            table, by, threshold, metric, first=first, max_atoms=max_atoms, on_event=on_event
        )
        table.select(reduced.keep).save(file)
    sizes = reduced.sizes
    facts = {
        "file": str(file),
        **reduced.settings,
        "unit": METRICS[reduced.settings["metric"]].what,
        "rows": len(table),
        "kept": len(reduced),
        "kept_share": len(reduced) / len(table),
        "alone": int((sizes == 1).sum()),
        "largest_cluster": int(sizes.max()),
    }
    if json:
        print_json(facts)
        return
    print_table(("", "reduced"), [(label, _text(value)) for label, value in facts.items()])


@group.command("split")
def split_table(
    path: Table,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="random, matbench, formula, element, prototype, redundancy or cluster.",
        ),
    ] = "random",
    fractions: Annotated[
        str, typer.Option("--fractions", help="Of train, validation and test.")
    ] = "0.8,0.1,0.1",
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Cross-validation with so many folds.")
    ] = None,
    fold: Annotated[int, typer.Option("--fold", min=0, help="Fold to test on, from 0.")] = 0,
    hold_out: Annotated[
        str | None, typer.Option("--hold-out", help="Elements to test on, e.g. F,Cl.")
    ] = None,
    by: By = "composition",
    threshold: Threshold = None,
    metric: Metric = None,
    dropped: Annotated[
        str,
        typer.Option(
            "--dropped", help="Near-copies of a redundancy split: out, or with_kept neighbours."
        ),
    ] = "out",
    leaks: Annotated[
        bool,
        typer.Option(
            "--leaks/--no-leaks",
            help="Report how near test rows are to training; always for redundancy and cluster.",
        ),
    ] = False,
    structures: Structures = None,
    target: Target = None,
    id_column: IdColumn = None,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Divide a table into train, validation and test and write the rows as JSON.

    Example: matmill data split mine.parquet --kind cluster --by composition --out split.json
    """
    from typing import Literal, cast

    from matmill.crystals.composition import parse_elements
    from matmill.data.compositions import items
    from matmill.data.opening import open_rows
    from matmill.data.redundancy.report import report
    from matmill.data.splits import Kind, shared_groups, split

    shares = _fractions(fractions)
    found = None
    with progress.show(quiet=quiet) as on_event:
        table = open_rows(path, structures=structures, id_column=id_column, on_event=on_event)
        division = split(
            table,
            cast("Kind", kind),
            seed=seed,
            fractions=shares,
            n_folds=folds,
            fold=fold,
            target=target,
            elements=parse_elements(hold_out) if hold_out else (),
            by=by,
            threshold=threshold,
            metric=metric,
            dropped=cast("Literal['out', 'with_kept']", dropped),
        )
        if (leaks or kind in {"redundancy", "cluster"}) and len(division.test):
            found = report(
                table.select(division.train),
                table.select(division.test),
                by=by,
                metric=metric,
                threshold=threshold,
                on_event=on_event,
            )
    file = out or path.with_name(f"{path.stem}.{kind}.split.json")
    division.save(file)
    facts = {
        "file": str(file),
        "kind": kind,
        **{part: len(rows) for part, rows in division.parts.items()},
        "formulas_in_train_and_test": shared_groups(items(table).formula, division),
        "settings": division.settings,
        "hash": division.hash,
    }
    if json:
        print_json(facts if found is None else facts | {"leaks": found.as_dict()})
        return
    print_table(("", "split"), [(label, _text(value)) for label, value in facts.items()])
    if found is not None:
        _print_leaks(found)


def _print_leaks(found: "LeakReport") -> None:
    rows: list[tuple[str, object]] = [
        ("distance", found.unit),
        ("test rows within the threshold of training", f"{found.near_share:.1%}"),
        ("test rows whose formula is in training", found.known_formulas),
        ("formulas on both sides", found.shared_formulas),
        ("test rows whose prototype is in training", found.known_prototypes),
        ("prototypes on both sides", found.shared_prototypes),
        ("median distance to training", found.quantiles["0.5"]),
    ]
    print_table(("", f"leaks at threshold {found.threshold:g}"), rows)
    most = max((n for _, _, n in found.histogram), default=1) or 1
    print_table(
        ("distance to the nearest training row", "test rows", ""),
        [(_range(low, high), n, "█" * round(_BAR * n / most)) for low, high, n in found.histogram],
    )


def _range(low: float, high: float) -> str:
    if high == low:
        return f"{low:g}"
    return f"above {low:g}" if high == float("inf") else f"{low:g} to {high:g}"


def _print_summary(summary: "Summary") -> None:
    typer.echo(
        f"{summary.source}: {summary.n_crystals} crystals, {summary.n_atoms_total} atoms, "
        f"{summary.n_formulas} formulas, {summary.n_elements} elements, hash {summary.hash}"
    )
    print_table(
        ("column", "unit", "known", "missing", "lowest", "median", "highest"),
        [
            (c.name, c.unit, c.known, f"{c.missing_share:.1%}", c.low, c.median, c.high)
            for c in summary.columns
        ],
    )
    most = max(summary.sizes.values(), default=1)
    print_table(
        ("atoms in the cell", "crystals", ""),
        [(name, n, "█" * round(_BAR * n / most)) for name, n in summary.sizes.items()],
    )
    common = list(summary.elements.items())[:_MOST_ELEMENTS]
    typer.echo("Most common elements: " + ", ".join(f"{name} {n}" for name, n in common))
    for name, parts in summary.splits.items():
        typer.echo(f"{name}: " + ", ".join(f"{part} {n}" for part, n in parts.items()))
    for line in (*map(str, summary.findings), *summary.complaints[:_MOST_ELEMENTS]):
        typer.echo(line)
    if not summary.findings and not summary.complaints:
        typer.echo("The checks found nothing.")


def _pairs(texts: list[str]) -> dict[str, str]:
    from matmill.errors import InputError

    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--query '{text}' is not of the form name=value.")
        pairs[name] = value
    return pairs


def _fractions(text: str) -> tuple[float, float, float]:
    from matmill.errors import InputError

    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--fractions '{text}' is not three numbers, like 0.8,0.1,0.1.") from None
    return train, val, test


def _text(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
