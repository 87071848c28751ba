"""The rows of one run: who trains, who is tested, and who keeps a label."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.data.parts import LEAST_ROWS, ORIGIN, SYNTHETIC, WEIGHT, check_target, with_parts
from matmill.data.splits import split
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError
from matmill.randomness import child
from matmill.steer.flywheel.settings import FlywheelSettings, Mode


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRows:
    """Row numbers of one run in one mode. Arms of a run share them.

    Attributes:
        table: Crystals whose target is known; the target is their only property.
        column: The target.
        train: Training rows; the generator sees their crystals.
        val: Rows that networks choose their weights by.
        test: Rows that every arm is scored on, and nothing else ever sees.
        labelled: The training rows whose labels may be used.
        seed: Of everything random in this run.
    """

    table: LabelledCrystals
    column: str
    train: Int[Tensor, " n_train"]
    val: Int[Tensor, " n_val"]
    test: Int[Tensor, " n_test"]
    labelled: Int[Tensor, " n_labelled"]
    seed: int

    @property
    def values(self) -> Float[Tensor, " n_rows"]:
        """The true labels of all rows, float64."""
        return self.table.crystals.properties[self.column].double()

    @property
    def is_labelled(self) -> Bool[Tensor, " n_train"]:
        """Which training rows have a true label; a generator knows the others by pseudo-labels."""
        return torch.isin(self.train, self.labelled)

    @property
    def held_out_formulas(self) -> frozenset[str]:
        """Reduced formulas of validation and test rows; no synthetic crystal may have one."""
        formulas = self.table.crystals.formula
        return frozenset(formulas[row] for row in torch.cat([self.val, self.test]).tolist())


def prepared(table: LabelledCrystals, target: str) -> LabelledCrystals:
    """Return the rows whose target is known, with it as their only property.

    Raises:
        DataError: If too few rows have a value, or all are alike.
        UnknownNameError: If there is no such column.
    """
    column = table.column_name(target)
    check_target(table, column)
    values = table.column(column).double()
    known = torch.nonzero(torch.isfinite(values)).flatten()
    crystals = table.crystals.select(known)
    plain = CrystalBatch(
        lattice=crystals.lattice.double(),
        frac_coords=crystals.frac_coords.double(),
        atomic_numbers=crystals.atomic_numbers,
        n_atoms=crystals.n_atoms,
        properties={column: values[known]},
        ids=tuple(table.ids[row] for row in known.tolist()),
    )
    return LabelledCrystals(crystals=plain, source=table.source, target=column)


def run_rows(table: LabelledCrystals, settings: FlywheelSettings, run: int, mode: Mode) -> RunRows:
    """Return the rows of one run; both modes of a run have the same three parts.

    Raises:
        DataError: If too few rows would have a label.
    """
    seed = settings.seed + run
    parts = split(table, "formula", seed=seed, fractions=settings.fractions)
    train = _fewer(parts.train, settings.max_labels, seed, "learning curve")
    labelled = train
    if mode == "semi-supervised":
        labelled = _fewer(train, round(settings.labelled_share * len(train)), seed, "labels")
    if len(labelled) < LEAST_ROWS or not len(parts.val) or not len(parts.test):
        raise DataError(
            f"Run {run} has {len(labelled)} labelled, {len(parts.val)} validation and "
            f"{len(parts.test)} test rows; at least {LEAST_ROWS} labels are needed. Give more "
            "rows or a larger labelled_share."
        )
    return RunRows(
        table=table,
        column=table.target or table.columns[0],
        train=train,
        val=parts.val,
        test=parts.test,
        labelled=labelled,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class ExtraRows:
    """Crystals that teach beside real rows, or instead of them.

    Attributes:
        crystals: They themselves.
        labels: Theirs, in the unit of the target.
        weights: How much each of them counts, where a real row counts 1; None for 1.
    """

    crystals: CrystalBatch
    labels: Float[Tensor, " n"]
    weights: Float[Tensor, " n"] | None = None


def training_table(
    rows: RunRows,
    real: Int[Tensor, " n_real"],
    extra: ExtraRows | None = None,
    *,
    with_val: bool = True,
) -> LabelledCrystals:
    """Return what a predictor of an arm is trained on.

    Args:
        rows: The run.
        real: Its real training rows; may be empty.
        extra: Further crystals.
        with_val: Also give the validation rows. Networks choose their weights by them; a predictor
            that would learn from them must not get them.
    """
    val = rows.val if with_val else rows.val[:0]
    chosen = torch.cat([real, val])
    given = rows.table.crystals.select(chosen)
    names = ["train"] * len(real) + ["val"] * len(val)
    origins: list[str | None] = ["real"] * len(names)
    ids = tuple(rows.table.ids[row] for row in chosen.tolist())
    batches = [_plain(given, rows.column, given.properties[rows.column], ids)]
    counts = torch.ones(len(chosen), dtype=torch.float64)
    weights = None
    if extra is not None and len(extra.crystals):
        n, weights = len(extra.crystals), extra.weights
        own = tuple(f"synthetic-{i}" for i in range(n))
        batches.append(_plain(extra.crystals, rows.column, extra.labels, own))
        names += ["train"] * n
        origins += [SYNTHETIC] * n
        more = torch.ones(n).double() if weights is None else weights.double()
        counts = torch.cat([counts, more])
    batch = concatenate(batches)
    if weights is not None:
        batch = batch.with_properties(**{WEIGHT: counts})
    table = LabelledCrystals(
        crystals=batch, notes={ORIGIN: tuple(origins)}, source=rows.table.source
    )
    return with_parts(table, names)


def _plain(batch: CrystalBatch, column: str, values: Tensor, ids: Sequence[str]) -> CrystalBatch:
    return CrystalBatch(
        lattice=batch.lattice.double(),
        frac_coords=batch.frac_coords.double(),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
        properties={column: values.double()},
        ids=tuple(ids),
    )


def _fewer(rows: Tensor, n: int | None, seed: int, name: str) -> Tensor:
    """Return n of the rows by chance, in order; smaller choices are parts of larger ones."""
    if n is None or n >= len(rows):
        return rows
    return rows[torch.randperm(len(rows), generator=child(seed, name))[:n]].sort().values
