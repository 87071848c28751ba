"""What is discrete about a symmetric crystal: its space group and who sits on which position."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.symmetry import datasets
from matmill.errors import InputError
from matmill.generate.wyckoff.positions import positions


@dataclass(frozen=True, kw_only=True)
class Template:
    """A space group and its occupied Wyckoff positions, one entry per orbit, in canonical order.

    The order is by atomic number, then by letter, so that equal templates compare equal.

    Attributes:
        space_group: International number.
        letters: Wyckoff letter of each orbit.
        elements: Atomic number of each orbit.
    """

    space_group: int
    letters: tuple[str, ...]
    elements: tuple[int, ...]

    def __post_init__(self) -> None:
        """Sort the orbits and check that the group can host them.

        Raises:
            InputError: If a letter is unknown, or a position without freedom is used twice.
        """
        if not self.letters or len(self.letters) != len(self.elements):
            raise InputError("A template needs one letter and one element for each orbit.")
        known = positions(self.space_group)
        for letter, count in Counter(self.letters).items():
            if letter not in known:
                raise InputError(
                    f"Space group {self.space_group} has no position {letter!r}; "
                    f"it has {', '.join(known)}."
                )
            if count > 1 and not known[letter].n_free:
                raise InputError(
                    f"Position {letter!r} of space group {self.space_group} has no free "
                    f"coordinate, so one orbit fits on it, not {count}."
                )
        orbits = sorted(zip(self.elements, map(_rank, self.letters), self.letters, strict=True))
        object.__setattr__(self, "elements", tuple(int(z) for z, _, _ in orbits))
        object.__setattr__(self, "letters", tuple(letter for _, _, letter in orbits))

    @property
    def multiplicities(self) -> tuple[int, ...]:
        """Number of sites of each orbit in the primitive cell."""
        known = positions(self.space_group)
        return tuple(known[letter].multiplicity for letter in self.letters)

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the primitive cell."""
        return sum(self.multiplicities)

    @property
    def counts(self) -> dict[int, int]:
        """Number of atoms of each atomic number in the primitive cell."""
        total: Counter[int] = Counter()
        for z, n in zip(self.elements, self.multiplicities, strict=True):
            total[z] += n
        return dict(total)

    @property
    def formula(self) -> dict[str, int]:
        """Number of atoms of each element symbol in the primitive cell."""
        return {SYMBOLS[z]: n for z, n in self.counts.items()}


def _rank(letter: str) -> int:
    """Return the place of a letter: a to z, then A."""
    return ord(letter) - ord("a") if letter.islower() else 26


def templates(batch: CrystalBatch, symprec: float = 0.1) -> list[Template | None]:
    """Return the template of each crystal, None where its symmetry cannot be found.

    Args:
        batch: Any number of crystals, in any cells.
        symprec: Tolerance on positions in Å.
    """
    numbers = batch.atomic_numbers.tolist()
    found: list[Template | None] = []
    start = 0
    for data, n in zip(datasets(batch, symprec=symprec), batch.n_atoms.tolist(), strict=True):
        mine = numbers[start : start + n]
        start += n
        if data is None:
            found.append(None)
            continue
        found.append(_template(data.number, data.wyckoffs, data.orbits, mine))
    return found


def _template(
    number: int, letters: Iterable[str], orbits: Iterable[int], numbers: list[int]
) -> Template | None:
    rows = {orbit: (letter, numbers[orbit]) for letter, orbit in zip(letters, orbits, strict=True)}
    try:
        made = Template(
            space_group=number,
            letters=tuple(letter for letter, _ in rows.values()),
            elements=tuple(z for _, z in rows.values()),
        )
    except InputError:
        return None  # atoms closer than the tolerance fell onto one site
    # A cell that is no whole number of the primitive cells of its template was misread.
    return made if len(numbers) % made.n_atoms == 0 else None
