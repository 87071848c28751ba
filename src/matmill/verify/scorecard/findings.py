"""What a group of metrics returns: numbers about the set, and columns about its crystals."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from matmill.verify.scorecard.number import Number


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The answer of one group.

    Attributes:
        numbers: In the order of the table.
        columns: One value a crystal of the batch, by the name of the column.
        notes: What was left out, and why, one line each.
    """

    numbers: list[Number] = field(default_factory=list)
    columns: dict[str, Tensor | Sequence[object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
