"""Which rows train, validate and test: a text column "split", the same for every model."""

from dataclasses import replace

import torch
from torch import Tensor

from matmill.data.compositions import Table
from matmill.data.splits import PARTS, split
from matmill.errors import DataError
from matmill.randomness import child_seed

COLUMN = "split"


def divided(table: Table, *, seed: int = 0) -> Table:
    """Return the table with a part for each row: those it has, else 80/10/10 by formula.

    Raises:
        DataError: If there are too few rows, or formulas, for three parts.
    """
    notes = table.notes.get(COLUMN)
    if notes is not None and "train" in notes:
        return table
    if len(table) < 10:
        raise DataError(
            f"{table.source or 'The table'} has {len(table)} usable row(s); at least 10 are "
            "needed to train, validate and test."
        )
    found = split(table, "formula", seed=child_seed(seed, "split"))
    names = [""] * len(table)
    for part, rows in found.parts.items():
        for row in rows.tolist():
            names[row] = part
    return replace(table, notes={**table.notes, COLUMN: tuple(names)})


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
