"""Element properties that the descriptors average: the element table and what follows from it."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.elements import table

_TABULATED = (
    "mendeleev_number",
    "mass",
    "group",
    "period",
    "electronegativity",
    "covalent_radius",
    "pyykko_radius",
    "atomic_radius",
    "metallic_radius",
    "van_der_waals_radius",
    "first_ionization_energy",
    "electron_affinity",
    "polarizability",
    "melting_point",
    "boiling_point",
    "molar_volume",
    "thermal_conductivity",
    "density",
    "bulk_modulus",
    "orbital_s_energy",
    "orbital_p_energy",
    "orbital_d_energy",
    "n_valence_s",
    "n_valence_p",
    "n_valence_d",
    "n_valence_f",
    "is_metal",
    "ground_state_volume",
    "ground_state_band_gap",
    "ground_state_moment",
    "ground_state_space_group",
    "miedema_density",
    "miedema_potential",
)
# Looked up by name, but not averaged: they mean something in formulas only.
_OTHERS = (
    "miedema_volume",
    "miedema_transfer",
    "miedema_hybridisation",
)
_SHELLS = {"s": 2, "p": 6, "d": 10, "f": 14}


def property_names() -> tuple[str, ...]:
    """Return the names of the element properties, in the order of `property_table`."""
    return tuple(_columns())


@cache
def property_table() -> Float[Tensor, "119 n_properties"]:
    """Return all element properties by atomic number, NaN where unknown and at 0."""
    return torch.stack(list(_columns().values()), dim=1)


def element_property(name: str) -> Float[Tensor, " 119"]:
    """Return one property by atomic number."""
    return table(name) if name in _OTHERS else _columns()[name]


@cache
def _columns() -> dict[str, Float[Tensor, " 119"]]:
    number = torch.arange(119).double()
    number[0] = torch.nan
    columns = {"atomic_number": number, **{name: table(name) for name in _TABULATED}}
    total = torch.zeros(119, dtype=torch.float64)
    unfilled = torch.zeros(119, dtype=torch.float64)
    for shell, capacity in _SHELLS.items():
        filled = columns[f"n_valence_{shell}"]
        # An empty shell counts as absent, not as wide open: the convention of Magpie.
        missing = torch.where(filled > 0, capacity - filled, 0 * filled)
        columns[f"n_unfilled_{shell}"] = missing
        total, unfilled = total + filled, unfilled + missing
    columns["n_valence"] = total
    columns["n_unfilled"] = unfilled
    columns["valence_electrons"] = _valence_electrons(columns["group"], number)
    columns["mulliken_electronegativity"] = 0.5 * (
        columns["first_ionization_energy"] + columns["electron_affinity"]
    )
    orbitals = [columns[f"orbital_{shell}_energy"] for shell in "spd"]
    highest = torch.stack(orbitals).nan_to_num(nan=-torch.inf).amax(0)
    columns["highest_orbital_energy"] = highest.masked_fill(highest.isinf(), torch.nan)
    return columns


def _valence_electrons(group: Tensor, number: Tensor) -> Tensor:
    """Return the electrons that count in VEC: the group number, less 10 in the p block."""
    electrons = torch.where(group > 12, group - 10, group)
    return torch.where(number == 2, torch.full_like(group, 2.0), electrons)


FAMILIES: dict[str, tuple[int, ...]] = {
    "alkali": (3, 11, 19, 37, 55, 87),
    "alkaline_earth": (4, 12, 20, 38, 56, 88),
    "transition_metal": (*range(21, 31), *range(39, 49), *range(72, 81), *range(104, 113)),
    "early_transition_metal": (*range(21, 25), *range(39, 43), *range(72, 75)),
    "late_transition_metal": (*range(26, 30), *range(44, 48), *range(76, 80)),
    "noble_metal": (44, 45, 46, 47, 76, 77, 78, 79),
    "rare_earth": (21, 39, *range(57, 72)),
    "actinide": tuple(range(89, 104)),
    "post_transition_metal": (13, 31, 49, 50, 81, 82, 83),
    "metalloid": (5, 14, 32, 33, 51, 52),
    "pnictogen": (7, 15, 33, 51, 83),
    "chalcogen": (8, 16, 34, 52, 84),
    "halogen": (9, 17, 35, 53, 85),
    "noble_gas": (2, 10, 18, 36, 54, 86),
    "light_nonmetal": (1, 6, 7, 8),
}
"""Atomic numbers of the families whose share of the atoms is a column."""
