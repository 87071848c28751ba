"""From a table to rows for learning: which rows, which blocks, which folds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table
from matmill.data.parts import COLUMN, LEAST_ROWS, WEIGHT, is_synthetic, rows_of, weights_of
from matmill.data.splits import split
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.descriptors.blocks import BLOCKS, FROM_FORMULA, compute
from matmill.predict.descriptors.dimensionality import dimensionality
from matmill.predict.descriptors.table import Features
from matmill.predict.tabular.columns import LEARNED_BLOCKS
from matmill.predict.tabular.kept import kept_features
from matmill.progress import OnEvent
from matmill.randomness import child_seed

LEAST_OF_A_CLASS = 3
_FORMULA_BLOCKS = ("composition", "elements")
_STRUCTURE_BLOCKS = ("structure",)
_DEAR_BLOCKS = ("vibrations",)
_LAYERED_SHARE = 0.05  # of the rows; below it the block of layers says little
_LOOK = 200  # crystals that tell whether there are layers


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """The rows of a table that can be learned from, and which of them.

    Attributes:
        table: Rows whose target is known.
        column: The target.
        is_classification: All values are 0 or 1.
        train: Row numbers to learn from: training and validation rows.
        test: Row numbers to score on; may be empty.
        judged: Which of ``train`` tell how good a model is: the real ones, while there are enough
            of them; synthetic rows only teach.
        weights: How much each of ``train`` counts, 1 on average; None for all alike.
    """

    table: Table
    column: str
    is_classification: bool
    train: Int[Tensor, " n_train"]
    test: Int[Tensor, " n_test"]
    judged: Bool[Tensor, " n_train"]
    weights: Float[Tensor, " n_train"] | None


def labelled(table: Table, target: str, seed: int) -> Labelled:
    """Return the rows whose target is known, divided into those to learn from and to score on.

    The note ``split`` divides them where there is one; otherwise a tenth is kept for scoring, no
    formula on both sides.

    Raises:
        DataError: If there are too few rows, or too little to learn in them.
        UnknownNameError: If there is no such column.
    """
    column = table.column_name(target)
    values = table.column(column).double()
    known = torch.isfinite(values)
    if int(known.sum()) < LEAST_ROWS:
        raise DataError(
            f"Only {int(known.sum())} of {len(table)} rows have a value of '{column}'; at least "
            f"{LEAST_ROWS} are needed. Add rows, or fill in the column."
        )
    table, values = table.select(known), values[known]
    is_classification = bool(((values == 0) | (values == 1)).all())
    if "train" in table.notes.get(COLUMN, ()):
        parts = rows_of(table)
        train, test = torch.cat([parts["train"], parts["val"]]).sort().values, parts["test"]
    else:
        found = split(table, "formula", seed=child_seed(seed, "split"), fractions=(0.9, 0.0, 0.1))
        train, test = found.train, found.test
    _check_values(values[train], column, is_classification=is_classification)
    real = ~is_synthetic(table.select(train))
    return Labelled(
        table=table,
        column=column,
        is_classification=is_classification,
        train=train,
        test=test,
        judged=real if int(real.sum()) >= LEAST_ROWS else torch.ones_like(real),
        weights=weights_of(table.select(train)) if WEIGHT in table.columns else None,
    )


def _check_values(values: Tensor, column: str, *, is_classification: bool) -> None:
    if len(values) < LEAST_ROWS:
        raise DataError(
            f"Only {len(values)} rows with a value of '{column}' are left to learn from; at least "
            f"{LEAST_ROWS} are needed. Check the column 'split'."
        )
    if float(values.min()) == float(values.max()):
        what = f"class {int(values[0])}" if is_classification else f"the value {values[0]:g}"
        raise DataError(
            f"All {len(values)} training rows of '{column}' have {what}: nothing can be learned "
            "from one value. Give a column with at least two."
        )
    if is_classification:
        rarer = int(torch.minimum(values.sum(), (1 - values).sum()))
        if rarer < LEAST_OF_A_CLASS:
            raise DataError(
                f"Only {rarer} training row(s) of '{column}' are in the rarer class; at least "
                f"{LEAST_OF_A_CLASS} are needed. Add rows of it."
            )


def choose_blocks(
    batch: CrystalBatch | CompositionBatch, *, wanted: tuple[str, ...] | None, preset: str
) -> tuple[str, ...]:
    """Return the descriptor blocks for these rows: those wanted, or those that suit them.

    Crystals that hold layers get the block of layers; the better presets ask the potential.

    Raises:
        InputError: If a wanted block needs structures and there are none.
        UnknownNameError: If there is no such block.
    """
    if wanted is not None:
        for block in wanted:
            if block not in BLOCKS:
                raise UnknownNameError("descriptor block", block, list(BLOCKS))
            if block not in FROM_FORMULA and not isinstance(batch, CrystalBatch):
                raise InputError(
                    f"The block '{block}' needs structures, but the table has only formulas. "
                    f"Blocks for formulas: {', '.join(sorted(FROM_FORMULA))}."
                )
        return wanted
    if not isinstance(batch, CrystalBatch):
        return _FORMULA_BLOCKS
    step = max(1, len(batch) // _LOOK)
    ranks = dimensionality(batch.select(torch.arange(0, len(batch), step)))
    has_layers = float((ranks == 2).double().mean()) >= _LAYERED_SHARE
    slab = ("slab",) if has_layers else ()
    dear = {"fast": (), "full": LEARNED_BLOCKS, "thorough": (*_DEAR_BLOCKS, *LEARNED_BLOCKS)}
    return (*_FORMULA_BLOCKS, *_STRUCTURE_BLOCKS, *slab, *dear[preset])


def features_of(
    batch: CrystalBatch | CompositionBatch,
    blocks: tuple[str, ...],
    *,
    folder: Path | None,
    on_event: OnEvent,
) -> Features:
    """Return the columns of the blocks, to nine digits; what is infinite counts as unknown.

    Sums differ in the last bits with the other crystals of a batch. Nobody may learn from that,
    least of all from a spread that is zero but for rounding.
    """
    if folder is None:
        found = compute(batch, blocks, on_event=on_event)
    else:
        found = kept_features(batch, blocks, folder=folder, on_event=on_event)
    values = settled(found.values.double())
    return Features(torch.where(torch.isfinite(values), values, torch.nan), found.names)


def settled(values: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return values rounded to nine digits, and those below 1e-9 as zero."""
    step = 10.0 ** (values.abs().clamp_min(1e-9).log10().floor() - 8.0)
    rounded = (values / step).round() * step
    return torch.where(values.abs() < 1e-9, torch.zeros_like(values), rounded)


def data_card(found: Labelled) -> dict[str, Any]:
    """Return what the card tells about the data."""
    return {
        "source": Path(found.table.source).name,
        "content_hash": found.table.hash,
        "n_rows": len(found.table),
        "n_train": len(found.train),
        "n_test": len(found.test),
    }
