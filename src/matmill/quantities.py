"""Every property once: its name, unit, label, direction and plausible range.

Labels, units and axis titles everywhere are made from this table; columns are called
``Quantity.column``, which carries the unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matmill.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One property of a crystal.

    Attributes:
        name: What users type, e.g. ``"band_gap"``.
        column: Name in tables, with the unit, e.g. ``"band_gap_ev"``.
        unit: Unit of the column, as people write it; empty for pure numbers.
        label: For axes and headings.
        low: Smallest physically plausible value.
        high: Largest plausible value.
        exact: True when it is computed from the structure instead of predicted.
        log: True when a factor matters more than a difference (moduli).
    """

    name: str
    column: str
    unit: str
    label: str
    low: float
    high: float
    exact: bool = False
    log: bool = False

    @property
    def title(self) -> str:
        """Label with unit, for axes."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def _q(
    name: str, suffix: str, unit: str, label: str, low: float, high: float, **flags: bool
) -> Quantity:
    column = f"{name}{suffix}"
    return Quantity(name=name, column=column, unit=unit, label=label, low=low, high=high, **flags)


_ALL = (
    _q("formation_energy_per_atom", "_ev", "eV/atom", "Formation energy", -6.0, 6.0),
    _q("band_gap", "_ev", "eV", "Band gap (PBE)", 0.0, 20.0),
    _q("energy_above_hull", "_ev", "eV/atom", "Energy above hull", -1.0, 10.0),
    _q("bulk_modulus", "_vrh_gpa", "GPa", "Bulk modulus (VRH)", 0.0, 700.0, log=True),
    _q("shear_modulus", "_vrh_gpa", "GPa", "Shear modulus (VRH)", 0.0, 700.0, log=True),
    _q("density", "_g_cm3", "g/cm3", "Density", 0.0, 30.0, exact=True),
    _q("volume_per_atom", "_a3", "A3/atom", "Volume per atom", 1.0, 500.0, exact=True),
    _q("n_elements", "", "", "Number of elements", 1, 20, exact=True),
    _q("fermi_energy", "_ev", "eV", "Fermi energy", -30.0, 30.0),
    _q("total_magnetization", "_mu_b", "", "Magnetization per cell", -200.0, 200.0),
)
QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}
BY_COLUMN: dict[str, Quantity] = {quantity.column: quantity for quantity in _ALL}
ALIASES = {
    "formation_energy": "formation_energy_per_atom",
    "gap": "band_gap",
    "e_hull": "energy_above_hull",
    "ehull": "energy_above_hull",
    "bulk_modulus_vrh": "bulk_modulus",
    "shear_modulus_vrh": "shear_modulus",
}


def find(name: str, added: Sequence[Quantity] = ()) -> Quantity:
    """Return the quantity that ``name`` (a name, a column or an alias) stands for.

    Args:
        name: In any case, with spaces or hyphens for underscores.
        added: Quantities that only this caller knows, looked at first.

    Raises:
        UnknownNameError: With the closest known name.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    for quantity in added:
        if plain in (quantity.name, quantity.column):
            return quantity
    plain = ALIASES.get(plain, plain)
    if plain in QUANTITIES:
        return QUANTITIES[plain]
    if plain in BY_COLUMN:
        return BY_COLUMN[plain]
    known = sorted([*QUANTITIES, *(quantity.name for quantity in added)])
    raise UnknownNameError("property", name, known)
