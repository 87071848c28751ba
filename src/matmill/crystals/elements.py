"""One table of the elements, with units and sources, and the oxidation states by named table.

The values are read from ``assets/elements.csv``, whose head names unit and source of each column.
"""

import csv
from functools import cache
from importlib.resources import files

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import UnknownNameError

# fmt: off
SYMBOLS: tuple[str, ...] = (
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S",
    "Cl", "Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge",
    "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd",
    "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd",
    "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg",
    "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn",
    "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)
# fmt: on
"""Symbol of each atomic number; ``"X"`` at 0 stands for a masked atom."""

MAX_NUMBER = len(SYMBOLS) - 1

_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS)}


def number(symbol: str) -> int:
    """Return the atomic number of a symbol.

    Raises:
        UnknownNameError: If there is no such element.
    """
    z = _NUMBERS.get(symbol, 0)
    if z == 0:
        raise UnknownNameError("element", symbol, list(SYMBOLS[1:]))
    return z


def table(name: str) -> Float[Tensor, " 119"]:
    """Return one column of the table of elements, indexed by atomic number.

    Args:
        name: For instance ``"mass"`` (amu), ``"electronegativity"`` (Pauling),
            ``"covalent_radius"`` (Å, Cordero 2008), ``"atomic_radius"`` (Å, Slater), ``"group"``,
            ``"period"``, ``"is_metal"``; `table_names` lists all and `unit` tells their units.

    Returns:
        float64, NaN where unknown and at index 0.

    Raises:
        UnknownNameError: If there is no such column.
    """
    return _column(name).clone()


def table_names() -> list[str]:
    """Return the names that `table` knows."""
    return list(_columns()[0])


def unit(name: str) -> str:
    """Return the unit of a column, empty for a pure number.

    Raises:
        UnknownNameError: If there is no such column.
    """
    units = _columns()[1]
    if name not in units:
        raise UnknownNameError("element property", name, table_names())
    return units[name]


def oxidation_states(symbol: str, table: str = "smact14") -> tuple[int, ...]:
    """Return the oxidation states of an element, ascending; empty where the table has none.

    Args:
        symbol: Element symbol.
        table: ``"smact14"`` (the hand-made list of 2014), ``"icsd16"``, ``"icsd24"`` (non-zero
            states reported at least three times, the default of SMACT 4), ``"icsd24_raw"`` (all
            reported states), ``"wiki"`` or ``"sp"`` (pymatgen's structure predictor).

    Raises:
        UnknownNameError: If the element or the table is unknown.
    """
    states = _oxidation_tables()
    if table not in states:
        raise UnknownNameError("oxidation table", table, list(states))
    number(symbol)
    return states[table].get(symbol, ())


@cache
def _column(name: str) -> Tensor:
    columns = _columns()[0]
    if name not in columns:
        raise UnknownNameError("element property", name, list(columns))
    return torch.tensor([torch.nan, *columns[name]], dtype=torch.float64)


@cache
def _columns() -> tuple[dict[str, list[float]], dict[str, str]]:
    text = files("matmill").joinpath("assets", "elements.csv").read_text(encoding="utf-8")
    lines = text.splitlines()
    units: dict[str, str] = {}
    for line in lines:
        if line.startswith("# "):
            name, _, rest = line[2:].partition(" [")
            units[name] = rest.partition("]")[0]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    values = {name: [float(row[name] or "nan") for row in rows] for name in units}
    return values, units


@cache
def _oxidation_tables() -> dict[str, dict[str, tuple[int, ...]]]:
    path = files("matmill").joinpath("assets", "oxidation_states.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    tables: dict[str, dict[str, tuple[int, ...]]] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        symbol = row.pop("symbol")
        for name, cell in row.items():
            tables.setdefault(name, {})[symbol] = tuple(sorted(int(q) for q in cell.split()))
    return tables
