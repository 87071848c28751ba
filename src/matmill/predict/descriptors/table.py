"""`Features`: a table of numbers about crystals or compositions, one named column each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.errors import InputError, UnknownNameError


@dataclass(frozen=True, eq=False)
class Features:
    """Descriptors of many crystals or compositions.

    Attributes:
        values: float64, NaN where a column has no meaning for a row, ``(n, n_columns)``.
        names: Name of each column, all different, ``block.column`` with the unit at its end.
    """

    values: Float[Tensor, "n n_columns"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise InputError(
                f"There are {len(self.names)} names for values of shape {tuple(self.values.shape)}."
            )
        if len(set(self.names)) != len(self.names):
            repeated = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"Column '{repeated}' occurs more than once.")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return len(self.names)

    def column(self, name: str) -> Float[Tensor, " n"]:
        """Return one column.

        Raises:
            UnknownNameError: If there is no such column.
        """
        return self.values[:, self._places([name])[0]]

    def select_rows(
        self, index: Int[Tensor, " n_wanted"] | Bool[Tensor, " n"] | Sequence[int]
    ) -> "Features":
        """Return these rows, in this order. A bool mask works too."""
        return Features(self.values[_positions(index)], self.names)

    def select_columns(
        self,
        wanted: Sequence[str] | Sequence[int] | Int[Tensor, " n_wanted"] | Bool[Tensor, " n_cols"],
    ) -> "Features":
        """Return these columns, by name, position or bool mask, in this order.

        Raises:
            UnknownNameError: If a name is not there.
        """
        names = [name for name in wanted if isinstance(name, str)]
        places = self._places(names) if names else _positions(wanted).tolist()  # type: ignore[arg-type]
        return Features(self.values[:, places], tuple(self.names[i] for i in places))

    def prefixed(self, prefix: str) -> "Features":
        """Return the same table with ``prefix.`` before every name."""
        return Features(self.values, tuple(f"{prefix}.{name}" for name in self.names))

    def _places(self, names: Sequence[str]) -> list[int]:
        place = {name: i for i, name in enumerate(self.names)}
        for name in names:
            if name not in place:
                raise UnknownNameError("column", name, list(self.names))
        return [place[name] for name in names]


def concatenate(*features: Features) -> Features:
    """Return the columns of all tables side by side.

    Raises:
        InputError: If there is no table, the rows differ in number, or a name repeats.
    """
    if not features:
        raise InputError("There is no table of features to join.")
    lengths = {len(table) for table in features}
    if len(lengths) > 1:
        raise InputError(f"Tables of features have {sorted(lengths)} rows; they must be equal.")
    names = tuple(name for table in features for name in table.names)
    return Features(torch.cat([table.values for table in features], dim=1), names)


def stack(features: Sequence[Features]) -> Features:
    """Return the rows of all tables below each other.

    Raises:
        InputError: If there is no table, or the columns differ.
    """
    if not features:
        raise InputError("There is no table of features to join.")
    if any(table.names != features[0].names for table in features):
        raise InputError("Tables of features have different columns; they must be equal.")
    return Features(torch.cat([table.values for table in features]), features[0].names)


def from_columns(columns: dict[str, Float[Tensor, " n"]]) -> Features:
    """Return a table of these columns, in float64."""
    return Features(torch.stack([x.double() for x in columns.values()], dim=1), tuple(columns))


def _positions(index: object) -> Tensor:
    index = torch.as_tensor(index)
    return torch.nonzero(index).flatten() if index.dtype == torch.bool else index.long()
