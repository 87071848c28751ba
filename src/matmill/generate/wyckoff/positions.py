"""Space-group operations and Wyckoff positions in the standard primitive basis.

Everything here is in moyopy's standard primitive cell (``prim_std_cell``), with the origin of its
standard setting. An operation maps a column of fractional coordinates f to ``W f + w``.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.wyckoff_letters import N_SPACE_GROUPS, letter_swaps, wyckoff_table
from matmill.errors import InputError

_ANCHOR_UNIT = 48  # the table keeps anchors in 48ths, which are exact


@dataclass(frozen=True, kw_only=True)
class Position:
    """One Wyckoff position: the orbit of the sites ``anchor + s @ basis``, s in [0, 1)^k.

    Attributes:
        space_group: International number.
        letter: Wyckoff letter of the standard setting; ``"A"`` follows ``"z"`` in group 47.
        multiplicity: Number of sites in the primitive cell.
        anchor: Fractional coordinates of the first site at s = 0, ``(3,)``, float64.
        basis: Primitive integer vectors of the free directions, ``(k, 3)``, k = 0 to 3.
    """

    space_group: int
    letter: str
    multiplicity: int
    anchor: Float[Tensor, "3"]
    basis: Int[Tensor, "k 3"]

    @property
    def n_free(self) -> int:
        """Number of free coordinates."""
        return len(self.basis)


@lru_cache(maxsize=N_SPACE_GROUPS)
def operations(space_group: int) -> tuple[Int[Tensor, "g 3 3"], Float[Tensor, "g 3"]]:
    """Return the operations of a group, one per coset of the lattice translations.

    Args:
        space_group: International number, 1 to 230.

    Returns:
        Rotations W (int64) and translations w (float64, in [0, 1)); the identity comes first.

    Raises:
        InputError: If there is no such group.
    """
    import moyopy

    _check(space_group)
    found = moyopy.operations_from_number(space_group, primitive=True)
    shifts = torch.tensor(found.translations, dtype=torch.float64) * _ANCHOR_UNIT
    return torch.tensor(found.rotations), (shifts.round() % _ANCHOR_UNIT) / _ANCHOR_UNIT


@lru_cache(maxsize=N_SPACE_GROUPS)
def positions(space_group: int) -> dict[str, Position]:
    """Return every Wyckoff position of a group by its letter, in the order of the letters.

    Raises:
        InputError: If there is no such group.

    Source:
        Computed from the operations (`matmill.generate.wyckoff.derive`); letters as moyopy gives
        them, those of International Tables for Crystallography, Volume A.
    """
    _check(space_group)
    return {
        letter: Position(
            space_group=space_group,
            letter=letter,
            multiplicity=n_sites,
            anchor=torch.tensor(anchor, dtype=torch.float64) / _ANCHOR_UNIT,
            basis=torch.tensor(basis, dtype=torch.int64).reshape(-1, 3),
        )
        for letter, n_sites, anchor, basis in wyckoff_table()[str(space_group)]["positions"]
    }


@lru_cache(maxsize=N_SPACE_GROUPS)
def swaps(space_group: int) -> Int[Tensor, "p n_positions"]:
    """Return how another origin or other axes may permute the positions of a group.

    Returns:
        Every permutation by the affine normaliser, the identity first; a row holds, for each
        position in the order of `positions`, the index of the position that it becomes.

    Raises:
        InputError: If there is no such group.
    """
    letters = list(positions(space_group))
    rows = [[letters.index(new) for new in names.values()] for names in letter_swaps(space_group)]
    return torch.tensor(rows)


def _check(space_group: int) -> None:
    if not 1 <= space_group <= N_SPACE_GROUPS:
        raise InputError(f"There is no space group {space_group}; use a number from 1 to 230.")
