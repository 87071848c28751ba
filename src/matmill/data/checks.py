"""What is wrong or odd about a table before anyone trains on it: rows, reasons and remedies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import UnknownNameError
from matmill.quantities import Quantity, find

OVERLAP_ANGSTROM = 0.5  # no pair of atoms is that close in any known crystal
_VOLUME_RANGE = (1.0, 500.0)  # Å³ per atom: below is unphysical, above is a molecule in a box
_VOLUME_STEP = 0.01  # Å³ per atom, of the search for repeated structures
_FEW_ROWS = 20
_OUTLIER_SPREADS = 20.0  # interquartile ranges from the median
_NEIGHBOUR_ATOMS = 20_000  # atoms whose neighbours are sought at once
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem of a table.

    Attributes:
        check: Name of the check.
        severity: ``"error"`` spoils a training, ``"warning"`` may, ``"note"`` is good to know.
        rows: Rows that it is about, from 0; empty when it is about the whole table.
        ids: Their ids.
        reason: What was found.
        remedy: What to do about it.
    """

    check: str
    severity: Literal["error", "warning", "note"]
    rows: tuple[int, ...] = ()
    ids: tuple[str, ...] = ()
    reason: str
    remedy: str

    def __str__(self) -> str:
        more = len(self.ids) - _SHOWN
        names = ", ".join(self.ids[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{self.severity}: {self.reason}{f' ({names})' if names else ''}. {self.remedy}"


def check(table: LabelledCrystals, target: str | None = None) -> list[Finding]:
    """Return everything worth knowing about a table, errors first.

    Args:
        table: To look at.
        target: Column that will be trained on; by default the table's, if it has one.
    """
    target = target or table.target
    column = None if target is None else table.column_name(target)
    found = [finding for run in _CHECKS for finding in run(table)]
    if column is not None:
        found += _check_target(table, column)
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _finding(
    table: LabelledCrystals,
    check: str,
    severity: Literal["error", "warning", "note"],
    bad: Tensor,
    reason: str,
    remedy: str,
) -> Iterator[Finding]:
    """Yield a finding about the rows where ``bad`` holds, if there are any."""
    rows = torch.nonzero(bad).flatten().tolist()
    if rows:
        yield Finding(
            check=check,
            severity=severity,
            rows=tuple(rows),
            ids=tuple(table.ids[row] for row in rows),
            reason=f"{len(rows)} {reason}",
            remedy=remedy,
        )


def _check_size(table: LabelledCrystals) -> Iterator[Finding]:
    if len(table) < _FEW_ROWS:
        yield Finding(
            check="few_rows",
            severity="warning",
            reason=f"only {len(table)} rows",
            remedy="Scores on so few rows say little; use cross-validation.",
        )


def _check_ids(table: LabelledCrystals) -> Iterator[Finding]:
    repeated = _repeats(list(table.ids))
    yield from _finding(
        table,
        "duplicate_ids",
        "error",
        repeated,
        "rows share their id with another row",
        "Give each row its own id, or remove the repeated rows.",
    )


def _check_duplicates(table: LabelledCrystals) -> Iterator[Finding]:
    copies = duplicate_structures(table.crystals)
    yield from _finding(
        table,
        "duplicate_structures",
        "warning",
        copies >= 0,
        "rows repeat the structure of an earlier row",
        "Remove them, or split by formula so that no copy is in train and test.",
    )


def _check_overlaps(table: LabelledCrystals) -> Iterator[Finding]:
    yield from _finding(
        table,
        "overlapping_atoms",
        "error",
        _has_overlap(table.crystals),
        f"crystals have atoms closer than {OVERLAP_ANGSTROM} Å",
        "Check lattice and coordinates (units, fractional or Cartesian), or remove the rows.",
    )


def _check_volumes(table: LabelledCrystals) -> Iterator[Finding]:
    per_atom = table.crystals.volume / table.crystals.n_atoms
    low, high = _VOLUME_RANGE
    yield from _finding(
        table,
        "implausible_volume",
        "warning",
        (per_atom < low) | (per_atom > high),
        f"crystals have a volume per atom outside {low:g} to {high:g} Å³",
        "Check the unit of the lattice (Å), or remove the rows.",
    )


def _check_columns(table: LabelledCrystals) -> Iterator[Finding]:
    for name, values in table.crystals.properties.items():
        known = values[torch.isfinite(values)]
        yield from _finding(
            table,
            "infinite_values",
            "error",
            torch.isinf(values),
            f"values of '{name}' are infinite",
            "Write an empty cell where the value is not known.",
        )
        if not len(known):
            yield Finding(
                check="empty_column",
                severity="note",
                reason=f"'{name}' has no value in any row",
                remedy="Nothing can be learned from it.",
            )
            continue
        quantity = _quantity(name)
        if quantity is not None:
            low, high = quantity.low, quantity.high
            yield from _finding(
                table,
                "implausible_values",
                "warning",
                (values < low) | (values > high),
                f"values of '{name}' are outside the plausible {low:g} to {high:g} {quantity.unit}",
                "Check the unit and these rows.",
            )


def _check_leaks(table: LabelledCrystals) -> Iterator[Finding]:
    """Look for formulas that a stored split has on both sides."""
    parts = table.notes.get("split")
    if parts is None:
        return
    formulas = table.crystals.formula
    trained = {f for f, part in zip(formulas, parts, strict=True) if part == "train"}
    leaks = torch.tensor(
        [part == "test" and f in trained for f, part in zip(formulas, parts, strict=True)]
    )
    yield from _finding(
        table,
        "shared_formulas",
        "note",
        leaks,
        "test rows of the stored split have a formula that is also trained on",
        "For scores on new compositions use: matmill data split --kind formula.",
    )


def _check_target(table: LabelledCrystals, target: str) -> Iterator[Finding]:
    values = table.column(target)
    is_known = torch.isfinite(values)
    known = values[is_known]
    yield from _finding(
        table,
        "missing_target",
        "warning",
        ~is_known,
        f"of {len(table)} rows have no value of '{target}'",
        "They are left out of training.",
    )
    if not len(known):
        return
    if bool((known == known[0]).all()):
        yield Finding(
            check="constant_target",
            severity="error",
            reason=f"'{target}' is {float(known[0]):g} in every row",
            remedy="There is nothing to learn; check that the right column was chosen.",
        )
        return
    low, middle, high = _quartiles(known)
    spread = high - low
    if spread > 0:
        yield from _finding(
            table,
            "outliers",
            "warning",
            is_known & ((values - middle).abs() > _OUTLIER_SPREADS * spread),
            f"values of '{target}' are more than {_OUTLIER_SPREADS:g} interquartile ranges from "
            f"the median {middle:g}",
            "Check these rows; a few of them can dominate a squared loss.",
        )
    yield from _check_conflicts(table, target, spread)


def _check_conflicts(table: LabelledCrystals, target: str, spread: float) -> Iterator[Finding]:
    values = table.column(target)
    original = duplicate_structures(table.crystals)
    is_copy = original >= 0
    gap = torch.zeros_like(values)
    gap[is_copy] = (values[is_copy] - values[original[is_copy]]).abs()
    yield from _finding(
        table,
        "conflicting_labels",
        "warning",
        gap > 0.1 * max(spread, 1e-12),
        f"rows repeat an earlier structure with another '{target}'",
        "Decide which value is right; no model can learn both.",
    )


_CHECKS: tuple[Callable[[LabelledCrystals], Iterator[Finding]], ...] = (
    _check_size,
    _check_ids,
    _check_duplicates,
    _check_overlaps,
    _check_volumes,
    _check_columns,
    _check_leaks,
)


def duplicate_structures(batch: CrystalBatch) -> Tensor:
    """Return for each crystal the first earlier one with the same content hash, or -1.

    The hash ignores the order of sites only; the same crystal in another cell is not found here
    (`verify.novelty` does that).
    """
    original = torch.full((len(batch),), -1)
    # Hashing is slow next to this: only rows with the same atoms and, to a rounding, the same
    # volume as another row are hashed. Volumes next to a rounding edge are looked up on both sides.
    atoms = torch.zeros(len(batch), dtype=torch.int64)
    atoms.index_add_(0, batch.crystal_index, batch.atomic_numbers.long() ** 2)
    steps = batch.volume.double() / (_VOLUME_STEP * batch.n_atoms)
    below, above = (
        torch.floor(steps - 0.01).long().tolist(),
        torch.floor(steps + 0.01).long().tolist(),
    )
    counts: dict[tuple[int, int], int] = {}
    keys = [
        {(atom, low), (atom, high)}
        for atom, low, high in zip(atoms.tolist(), below, above, strict=True)
    ]
    for options in keys:
        for key in options:
            counts[key] = counts.get(key, 0) + 1
    rows = torch.tensor(
        [row for row, options in enumerate(keys) if any(counts[key] > 1 for key in options)],
        dtype=torch.int64,
    )
    first: dict[str, int] = {}
    for row, key in zip(rows.tolist(), batch.select(rows).hashes, strict=True):
        earlier = first.setdefault(key, row)
        if earlier != row:
            original[row] = earlier
    return original


def _repeats(keys: list) -> Tensor:
    counts: dict[object, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return torch.tensor([counts[key] > 1 for key in keys], dtype=torch.bool)


def _has_overlap(batch: CrystalBatch) -> Tensor:
    from matmill.crystals.neighbors import within

    bad = [torch.zeros(0, dtype=torch.bool)]
    for part in batch.chunks(_NEIGHBOUR_ATOMS):
        flags = torch.zeros(len(part), dtype=torch.bool)
        flags[part.crystal_index[within(part, OVERLAP_ANGSTROM).source]] = True
        bad.append(flags)
    return torch.cat(bad)


def _quartiles(values: Tensor) -> tuple[float, float, float]:
    # torch.quantile refuses more than 16 million values; sorting does not.
    ordered = values.double().sort().values
    low, middle, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def _quantity(column: str) -> Quantity | None:
    try:
        return find(column)
    except UnknownNameError:
        return None
