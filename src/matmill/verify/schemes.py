"""Which energies compare with which hull.

An energy has a scheme: ``"mp-raw"``, PBE and PBE+U as the Materials Project computes them;
``"mp2020-corrected"``, the same with the corrections of 2020; ``"tri110-2024"``, with those of
TRI110; ``"other"``, anything else. Energies of two schemes differ by up to 1 eV per atom, so they
never meet: a raw energy is corrected for a corrected hull, everything else is refused.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.verify.corrections import mp2020, tri110
from matmill.verify.hull import Hull
from matmill.verify.potentials import MP2020_CORRECTED, MP_RAW, OTHER, scheme_of

TRI110 = "tri110-2024"
SCHEMES = (MP_RAW, MP2020_CORRECTED, TRI110)
"""Schemes that more than one method shares."""

Step = Literal["none", "mp2020", "tri110"]

_STEPS: dict[tuple[str, str], Step] = {
    (MP_RAW, MP2020_CORRECTED): "mp2020",
    (MP_RAW, TRI110): "tri110",
}


@runtime_checkable
class Named(Protocol):
    """Anything with a name: a potential, which may also have a ``scheme``."""

    @property
    def name(self) -> str:
        """Short name with version."""
        ...


def step(potential: Named, hull: Hull) -> Step:
    """Return what must be done to a potential's energies before they meet a hull.

    A hull that a potential computed is for that potential only: it has the errors of that one.

    Raises:
        InputError: If nothing makes them comparable; one line that says why.
    """
    if hull.potential is not None:
        if hull.potential == potential.name:
            return "none"
        raise InputError(
            f"Hull {hull.name} has energies of {hull.potential}; those of {potential.name} do not "
            f"compare with it. Give --hull a table of {potential.name}, or of DFT energies."
        )
    if hull.scheme is None:  # made in memory, by someone who knows
        return "none"
    mine = scheme_of(potential)
    if mine == hull.scheme and mine != OTHER:
        return "none"
    if (mine, hull.scheme) in _STEPS:
        return _STEPS[mine, hull.scheme]
    raise InputError(
        f"Hull {hull.name} has energies of scheme {hull.scheme}; {potential.name} gives scheme "
        f"{mine}, which cannot be converted. Give --hull a table of {potential.name}."
    )


def fits(potential: Named, hull: Hull) -> bool:
    """Return whether a potential's energies can be compared with a hull."""
    try:
        step(potential, hull)
    except InputError:
        return False
    return True


def choose(potential: Named, given: Sequence[Hull] = (), *, own_first: bool = False) -> Hull:
    """Return the hull that a potential's energies are compared with.

    One of those given that is its own; else the first given that fits; else, where none is given,
    the one that ships for it.

    Args:
        potential: What computes the energies.
        given: Hulls of the user.
        own_first: Take the one that ships for it before one that merely fits: errors cancel there.
            So it is where several potentials vote.

    Raises:
        InputError: If none compares with it.
    """
    own = [hull for hull in given if hull.potential == potential.name]
    shipped = Hull.of_potential(potential.name) if own_first or not given else None
    if not own and own_first and shipped is not None:
        return shipped
    fitting = own or [hull for hull in given if fits(potential, hull)]
    if fitting:
        return fitting[0]
    if given:
        step(potential, given[0])  # says why not
    if shipped is None:
        raise InputError(
            f"No hull of {potential.name} ships, and its energies compare with no other's. "
            f"Give --hull a table of {potential.name}, or of DFT energies."
        )
    return shipped


def energy_above(
    hull: Hull,
    potential: Named,
    energy_ev: Float[Tensor, " n_crystals"],
    batch: CrystalBatch,
) -> Float[Tensor, " n_crystals"]:
    """Return the energy above the hull in eV per atom of crystals computed with a potential.

    Args:
        hull: The references.
        potential: What computed the energies.
        energy_ev: Total energy of each cell, as the potential gave it.
        batch: The crystals.

    Returns:
        NaN where an energy is NaN, the hull lacks an element or a correction rejects the crystal.

    Raises:
        InputError: If the two do not compare.
    """
    needed = step(potential, hull)
    if needed == "mp2020":
        energy_ev = energy_ev.double() + mp2020(batch).energy_ev
    elif needed == "tri110":
        energy_ev = tri110(energy_ev, batch)
    return hull.energy_above(energy_ev, batch)


def hull_name(hull: Hull, potential: Named) -> str:
    """Return the name for records: the hull, and how the energies were made comparable with it."""
    needed = step(potential, hull)
    return hull.name if needed == "none" else f"{hull.name}+{needed}({potential.name})"
