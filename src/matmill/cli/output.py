"""What commands print: tables for people, JSON for programs, both on standard output."""

import json
import math
from collections.abc import Sequence
from typing import Any

import typer


def print_json(value: Any) -> None:  # noqa: ANN401 - anything that JSON can hold
    """Print ``value`` as JSON; NaN and infinities become null, paths and others their text."""
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = ""
) -> None:
    """Print a table; numbers are aligned to the right.

    Args:
        columns: Headings.
        rows: One sequence of cells a row; None and NaN are shown as a dash.
        title: Shown above.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # Rich assumes 80 columns for a pipe and would cut cells there.
        console = Console(width=200)
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for position, name in enumerate(columns):
        cells = [row[position] for row in rows]
        is_number = any(isinstance(cell, int | float) for cell in cells)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(cell_text(cell) for cell in row))
    console.print(table)


def cell_text(cell: object) -> str:
    """Return a table cell as text: three significant decimals, a dash for nothing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) < 100 else f"{cell:.1f}"
    return str(cell)


def plain(value: Any) -> Any:  # noqa: ANN401 - walks any JSON-like value
    """Return the value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
