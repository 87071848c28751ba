"""Prototype labels: the space group and which Wyckoff positions are taken, in one text.

A label is the same for every cell, origin and choice of axes of one crystal. It leaves out the
cell and the free coordinates, so different crystals may share one; and it jumps where symmetry is
found or lost at the tolerance. It is a name for a kind of crystal and never a verdict.
"""

from typing import TYPE_CHECKING, Literal

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.crystals.symmetry import datasets
from matmill.crystals.wyckoff_letters import letter_swaps
from matmill.errors import UnknownNameError

if TYPE_CHECKING:
    from moyopy import MoyoDataset

Species = Literal["none", "anonymous", "elements"]
SPECIES: tuple[Species, ...] = ("none", "anonymous", "elements")

Site = tuple[int, str]
"""Atomic number and Wyckoff letter of one orbit of atoms."""


def prototype_labels(
    batch: CrystalBatch, *, species: Species = "elements", symprec: float = 0.1
) -> list[str | None]:
    """Return the label of each crystal, None where no symmetry could be found.

    Of all settings that the affine normaliser of the group allows, the one whose text sorts first
    is taken.

    Args:
        batch: Any number of crystals.
        species: What to tell of the atoms. ``"none"``: letters alone, ``"225:a+b"``.
            ``"anonymous"``: letters by element, without saying which, ``"225:a|b"``.
            ``"elements"``: with symbols, ``"225:Cl a|Na b"``. A letter stands once for each orbit
            of atoms on it.
        symprec: Tolerance on positions in Å, of moyopy.

    Raises:
        UnknownNameError: If ``species`` is none of the three.
    """
    if species not in SPECIES:
        raise UnknownNameError("species of a label", species, list(SPECIES))
    labels: list[str | None] = []
    stop = 0
    numbers = batch.atomic_numbers.tolist()
    found = zip(batch.n_atoms.tolist(), datasets(batch, symprec=symprec), strict=True)
    for n, data in found:
        start, stop = stop, stop + n
        if data is None:
            labels.append(None)
            continue
        labels.append(_label(data.number, _sites(data, numbers[start:stop]), species))
    return labels


def _sites(data: "MoyoDataset", numbers: list[int]) -> list[Site]:
    """Return one entry for each orbit; orbits are those of the primitive cell, in any supercell."""
    found = zip(data.orbits, numbers, data.wyckoffs, strict=True)
    return [(z, letter) for _, z, letter in dict.fromkeys(found)]


def _label(space_group: int, sites: list[Site], species: Species) -> str:
    texts = (
        _text([(z, names[letter]) for z, letter in sites], species)
        for names in letter_swaps(space_group)
    )
    return f"{space_group}:{min(texts)}"


def _text(sites: list[Site], species: Species) -> str:
    if species == "none":
        return "+".join(sorted(letter for _, letter in sites))
    of_element: dict[int, list[str]] = {}
    for z, letter in sorted(sites):
        of_element.setdefault(z, []).append(letter)
    if species == "anonymous":
        return "|".join(sorted("+".join(letters) for letters in of_element.values()))
    return "|".join(sorted(f"{SYMBOLS[z]} {'+'.join(of)}" for z, of in of_element.items()))
