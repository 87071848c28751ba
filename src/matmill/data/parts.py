"""Which rows train, validate and test, and how much each training row counts.

The text column "split" is the same for every model. Synthetic rows say so in the text column
"origin"; no model is chosen, calibrated or scored on them while there are real ones.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.data.compositions import Table
from matmill.data.rows import RowsT
from matmill.data.splits import PARTS, split
from matmill.errors import DataError
from matmill.randomness import child_seed

COLUMN = "split"
ORIGIN = "origin"
SYNTHETIC = "synthetic"  # in that column
WEIGHT = "training_weight"
LEAST_ROWS = 10  # a tenth of them must be a row
_FRACTIONS = (0.8, 0.1, 0.1)


def with_parts(table: RowsT, names: Sequence[str]) -> RowsT:
    """Return the table with a note that says which part each row is in."""
    return replace(table, notes={**table.notes, COLUMN: tuple(names)})


def divided(table: Table, *, seed: int = 0) -> Table:
    """Return the table with a part for each row: those it has, else 80/10/10 by formula.

    Where the table names training rows but no validation rows, a tenth of the training rows
    become these, by formula; its test rows stay test rows.

    Raises:
        DataError: If there are too few rows for three parts.
        InputError: If there are too few formulas.
    """
    notes = table.notes.get(COLUMN) or ()
    if {"train", "val"} <= set(notes):
        return table
    names = [note or "" for note in notes]
    learned = rows_of(table)["train"]
    fractions = (0.9, 0.1, 0.0)
    if "train" not in names:
        names, learned, fractions = [""] * len(table), torch.arange(len(table)), _FRACTIONS
    if len(learned) < LEAST_ROWS:
        raise DataError(
            f"{table.source or 'The table'} has {len(learned)} usable row(s); at least "
            f"{LEAST_ROWS} are needed to train, validate and test."
        )
    rows = table.select(learned)
    found = split(rows, "formula", seed=child_seed(seed, "split"), fractions=fractions)
    for part, places in found.parts.items():
        for row in learned[places].tolist():
            names[row] = part
    return with_parts(table, names)


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


def is_tested(table: Table) -> Bool[Tensor, " n_rows"]:
    """Return which rows are test rows; none are without the column."""
    notes = table.notes.get(COLUMN, ("",) * len(table))
    return torch.tensor([note == "test" for note in notes], dtype=torch.bool)


def is_synthetic(table: Table) -> Bool[Tensor, " n_rows"]:
    """Return which rows a generator made; none are without the column."""
    notes = table.notes.get(ORIGIN, ("",) * len(table))
    return torch.tensor([note == SYNTHETIC for note in notes], dtype=torch.bool)


def weights_of(table: Table) -> Float[Tensor, " n_rows"]:
    """Return how much each row counts in training, 1 on average; all alike without the column.

    Raises:
        DataError: If a weight is negative or not finite, or all are zero.
    """
    weights = table.batch.properties.get(WEIGHT)
    if weights is None:
        return torch.ones(len(table), dtype=torch.float64)
    weights = weights.double()
    bad = torch.nonzero(~torch.isfinite(weights) | (weights < 0)).flatten()
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"Row {row + 1} of {table.source or 'the table'} has the {WEIGHT} "
            f"{float(weights[row]):g}; give numbers of 0 or more."
        )
    if len(weights) and not float(weights.sum()):
        raise DataError(f"All weights in '{WEIGHT}' are zero: no row would be learned from.")
    return weights / weights.mean() if len(weights) else weights


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
