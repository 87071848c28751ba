"""Which Wyckoff letters name the same places: the swaps that another origin or other axes make."""

import json
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from matmill.errors import InputError

N_SPACE_GROUPS = 230
ASSET = "wyckoff_positions.json"


@cache
def wyckoff_table() -> dict[str, dict[str, Any]]:
    """Return the shipped table of Wyckoff positions by number of the space group, as text."""
    path = files("matmill").joinpath("assets", ASSET)
    return json.loads(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=N_SPACE_GROUPS)
def letter_swaps(space_group: int) -> tuple[dict[str, str], ...]:
    """Return every renaming of the letters by the affine normaliser, the identity first.

    Letter sets that one of them connects describe the same crystals in two settings: NaCl with Na
    on a and Cl on b, or the other way round.

    Raises:
        InputError: If there is no such group.
    """
    if not 1 <= space_group <= N_SPACE_GROUPS:
        raise InputError(f"There is no space group {space_group}; use a number from 1 to 230.")
    entry = wyckoff_table()[str(space_group)]
    letters = [position[0] for position in entry["positions"]]
    rows = [tuple(letters.index(name) for name in row) for row in entry["swaps"]]
    own = tuple(range(len(letters)))
    every = [own, *sorted(closure(rows, len(letters)) - {own})]
    return tuple(dict(zip(letters, (letters[i] for i in row), strict=True)) for row in every)


def closure(generators: list[tuple[int, ...]], n: int) -> set[tuple[int, ...]]:
    """Return the group of permutations of ``n`` things that the generators span."""
    known = {tuple(range(n))}
    new = list(known)
    while new:
        new = [
            image
            for image in {tuple(g[i] for i in old) for old in new for g in generators}
            if image not in known
        ]
        known.update(new)
    return known
