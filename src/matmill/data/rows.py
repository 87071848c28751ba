"""`LabelledRows`: what a table of labelled rows offers, whatever its rows are."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.records import Complaint
from matmill.data.labels import match_column, shown
from matmill.errors import DataError, InputError, UnknownNameError

BatchT = TypeVar("BatchT", CrystalBatch, CompositionBatch)
Notes: TypeAlias = dict[str, tuple[str | None, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows(ABC, Generic[BatchT]):
    """Rows whose properties are labels, with text columns beside them.

    Attributes:
        notes: Text columns such as ``split`` or ``release``, ``n_rows`` cells each.
        source: What it was opened from.
        target: Column that was asked for as target; None when nobody asked.
        complaints: What could not be used, row by row.
    """

    notes: Notes = field(default_factory=dict)
    source: str = ""
    target: str | None = None
    complaints: tuple[Complaint, ...] = ()

    def __post_init__(self) -> None:
        for name, cells in self.notes.items():
            if len(cells) != len(self):
                raise InputError(
                    f"Text column '{name}' has {len(cells)} cells for {len(self)} rows."
                )

    @property
    @abstractmethod
    def batch(self) -> BatchT:
        """What the rows are about; its properties are the numeric labels, NaN where unknown."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the table."""

    @abstractmethod
    def _with(self, batch: BatchT, notes: Notes) -> Self:
        """Return a table of other rows."""

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def ids(self) -> tuple[str, ...]:
        """One id per row; row numbers when the source had none."""
        return self.batch.ids or tuple(str(row) for row in range(len(self)))

    @property
    def columns(self) -> list[str]:
        """Names of all numeric columns."""
        return list(self.batch.properties)

    def column_name(self, name: str) -> str:
        """Return the column that ``name`` stands for: itself, a known property, or a unique start.

        ``"band_gap"`` finds ``"band_gap_ev"``, ``"exfoliation_energy"`` finds
        ``"exfoliation_energy_mev_atom"``.

        Raises:
            UnknownNameError: If no column, or more than one, fits; lists all columns.
        """
        column = match_column(name, self.columns)
        if column is None:
            raise UnknownNameError(f"column of {self.source or 'the table'}", name, self.columns)
        return column

    def column(self, name: str) -> Float[Tensor, " n_rows"]:
        """Return one numeric column, NaN where unknown; see `column_name` for accepted names."""
        return self.batch.properties[self.column_name(name)]

    def select(
        self, index: Int[Tensor, " n_wanted"] | Bool[Tensor, " n_rows"] | Sequence[int]
    ) -> Self:
        """Return these rows, in this order. A bool mask works too."""
        index = torch.as_tensor(index)
        index = torch.nonzero(index).flatten() if index.dtype == torch.bool else index.long()
        rows = index.tolist()
        notes = {name: tuple(cells[row] for row in rows) for name, cells in self.notes.items()}
        return self._with(self.batch.select(index), notes)

    @cached_property
    def hash(self) -> str:
        """Content hash of rows, ids, labels and notes, 32 hex digits; order counts."""
        return content_hash(self.batch, self.notes)

    @cached_property
    def structure_hash(self) -> str:
        """Content hash of rows and ids only: labels may be added without changing it."""
        return content_hash(replace(self.batch, properties={}))


RowsT = TypeVar("RowsT", bound=LabelledRows[Any])


def require_target(
    table: RowsT, target: str, on_missing: Literal["error", "drop"] = "drop"
) -> RowsT:
    """Return the table with ``target`` set and known in every row.

    Raises:
        UnknownNameError: If there is no such column.
        DataError: If values are missing and ``on_missing`` is ``"error"``, or all are missing.
    """
    column = table.column_name(target)
    is_known = torch.isfinite(table.column(column))
    missing = [table.ids[row] for row in torch.nonzero(~is_known).flatten().tolist()]
    table = replace(table, target=column)
    if not missing:
        return table
    if len(missing) == len(table):
        raise DataError(f"'{column}' of {table.source} is empty in all {len(table)} rows.")
    reason = f"'{column}' is empty or not finite in {len(missing)} of {len(table)} rows"
    if on_missing == "error":
        raise DataError(
            f"{table.source}: {reason}: {shown(missing)}. Fill them in, or remove these rows."
        )
    complaint = Complaint(
        file=table.source, row=0, reason=reason, remedy="These rows were left out."
    )
    kept = table.select(is_known)
    return replace(kept, complaints=(*table.complaints, complaint))


def content_hash(batch: CrystalBatch | CompositionBatch, notes: Notes | None = None) -> str:
    """Return a hash of everything in a batch, 32 hex digits; order counts.

    Values are hashed in float32, the precision of the files, so a table keeps its hash when it
    goes through Parquet.
    """
    digest = hashlib.sha256()

    def add(name: str, values: Tensor) -> None:
        if values.is_floating_point():
            # +0.0 makes -0.0 and 0.0 one value; all NaN get the same bits.
            values = (values.float() + 0.0).nan_to_num(nan=torch.finfo(torch.float32).max)
        else:
            values = values.long()
        digest.update(f"|{name}:{tuple(values.shape)}|".encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())

    if isinstance(batch, CrystalBatch):
        add("lattice", batch.lattice)
        add("frac_coords", batch.frac_coords)
        add("atomic_numbers", batch.atomic_numbers)
        add("n_atoms", batch.n_atoms)
    else:
        add("amounts", batch.amounts)
    for name in sorted(batch.properties):
        add(name, batch.properties[name])
    digest.update("\0".join(batch.ids).encode())
    for name, cells in sorted((notes or {}).items()):
        digest.update(f"|{name}|".encode())
        digest.update("\0".join("\1" if cell is None else cell for cell in cells).encode())
    return digest.hexdigest()[:32]
