"""Energy corrections: how raw PBE and PBE+U energies become those of a reference hull.

PBE binds anions wrongly, and PBE+U energies of transition metals do not compare with PBE energies
of the metals. A scheme adds a fitted amount for each anion and each such metal. Which amounts apply
is decided as if the crystal had been computed with the settings of the Materials Project: +U for
V, Cr, Mn, Fe, Co, Ni, Mo and W where oxygen or fluorine is the most electronegative element.

The kind of an oxide (oxide, peroxide, superoxide, ozonide) comes from O-O distances: a generated
crystal with a short O-O bond changes its correction by 0.2 to 0.5 eV for each oxygen, so the kind
is part of the answer.

Source:
    Wang et al., A framework for quantifying uncertainty in DFT energy corrections (2021), by
    pymatgen's ``MaterialsProject2020Compatibility``; MatterGen (2025) for the +U bookkeeping and
    for TRI110.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

TRI110_FACTOR = 1.108
TRI110_METALS_EV = {
    "Co": -2.275,
    "Cr": -2.707,
    "Fe": -3.189,
    "Mn": -2.280,
    "Mo": -4.930,
    "Ni": -3.361,
    "V": -2.774,
    "W": -6.261,
}
"""Added for each atom that has a U, in eV."""


@dataclass(frozen=True)
class Corrections:
    """What the Materials Project's 2020 scheme adds to raw energies.

    Attributes:
        energy_ev: Sum for each cell, ``(n_crystals,)``; NaN where the scheme rejects a crystal.
        parts: By the name of each adjustment, in eV a cell, for each crystal.
        run_type: ``"GGA"`` or ``"GGA+U"``, for each crystal.
        oxide_type: Oxide, peroxide, superoxide, ozonide or hydroxide; None without oxygen.
    """

    energy_ev: Float[Tensor, " n_crystals"]
    parts: list[dict[str, float]]
    run_type: list[str]
    oxide_type: list[str | None]


def mp2020(batch: CrystalBatch, *, run_types: Sequence[str] | None = None) -> Corrections:
    """Return the corrections of 2020 for crystals with raw PBE or PBE+U energies.

    Args:
        batch: The crystals.
        run_types: ``"GGA"`` or ``"GGA+U"`` for each crystal; what the Materials Project would have
            done unless given. An oxide of a metal with U that was run without it is rejected.

    Raises:
        InputError: If a run type is unknown, or there are not as many as crystals.
    """
    if run_types is not None and (
        len(run_types) != len(batch) or not {*run_types} <= {"GGA", "GGA+U"}
    ):
        raise InputError("run_types must have GGA or GGA+U for each crystal.")
    found = Corrections(torch.full((len(batch),), torch.nan, dtype=torch.float64), [], [], [])
    if not len(batch):
        return found
    scheme, states = _scheme(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown oxidation states are the rule, not the exception
        for i in range(len(batch)):
            structure = to_structure(batch, i)
            run_type, hubbards = _hubbards(structure)
            if run_types is not None and run_types[i] != run_type:
                run_type, hubbards = run_types[i], {} if run_types[i] == "GGA" else hubbards
            oxide = _oxide_type(structure)
            parts = _adjustments(scheme, structure, run_type, hubbards, oxide, states)
            if parts is not None:
                found.energy_ev[i] = sum(parts.values())
            found.parts.append(parts or {})
            found.run_type.append(run_type)
            found.oxide_type.append(oxide)
    return found


def tri110(
    energy_ev: Float[Tensor, " n_crystals"], batch: CrystalBatch
) -> Float[Tensor, " n_crystals"]:
    """Return raw energies by the scheme TRI110 (2024): scaled, and shifted for atoms with a U.

    Args:
        energy_ev: Raw PBE or PBE+U energy of each cell.
        batch: The crystals.
    """
    shift = torch.zeros(len(batch), dtype=torch.float64)
    for i in range(len(batch)):
        composition = to_structure(batch, i).composition
        hubbards = _hubbards(composition)[1]
        shift[i] = sum(TRI110_METALS_EV[metal] * composition[metal] for metal in hubbards)
    return TRI110_FACTOR * energy_ev.double() + shift


def _scheme() -> Any:  # noqa: ANN401 - pymatgen's class, imported where it is used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

        # No pseudopotentials to check: no calculation was done.
        return MaterialsProject2020Compatibility(check_potcar=False)


def _hubbards(crystal: Any) -> tuple[str, dict[str, float]]:  # noqa: ANN401 - see below
    """Return the run type and the values of U in eV that the Materials Project would use.

    Args:
        crystal: A structure or composition of pymatgen.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet

    composition = getattr(crystal, "composition", crystal)
    elements = sorted(composition.elements, key=lambda element: element.X)
    table = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    values = {e.symbol: float(table[e.symbol]) for e in elements if table.get(e.symbol, 0) > 0}
    return ("GGA+U", values) if values else ("GGA", {})


def _oxide_type(structure: "Structure") -> str | None:
    if "O" not in structure.composition or len(structure.composition) == 1:
        return None
    from pymatgen.core.structure_analyzer import oxide_type

    return str(oxide_type(structure, 1.05))


def _adjustments(
    scheme: Any,  # noqa: ANN401 - pymatgen's class, imported where it is used
    structure: "Structure",
    run_type: str,
    hubbards: dict[str, float],
    oxide: str | None,
    states: dict[str, dict[str, float]],
) -> dict[str, float] | None:
    """Return what the scheme adds by name, None if it rejects the crystal.

    Args:
        scheme: The scheme.
        structure: The crystal.
        run_type: GGA or GGA+U.
        hubbards: U by element.
        oxide: Kind of oxide.
        states: Oxidation states by reduced formula; filled as they are found, as that is slow.
    """
    from pymatgen.entries.compatibility import CompatibilityError
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    formula = structure.composition.reduced_formula
    data: dict[str, Any] = {} if oxide is None else {"oxide_type": oxide}
    if formula in states:
        data["oxidation_states"] = states[formula]
    entry = ComputedStructureEntry(
        structure,
        0.0,
        parameters={"run_type": run_type, "hubbards": hubbards, "software": "none"},
        data=data,
    )
    try:
        found = scheme.get_adjustments(entry)
    except CompatibilityError:
        return None
    states[formula] = entry.data.get("oxidation_states", {})
    return {_short(adjustment.name): float(adjustment.value) for adjustment in found}


def _short(name: str) -> str:
    """Return ``anion (O, oxide)``-like names without the scheme's own."""
    return name.removeprefix("MP2020 ").replace(" correction", "")
