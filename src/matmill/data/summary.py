"""What is in a table, counted: sizes, elements, columns with units, stored splits, findings."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch

from matmill.data.checks import Finding, check
from matmill.data.table import LabelledCrystals
from matmill.errors import UnknownNameError
from matmill.quantities import find

SIZE_BINS = ((1, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, None))
_MOST_KINDS = 12  # a text column with more different cells is not a split
# Endings of column names, the longest first, and the units that they stand for.
_UNITS = (
    ("_ev_per_atom", "eV/atom"),
    ("_ev_atom", "eV/atom"),
    ("_mev_per_atom", "meV/atom"),
    ("_mev_atom", "meV/atom"),
    ("_ev_per_cell", "eV/cell"),
    ("_ev_cell", "eV/cell"),
    ("_per_atom_ev", "eV/atom"),
    ("_per_atom_a3", "Å³/atom"),
    ("_g_cm3", "g/cm³"),
    ("_c_m2", "C/m²"),
    ("_mu_b", "μB"),
    ("_gpa", "GPa"),
    ("_cm1", "1/cm"),
    ("_mev", "meV"),
    ("_ev", "eV"),
    ("_a3", "Å³"),
    ("_k", "K"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSummary:
    """One numeric column.

    Attributes:
        name: Of the column.
        unit: Read off the name; empty for pure numbers and where the name does not say.
        known: Rows with a value.
        missing_share: Share of rows without one, in [0, 1].
        low: Smallest value; NaN without values.
        median: Middle value.
        high: Largest value.
    """

    name: str
    unit: str
    known: int
    missing_share: float
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is in a table.

    Attributes:
        source: What it was opened from.
        hash: Content hash of the table.
        n_crystals: Rows.
        n_atoms_total: Atoms of all rows.
        n_formulas: Different reduced formulas.
        n_elements: Different elements.
        columns: Numeric columns.
        sizes: Rows by atoms in the cell, e.g. ``{"1-4": 12}``.
        elements: Rows that have each element, the most common first.
        splits: Rows by cell of each text column with few different cells.
        findings: What the checks found.
        complaints: Rows that could not be used, as text.
    """

    source: str
    hash: str
    n_crystals: int
    n_atoms_total: int
    n_formulas: int
    n_elements: int
    columns: tuple[ColumnSummary, ...]
    sizes: dict[str, int]
    elements: dict[str, int]
    splits: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    complaints: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, for JSON."""
        return asdict(self)


def summarise(table: LabelledCrystals, target: str | None = None) -> Summary:
    """Count what is in a table and run all checks.

    Args:
        table: To look at.
        target: Column that is to be predicted, which is checked more closely.
    """
    from matmill.crystals.composition import element_counts
    from matmill.crystals.elements import SYMBOLS

    batch = table.crystals
    rows_with = (element_counts(batch) > 0).sum(dim=0)
    order = torch.argsort(rows_with, descending=True, stable=True)
    elements = {SYMBOLS[z]: int(rows_with[z]) for z in order.tolist() if rows_with[z] > 0}
    return Summary(
        source=table.source,
        hash=table.hash,
        n_crystals=len(table),
        n_atoms_total=int(batch.n_atoms.sum()),
        n_formulas=len(set(batch.formula)),
        n_elements=len(elements),
        columns=tuple(_column(table, name) for name in table.columns),
        sizes=_sizes(table),
        elements=elements,
        splits=_splits(table),
        findings=tuple(check(table, target)),
        complaints=tuple(str(complaint) for complaint in table.complaints),
    )


def unit_of(column: str) -> str:
    """Return the unit that a column's name states, or an empty string."""
    try:
        return find(column).unit
    except UnknownNameError:
        return next((unit for ending, unit in _UNITS if column.endswith(ending)), "")


def _column(table: LabelledCrystals, name: str) -> ColumnSummary:
    values = table.column(name).double()
    known = values[torch.isfinite(values)]
    share = 1.0 - len(known) / len(values) if len(values) else 0.0
    low, median, high = float("nan"), float("nan"), float("nan")
    if len(known):
        low, median, high = float(known.min()), float(known.median()), float(known.max())
    return ColumnSummary(
        name=name,
        unit=unit_of(name),
        known=len(known),
        missing_share=share,
        low=low,
        median=median,
        high=high,
    )


def _sizes(table: LabelledCrystals) -> dict[str, int]:
    sizes = table.crystals.n_atoms
    counts = {}
    for low, high in SIZE_BINS:
        inside = (sizes >= low) if high is None else (sizes >= low) & (sizes <= high)
        counts[f"{low}+" if high is None else f"{low}-{high}"] = int(inside.sum())
    return {name: count for name, count in counts.items() if count}


def _splits(table: LabelledCrystals) -> dict[str, dict[str, int]]:
    counted = {name: Counter(cells) for name, cells in table.notes.items()}
    return {
        name: {cell or "(empty)": count for cell, count in counts.most_common()}
        for name, counts in counted.items()
        if len(counts) <= _MOST_KINDS
    }
