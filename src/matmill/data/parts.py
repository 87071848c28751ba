"""Which rows train, validate and test: a text column "split", the same for every model."""

from dataclasses import replace

import torch
from torch import Tensor

from matmill.data.compositions import Table
from matmill.data.splits import PARTS, split
from matmill.errors import DataError
from matmill.randomness import child_seed

COLUMN = "split"
LEAST_ROWS = 10  # a tenth of them must be a row


def divided(table: Table, *, seed: int = 0) -> Table:
    """Return the table with a part for each row: those it has, else 80/10/10 by formula.

    Raises:
        DataError: If there are too few rows, or formulas, for three parts.
    """
    notes = table.notes.get(COLUMN)
    if notes is not None and "train" in notes:
        return table
    if len(table) < LEAST_ROWS:
        raise DataError(
            f"{table.source or 'The table'} has {len(table)} usable row(s); at least "
            f"{LEAST_ROWS} are needed to train, validate and test."
        )
    found = split(table, "formula", seed=child_seed(seed, "split"))
    names = [""] * len(table)
    for part, rows in found.parts.items():
        for row in rows.tolist():
            names[row] = part
    return replace(table, notes={**table.notes, COLUMN: tuple(names)})


def check_target(table: Table, target: str) -> None:
    """Check that a column can be learned, before anything is trained or written.

    Raises:
        DataError: If fewer than ten rows have a value, or all values are alike.
    """
    column = table.column_name(target)
    values = table.column(column)
    known = values[torch.isfinite(values)]
    where = table.source or "the table"
    if len(known) < LEAST_ROWS:
        raise DataError(
            f"Only {len(known)} of {len(table)} rows of {where} have a value of '{column}'; at "
            f"least {LEAST_ROWS} are needed."
        )
    if float(known.min()) == float(known.max()):
        raise DataError(
            f"The {len(known)} values of '{column}' of {where} are all alike "
            f"({float(known[0]):g}): nothing can be learned from one value or one class."
        )


def rows_of(table: Table) -> dict[str, Tensor]:
    """Return the row numbers of each part; a table without the column is all training rows."""
    notes = table.notes.get(COLUMN)
    if notes is None:
        everything = torch.arange(len(table))
        return {"train": everything, "val": everything[:0], "test": everything[:0]}
    return {
        part: torch.tensor([i for i, note in enumerate(notes) if note == part]).long()
        for part in PARTS
    }
