"""``matmill plugins``: everything that can be chosen by name, built-in and installed."""

import typer

from matmill.cli.options import Json
from matmill.cli.output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("plugins")(plugins)


def plugins(json: Json = False) -> None:
    """List predictors, generators and potentials by name, and where each comes from.

    Outside packages add theirs by entry points such as "matmill.generators".

    Example: matmill plugins --json
    """
    from importlib.metadata import entry_points

    from matmill import registry

    rows = []
    for known in (registry.predictors, registry.generators, registry.potentials):
        packages = {
            point.name: point.dist.name if point.dist else "installed"
            for point in entry_points(group=f"matmill.{known.kind}s")
        }
        for name in known.names():
            origin = "matmill" if name in known.targets else packages.get(name, "installed")
            rows.append({"kind": known.kind, "name": name, "from": origin})
    if json:
        print_json(rows)
    else:
        print_table(("kind", "name", "from"), [tuple(row.values()) for row in rows])
