"""Write the element and oxidation-state tables that ship in src/matmill/assets.

Run: python benchmarks/make_element_table.py   (needs pymatgen, ase and smact)
"""

import csv
import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import smact
from ase.data import atomic_masses_iupac2016, covalent_radii
from pymatgen.core import Element
from smact.utils.oxidation import ICSD24OxStatesFilter

ASSETS = Path(__file__).parents[1] / "src" / "matmill" / "assets"
SYMBOLS = [Element.from_Z(z).symbol for z in range(1, 119)]
NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
SMACT_FILES = {
    "smact14": "oxidation_states.txt",
    "icsd16": "oxidation_states_icsd.txt",
    "icsd24_raw": "oxidation_states_icsd24_raw.txt",
    "wiki": "oxidation_states_wiki.txt",
    "sp": "oxidation_states_SP.txt",
}


def valence(element, kind):
    """Electrons of one kind (s, p, d, f) outside the noble-gas core."""
    z = element.Z
    core = max(n for n in NOBLE if n < z) if z > 1 else 0
    left, counts = core, dict.fromkeys("spdf", 0)
    for _, letter, n in aufbau(element):
        if left > 0:
            left -= n
            continue
        counts[letter] += n
    return counts[kind]


def aufbau(element):
    """Shells, those of the noble-gas core first."""
    core_z = max((n for n in NOBLE if n < element.Z), default=0)
    shells = list(element.full_electronic_structure)
    if core_z == 0:
        return shells
    core = {(n, s) for n, s, _ in Element.from_Z(core_z).full_electronic_structure}
    inner = [x for x in shells if (x[0], x[1]) in core]
    return inner + [x for x in shells if (x[0], x[1]) not in core]


def cell(get, element):
    """A finite value as text, empty where unknown."""
    try:
        value = get(element)
    except KeyError:
        value = None
    if value is None or value != value:
        return ""
    return f"{float(value):.8g}"


COLUMNS = {
    "mass": ("amu", "IUPAC 2016, as in ASE", lambda e: atomic_masses_iupac2016[e.Z]),
    "electronegativity": ("Pauling", "pymatgen periodic table", lambda e: e.X),
    "covalent_radius": (
        "angstrom",
        "Cordero et al. 2008, as in ASE",
        lambda e: covalent_radii[e.Z] if e.Z <= 96 else None,  # Cordero ends at Cm,
    ),
    "atomic_radius": ("angstrom", "Slater 1964, as in pymatgen", lambda e: e.atomic_radius),
    "van_der_waals_radius": ("angstrom", "pymatgen", lambda e: e.van_der_waals_radius),
    "group": ("", "IUPAC; f block is 3", lambda e: e.group),
    "period": ("", "IUPAC", lambda e: next(i for i, n in enumerate(NOBLE) if n >= e.Z)),
    "mendeleev_number": ("", "Pettifor 1984, as in pymatgen", lambda e: e.mendeleev_no),
    "first_ionization_energy": ("eV", "NIST, as in pymatgen", lambda e: e.ionization_energy),
    "electron_affinity": ("eV", "pymatgen", lambda e: e.electron_affinity),
    "melting_point": ("K", "pymatgen", lambda e: e.melting_point),
    "boiling_point": ("K", "pymatgen", lambda e: e.boiling_point),
    "molar_volume": ("cm^3/mol", "pymatgen", lambda e: e.molar_volume),
    "thermal_conductivity": ("W/m/K", "pymatgen", lambda e: e.thermal_conductivity),
    "n_valence_s": ("electrons", "outside the noble-gas core", lambda e: valence(e, "s")),
    "n_valence_p": ("electrons", "outside the noble-gas core", lambda e: valence(e, "p")),
    "n_valence_d": ("electrons", "outside the noble-gas core", lambda e: valence(e, "d")),
    "n_valence_f": ("electrons", "outside the noble-gas core", lambda e: valence(e, "f")),
    "is_metal": ("", "SMACT 4.0 list of metals", lambda e: e.symbol in smact.metals),
}


def main():
    """Write both files."""
    warnings.simplefilter("ignore")
    with (ASSETS / "elements.csv").open("w", newline="", encoding="utf-8") as file:
        for name, (unit, source, _) in COLUMNS.items():
            file.write(f"# {name} [{unit}] {source}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "symbol", *COLUMNS])
        for symbol in SYMBOLS:
            e = Element(symbol)
            writer.writerow([e.Z, symbol, *(cell(get, e) for *_, get in COLUMNS.values())])

    states = {name: read_states(file) for name, file in SMACT_FILES.items()}
    table = ICSD24OxStatesFilter().filter(consensus=3, commonality="low")
    rows = zip(table["element"], table["oxidation_state"], strict=True)
    states["icsd24"] = {symbol: text.split() for symbol, text in rows}
    names = ["smact14", "icsd16", "icsd24", "icsd24_raw", "wiki", "sp"]
    with (ASSETS / "oxidation_states.csv").open("w", newline="", encoding="utf-8") as file:
        file.write("# Oxidation states by table, as in SMACT 4.0 (MIT)\n")
        file.write("# icsd24: non-zero states with at least 3 reports, the default of SMACT 4.0\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["symbol", *names])
        for symbol in SYMBOLS:
            cells = [" ".join(str(int(q)) for q in states[n].get(symbol, [])) for n in names]
            writer.writerow([symbol, *cells])
    write_cards()


def write_cards():
    """Write the card of each table."""
    tools = ("pymatgen", "ase", "smact")
    common = {
        "rows": len(SYMBOLS),
        "command": "python benchmarks/make_element_table.py",
        "made_with": {name: version(name) for name in tools},
    }
    cards = {
        "elements": {
            "what": "Properties of the elements H to Og; an empty cell is unknown.",
            "columns": {k: {"unit": u, "source": s} for k, (u, s, _) in COLUMNS.items()},
            "licence": "facts; collected from pymatgen (MIT), ASE (LGPL) and SMACT (MIT)",
            "limits": "Radii and electronegativities differ between sources; heavy elements "
            "lack many values.",
        },
        "oxidation_states": {
            "what": "Oxidation states of the elements in six named tables.",
            "columns": {
                "smact14": "SMACT list of 2014",
                "icsd16": "states reported in the ICSD, 2016",
                "icsd24": "non-zero states with at least 3 reports in the ICSD, 2024",
                "icsd24_raw": "all states reported in the ICSD, 2024",
                "wiki": "Wikipedia, 2022",
                "sp": "structure predictor of pymatgen, 2017",
            },
            "licence": "MIT, from SMACT 4.0, copyright its authors",
            "limits": "The share of charge-neutral formulas depends on the table: name it beside "
            "the number. Metals and alloys have no meaningful states.",
        },
    }
    for name, card in cards.items():
        digest = hashlib.sha256((ASSETS / f"{name}.csv").read_bytes()).hexdigest()
        text = json.dumps({**card, **common, "sha256": digest}, indent=2, ensure_ascii=False)
        (ASSETS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def read_states(name):
    """Read one of SMACT's lists."""
    text = (Path(smact.data_directory) / name).read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {row[0]: row[1:] for row in rows if row}


if __name__ == "__main__":
    main()
