"""What a user may ask of the Wyckoff model, checked and put into numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system
from matmill.errors import InputError, UnknownNameError
from matmill.generate.wyckoff.decode import Composition, host_mask
from matmill.generate.wyckoff.positions import N_SPACE_GROUPS
from matmill.generate.wyckoff.vocabulary import MAX_ATOMS, MAX_ELEMENTS


def allowed_groups(space_group: int | None, system: str | None) -> tuple[int, ...]:
    """Return the space groups that a request permits.

    Raises:
        InputError: If there is no such group, or it belongs to another system.
        UnknownNameError: If there is no such system.
    """
    if system is not None and system not in CRYSTAL_SYSTEMS:
        raise UnknownNameError("crystal system", system, list(CRYSTAL_SYSTEMS))
    if space_group is None:
        every = range(1, N_SPACE_GROUPS + 1)
        return tuple(g for g in every if system is None or crystal_system(g) == system)
    if not 1 <= space_group <= N_SPACE_GROUPS:
        raise InputError(f"There is no space group {space_group}; use a number from 1 to 230.")
    if system is not None and crystal_system(space_group) != system:
        raise InputError(
            f"Space group {space_group} is {crystal_system(space_group)}, not {system}; "
            "ask for one of the two."
        )
    return (space_group,)


def composition_of(formula: dict[str, int]) -> Composition:
    """Return a formula in the order of generation.

    Raises:
        InputError: If it is empty, not of whole atoms, or larger than the network knows.
        UnknownNameError: If an element is unknown.
    """
    atoms = {number(symbol): count for symbol, count in formula.items()}
    if not atoms or any(count < 1 or count != int(count) for count in atoms.values()):
        raise InputError("A formula needs a whole number of atoms, at least 1, of each element.")
    if sum(atoms.values()) > MAX_ATOMS or len(atoms) > MAX_ELEMENTS:
        raise InputError(
            f"The formula has {sum(atoms.values())} atoms of {len(atoms)} elements; the Wyckoff "
            f"model knows up to {MAX_ATOMS} atoms and {MAX_ELEMENTS} elements in the primitive "
            "cell. Ask for fewer formula units."
        )
    return Composition.of({z: int(count) for z, count in atoms.items()})


def host_masks(compositions: Sequence[Composition], groups: tuple[int, ...]) -> Tensor:
    """Return which groups can host each composition, bool ``(n, 231)``.

    Raises:
        InputError: If none can host one of them.
    """
    known: dict[Composition, Tensor] = {}
    for composition in compositions:
        if composition not in known:
            known[composition] = host_mask(composition, groups)
            if not known[composition].any():
                formula = "".join(
                    f"{SYMBOLS[z]}{n}"
                    for z, n in zip(composition.elements, composition.counts, strict=True)
                )
                which = f"space group {groups[0]}" if len(groups) == 1 else "any group asked for"
                raise InputError(
                    f"The positions of {which} cannot hold {formula} in one primitive cell; "
                    "ask for another group or another number of formula units."
                )
    return torch.stack([known[composition] for composition in compositions])


def checked_size(n_atoms: tuple[int, int] | None) -> tuple[int, int]:
    """Return the range of the number of atoms.

    Raises:
        InputError: If it is empty or beyond what the network knows.
    """
    low, high = n_atoms or (1, MAX_ATOMS)
    if not 1 <= low <= high <= MAX_ATOMS:
        raise InputError(
            f"The Wyckoff model makes primitive cells of 1 to {MAX_ATOMS} atoms; "
            f"{low} to {high} were asked for."
        )
    return low, high


def check_against(
    composition: Composition,
    n_atoms: tuple[int, int] | None,
    elements: tuple[str, ...] | None,
    *,
    exactly: bool,
) -> None:
    """Check that a formula agrees with the other wishes.

    Raises:
        InputError: If not.
    """
    low, high = checked_size(n_atoms)
    if not low <= sum(composition.counts) <= high:
        raise InputError(
            f"The formula has {sum(composition.counts)} atoms, but {low} to {high} were asked for."
        )
    permitted = {number(symbol) for symbol in elements or ()}
    if permitted and not (
        permitted == set(composition.elements)
        if exactly
        else permitted >= set(composition.elements)
    ):
        raise InputError("The formula and the elements asked for contradict each other.")


def system_index(system: str | None) -> int:
    """Return the number of a crystal system, 1 to 7, or 0 for none."""
    return 0 if system is None else CRYSTAL_SYSTEMS.index(system) + 1
