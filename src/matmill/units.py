"""Units of the properties that people ask for, and exact conversions between them."""

from matmill.errors import InputError

# Factor from the unit to the first unit of its group. Constants: CODATA 2018.
_GROUPS: dict[str, dict[str, float]] = {
    "energy": {"eV": 1.0, "meV": 1e-3, "kJ/mol": 0.010364269656262175},
    "energy per atom": {
        "eV/atom": 1.0,
        "meV/atom": 1e-3,
        "kJ/mol/atom": 0.010364269656262175,
    },
    "pressure": {"GPa": 1.0, "MPa": 1e-3, "kbar": 0.1, "Pa": 1e-9, "eV/A3": 160.21766340000002},
    "density": {"g/cm3": 1.0, "kg/m3": 1e-3},
    "volume per atom": {"A3/atom": 1.0, "nm3/atom": 1e3},
    "number": {"": 1.0},
}
_SPELLINGS = {"Å": "A", "³": "3", "^": "", "·": "*", " ": ""}


def _plain(unit: str) -> str:
    for fancy, simple in _SPELLINGS.items():
        unit = unit.replace(fancy, simple)
    return unit


def units_like(unit: str) -> list[str]:
    """Return all units that convert to ``unit``."""
    plain = _plain(unit)
    return next((list(group) for group in _GROUPS.values() if plain in group), [plain])


def convert(value: float, given: str, wanted: str) -> float:
    """Return ``value`` in the unit ``wanted``.

    Raises:
        InputError: If the units measure different things or are unknown.
    """
    start, end = _plain(given), _plain(wanted)
    if start == end:
        return value
    for group in _GROUPS.values():
        lowered = {name.lower(): name for name in group}
        if end in group:
            # "gpa" is plainly GPa, but "mev" could be read as MeV or meV: case decides there.
            name = start if start in group else lowered.get(start.lower())
            if name is not None:
                return value * group[name] / group[end]
    raise InputError(
        f"'{given}' is not a unit of this property. Use one of: {', '.join(units_like(wanted))}."
    )
