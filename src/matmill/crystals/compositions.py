"""`CompositionBatch`: many compositions without structures, and how to read them from formulas.

Amounts may be fractional, as in alloys and doped compounds. They are kept as they were written;
only `fractions` and `formulas` are normalised.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import MAX_NUMBER, SYMBOLS, table
from matmill.crystals.records import Complaint
from matmill.errors import InputError

N_COLUMNS = MAX_NUMBER + 1
_AMOUNT = r"\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?"
_ELEMENT = re.compile(rf"([A-Z][a-z]?)({_AMOUNT})?")
_PLAIN = re.compile(rf"(?:[A-Z][a-z]?(?:{_AMOUNT})?)+")
_TOKEN = re.compile(rf"([A-Z][a-z]?)({_AMOUNT})?|(\()|\)({_AMOUNT})?")
_PART = re.compile(rf"({_AMOUNT})?(.+)")
_BRACKETS = str.maketrans("[]{}", "()()")
_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}
_MOST_DECIMALS = 9
_MOST_ATOMS = 10_000  # whole-number formulas larger than this are shown as fractions
_REMEDY = "Write it like BaTiO3, Ca(OH)2 or Fe0.7Ni0.3"


@dataclass(frozen=True, kw_only=True, eq=False)
class CompositionBatch:
    """Many compositions: how much of each element, whole or fractional.

    Attributes:
        amounts: Atoms of each element as written; column = atomic number,
            ``(n_compositions, 119)`` float64, none negative, column 0 empty.
        properties: Values by name, NaN where unknown, each ``(n_compositions,)``.
        ids: One stable id per composition; may be empty when nobody named them.
    """

    amounts: Float[Tensor, "n_compositions 119"]
    properties: dict[str, Float[Tensor, " n_compositions"]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.amounts.ndim != 2 or self.amounts.shape[1] != N_COLUMNS:
            raise InputError(
                f"amounts has the shape {tuple(self.amounts.shape)}; expected one row a "
                f"composition and {N_COLUMNS} columns, one an atomic number."
            )
        low = float(self.amounts.min()) if len(self) else 0.0
        if not (low >= 0.0 and bool(torch.isfinite(self.amounts).all())):
            raise InputError("Amounts must be finite and not negative.")
        if bool((self.amounts.sum(1) <= 0.0).any()) or bool(self.amounts[:, 0].any()):
            raise InputError("Every composition must have at least one element with Z in 1-118.")
        if self.ids and len(self.ids) != len(self):
            raise InputError(f"There are {len(self.ids)} ids for {len(self)} compositions.")
        for name, values in self.properties.items():
            if len(values) != len(self):
                raise InputError(
                    f"Property '{name}' has {len(values)} values for {len(self)} compositions."
                )

    def __len__(self) -> int:
        return len(self.amounts)

    @classmethod
    def empty(cls) -> "CompositionBatch":
        """Return a batch without compositions."""
        return cls(amounts=torch.zeros(0, N_COLUMNS, dtype=torch.float64))

    @classmethod
    def of(cls, crystals: CrystalBatch) -> "CompositionBatch":
        """Return what these crystals are made of, with their properties and ids.

        Raises:
            InputError: If a crystal holds a masked atom (Z = 0).
        """
        return cls(
            amounts=element_counts(crystals).double(),
            properties=crystals.properties,
            ids=crystals.ids,
        )

    @cached_property
    def fractions(self) -> Float[Tensor, "n_compositions 119"]:
        """Share of the atoms that each element has; every row adds up to 1."""
        return self.amounts / self.amounts.sum(1, keepdim=True)

    @cached_property
    def formulas(self) -> tuple[str, ...]:
        """Reduced formula of each composition, elements by electronegativity.

        The same text for the same composition, however it was written: ``"Fe0.5Ni0.5"``,
        ``"Fe50Ni50"`` and ``"Ni2Fe2"`` all give ``"FeNi"``, and whole numbers give what
        `CrystalBatch.formula` gives. Where the whole numbers would add up to more than 10,000
        atoms, atom fractions to six digits stand instead: ``"C0.000953Fe0.99905"``.
        """
        return _formulas(self.amounts)

    @property
    def formula(self) -> tuple[str, ...]:
        """The same as `formulas`, under the name that crystals have it."""
        return self.formulas

    def select(
        self, index: Int[Tensor, " n_wanted"] | Bool[Tensor, " n_compositions"] | Sequence[int]
    ) -> "CompositionBatch":
        """Return the compositions at these positions, in this order. A bool mask works too."""
        index = torch.as_tensor(index, device=self.amounts.device)
        index = torch.nonzero(index).flatten() if index.dtype == torch.bool else index.long()
        return CompositionBatch(
            amounts=self.amounts[index],
            properties={name: values[index] for name, values in self.properties.items()},
            ids=tuple(self.ids[i] for i in index.tolist()) if self.ids else (),
        )

    def with_properties(self, **values: Tensor) -> "CompositionBatch":
        """Return the same compositions with these properties added or replaced."""
        return replace(self, properties={**self.properties, **values})

    def with_ids(self, ids: Sequence[str]) -> "CompositionBatch":
        """Return the same compositions under these ids."""
        return replace(self, ids=tuple(ids))


def parse_formulas(texts: Iterable[str]) -> CompositionBatch:
    """Return the compositions of formulas, amounts as written.

    Amounts may be fractional (``"Fe0.62C0.000953"``) and brackets nested
    (``"(Li0.5Na0.5)2O"``); a centred dot or ``*`` joins parts (``"CuSO4·5H2O"``).

    Raises:
        InputError: At the first text that is no formula; says which and why.
    """
    batch, _, complaints = read_formulas(texts)
    if complaints:
        first = complaints[0]
        more = f" ({len(complaints)} such formulas)" if len(complaints) > 1 else ""
        raise InputError(f"Formula number {first.row}: {first.reason}{more}. {first.remedy}")
    return batch


def read_formulas(
    texts: Iterable[str | None], file: str = "formulas"
) -> tuple[CompositionBatch, Int[Tensor, " n_compositions"], list[Complaint]]:
    """Return the compositions of the good formulas, and a complaint about each of the others.

    Args:
        texts: Formulas; None and blank cells are complaints as well.
        file: Where they come from, for the complaints.

    Returns:
        The compositions, the place of each in ``texts`` counted from 0, and the complaints.
    """
    rows: list[int] = []
    cells: list[int] = []
    values: list[float] = []
    kept: list[int] = []
    complaints: list[Complaint] = []
    for place, text in enumerate(texts):
        try:
            counts = _parse(text or "")
        except _NoFormulaError as error:
            reason = f"'{text or ''}' is no formula: {error}"
            complaints.append(Complaint(file, place + 1, reason, f"{_REMEDY}."))
            continue
        rows += [len(kept)] * len(counts)
        cells += counts.keys()
        values += counts.values()
        kept.append(place)
    amounts = torch.zeros(len(kept), N_COLUMNS, dtype=torch.float64)
    amounts[torch.tensor(rows).long(), torch.tensor(cells).long()] = torch.tensor(
        values, dtype=torch.float64
    )
    return CompositionBatch(amounts=amounts), torch.tensor(kept).long(), complaints


class _NoFormulaError(Exception):
    """Why a text is no formula."""


def _parse(text: str) -> dict[int, float]:
    """Return the amount of each atomic number; amounts of zero are left out."""
    squeezed = "".join(text.split()).translate(_BRACKETS)
    counts: dict[int, float] = {}
    parts = re.split(r"[·•*]", squeezed)
    if _PLAIN.fullmatch(squeezed):
        _add_elements(counts, squeezed)
    elif len(parts) == 1:
        counts = _parse_nested(squeezed)
    else:
        for part in parts:
            match = _PART.fullmatch(part)
            if match is None:
                raise _NoFormulaError("a part before or after a dot is empty")
            for z, amount in _parse_nested(match[2]).items():
                counts[z] = counts.get(z, 0.0) + float(match[1] or 1.0) * amount
    found = {z: amount for z, amount in counts.items() if amount > 0.0}
    if not found:
        raise _NoFormulaError("it names no element")
    if sum(found.values()) == float("inf"):
        raise _NoFormulaError("an amount is too large")
    return found


def _add_elements(counts: dict[int, float], squeezed: str) -> None:
    """Add the elements of a text without brackets."""
    for symbol, amount in _ELEMENT.findall(squeezed):
        z = _NUMBERS.get(symbol)
        if z is None:
            raise _NoFormulaError(f"'{symbol}' is no element")
        counts[z] = counts.get(z, 0.0) + (float(amount) if amount else 1.0)


def _parse_nested(squeezed: str) -> dict[int, float]:
    stack: list[dict[int, float]] = [{}]
    position = 0
    while position < len(squeezed):
        match = _TOKEN.match(squeezed, position)
        if match is None:
            raise _NoFormulaError(f"'{squeezed[position]}' is not expected there")
        symbol, _, opening, group_amount = match.groups()
        if symbol:
            _add_elements(stack[-1], match[0])
        elif opening:
            stack.append({})
        elif len(stack) == 1:
            raise _NoFormulaError("a bracket closes that was never opened")
        else:
            factor = float(group_amount or 1.0)
            for z, amount in stack.pop().items():
                stack[-1][z] = stack[-1].get(z, 0.0) + factor * amount
        position = match.end()
    if len(stack) > 1:
        raise _NoFormulaError("a bracket is not closed")
    return stack[0]


_ORDER = np.array(
    sorted(
        range(1, N_COLUMNS),
        key=lambda z: (float(table("electronegativity")[z].nan_to_num(nan=np.inf)), SYMBOLS[z]),
    )
)


def _formulas(amounts: Tensor) -> tuple[str, ...]:
    ordered = amounts.cpu().numpy()[:, _ORDER]
    rows, places = np.nonzero(ordered)
    values = ordered[rows, places]
    counts = np.bincount(rows, minlength=len(ordered))
    ends = np.cumsum(counts)
    numbers = _whole(values, rows, len(ordered), ends - counts)
    symbols = [SYMBOLS[z] for z in _ORDER[places].tolist()]
    texts = [s if n == "1" else s + n for s, n in zip(symbols, numbers, strict=True)]
    return tuple(
        "".join(texts[end - count : end])
        for end, count in zip(ends.tolist(), counts.tolist(), strict=True)
    )


def _whole(values: np.ndarray, rows: np.ndarray, n_rows: int, first: np.ndarray) -> list[str]:
    """Return each amount as a reduced whole number, or as a fraction where none is in reach."""
    if not len(values):
        return []
    scaled = np.zeros(len(values), dtype=np.int64)
    is_open = np.ones(n_rows, dtype=bool)
    for decimals in range(_MOST_DECIMALS + 1):
        trial = values * 10.0**decimals
        nearest = np.round(trial)
        # The tolerance is that of floats read from text: 1e-4 of the last decimal.
        is_off = (np.abs(trial - nearest) > 1e-4) | (np.abs(trial) > 2**53) | (nearest == 0)
        fits = is_open & (np.bincount(rows, weights=is_off, minlength=n_rows) == 0)
        chosen = fits[rows]
        scaled[chosen] = nearest[chosen].astype(np.int64)
        is_open &= ~fits
        if not is_open.any():
            break
    reduced = scaled // np.maximum(np.gcd.reduceat(scaled, first), 1)[rows]
    totals = np.bincount(rows, weights=reduced, minlength=n_rows)
    is_fraction = (is_open | (totals > _MOST_ATOMS))[rows]
    shares = values / np.bincount(rows, weights=values, minlength=n_rows)[rows]
    texts = [str(n) for n in reduced.tolist()]
    for place in np.flatnonzero(is_fraction).tolist():
        texts[place] = f"{shares[place]:.6g}"
    return texts
