"""What a crystal is made of: formulas, chemical systems, element counts, and reading them back."""

import re
from math import gcd

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import MAX_NUMBER, SYMBOLS, number, table
from matmill.errors import InputError, UnknownNameError

_TOKEN = re.compile(r"([A-Z][a-z]?)(\d*)|(\()|\)(\d*)")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def element_counts(batch: CrystalBatch) -> Int[Tensor, "n_crystals 119"]:
    """Return how many atoms of each element every crystal has; column = atomic number."""
    width = MAX_NUMBER + 1
    cells = batch.crystal_index * width + batch.atomic_numbers
    return torch.bincount(cells, minlength=len(batch) * width).reshape(len(batch), width)


def reduced_formulas(batch: CrystalBatch) -> tuple[str, ...]:
    """Return reduced formulas, elements by electronegativity, e.g. ``"TiO2"``.

    Unlike pymatgen's there are no brackets and no exceptions (oxygen is ``"O"``, not ``"O2"``;
    sodium peroxide is ``"NaO"``). Masked atoms are ``X``.
    """
    return tuple(_formula(counts) for counts in _sparse_counts(batch))


def anonymous_formulas(batch: CrystalBatch) -> tuple[str, ...]:
    """Return formulas with elements replaced by letters, rarest first, e.g. ``"ABC3"``."""
    formulas = []
    for counts in _sparse_counts(batch):
        divisor = gcd(*counts.values())
        amounts = sorted(n // divisor for n in counts.values())
        names = (_LETTERS[i % 26] * (i // 26 + 1) for i in range(len(amounts)))
        formulas.append("".join(f"{a}{_count(n)}" for a, n in zip(names, amounts, strict=True)))
    return tuple(formulas)


def chemical_systems(batch: CrystalBatch) -> tuple[str, ...]:
    """Return the elements of each crystal, alphabetical, joined by hyphens: ``"Ga-N-O"``."""
    return tuple("-".join(sorted(SYMBOLS[z] for z in counts)) for counts in _sparse_counts(batch))


def formula_of(counts: dict[str, int]) -> str:
    """Return the reduced formula of these counts by symbol, e.g. ``{"Ti": 2, "O": 4}``.

    Raises:
        UnknownNameError: If a symbol is no element.
    """
    return _formula({number(symbol): n for symbol, n in counts.items()})


def parse_formula(text: str) -> dict[str, int]:
    """Return the counts of a formula as it is written, not reduced: ``"Ca(OH)2"`` has O 2, H 2.

    Raises:
        InputError: If the text is not a formula with whole numbers.
    """
    stack: list[dict[str, int]] = [{}]
    position, squeezed = 0, re.sub(r"\s+", "", text)
    while position < len(squeezed):
        match = _TOKEN.match(squeezed, position)
        if match is None:
            raise _formula_error(text, f"'{squeezed[position]}' is not expected there")
        symbol, amount, opening, group_amount = match.groups()
        if symbol:
            position = _add_symbol(stack[-1], symbol, amount, match.start(), squeezed, text)
            continue
        if opening:
            stack.append({})
        elif len(stack) == 1:
            raise _formula_error(text, "a bracket closes that was never opened")
        else:
            for name, n in stack.pop().items():
                stack[-1][name] = stack[-1].get(name, 0) + n * int(group_amount or 1)
        position = match.end()
    if len(stack) > 1:
        raise _formula_error(text, "a bracket is not closed")
    if not stack[0] or min(stack[0].values()) < 1:
        raise _formula_error(text, "it must name at least one element, each at least once")
    return stack[0]


def parse_elements(text: str) -> tuple[str, ...]:
    """Return the symbols in a list such as ``"Ga,N,O"`` or ``"Ga-N-O"``, alphabetical, no repeats.

    Raises:
        InputError: If the list is empty or names something that is no element.
    """
    symbols = [part for part in re.split(r"[,;\s-]+", text) if part]
    if not symbols:
        raise InputError(f"'{text}' names no element. Give symbols with commas, such as Ga,N,O.")
    for symbol in symbols:
        try:
            number(symbol)
        except UnknownNameError as error:
            raise InputError(
                f"'{symbol}' in '{text}' is no element. Give symbols with commas, such as Ga,N,O."
            ) from error
    return tuple(sorted(set(symbols)))


def _sparse_counts(batch: CrystalBatch) -> list[dict[int, int]]:
    """Return ``{atomic number: count}`` of each crystal, without a dense table."""
    width = MAX_NUMBER + 1
    cells, n = torch.unique(batch.crystal_index * width + batch.atomic_numbers, return_counts=True)
    counts: list[dict[int, int]] = [{} for _ in range(len(batch))]
    for cell, amount in zip(cells.tolist(), n.tolist(), strict=True):
        counts[cell // width][cell % width] = amount
    return counts


def _formula(counts: dict[int, int]) -> str:
    order = sorted(counts, key=_order)
    divisor = gcd(*counts.values())
    return "".join(f"{SYMBOLS[z]}{_count(counts[z] // divisor)}" for z in order)


_NEGATIVITY = table("electronegativity").nan_to_num(nan=float("inf")).tolist()


def _order(z: int) -> tuple[float, str]:
    return (_NEGATIVITY[z], SYMBOLS[z])


def _count(n: int) -> str:
    return str(n) if n != 1 else ""


def _add_symbol(
    counts: dict[str, int], symbol: str, amount: str, start: int, squeezed: str, text: str
) -> int:
    """Add one element and return where reading goes on."""
    if symbol not in SYMBOLS[1:]:
        raise _formula_error(text, f"'{symbol}' is no element")
    counts[symbol] = counts.get(symbol, 0) + int(amount or 1)
    end = start + len(symbol) + len(amount)
    if squeezed[end : end + 1] == ".":
        raise _formula_error(text, "amounts must be whole numbers")
    return end


def _formula_error(text: str, reason: str) -> InputError:
    return InputError(f"'{text}' is no formula: {reason}. Write it like BaTiO3 or Ca(OH)2.")
