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
HARTREE_EV = 27.211386
BOHR_ANGSTROM = 0.52917721
NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)
# fmt: off
PYYKKO_PM = (
    32, 46, 133, 102, 85, 75, 71, 63, 64, 67, 155, 139, 126, 116, 111, 103, 99, 96, 196, 171, 148,
    136, 134, 122, 119, 116, 111, 110, 112, 118, 124, 121, 121, 116, 114, 117, 210, 185, 163, 154,
    147, 138, 128, 125, 125, 120, 128, 136, 142, 140, 140, 136, 133, 131, 232, 196, 180, 163, 176,
    174, 173, 172, 168, 169, 168, 167, 166, 165, 164, 170, 162, 152, 146, 137, 131, 129, 122, 123,
    124, 133, 144, 144, 151, 145, 147, 142, 223, 201, 186, 175, 169, 170, 171, 172, 166, 166, 168,
    168, 165, 167, 173, 176, 161, 157, 149, 143, 141, 134, 129, 128, 121, 122, 136, 143, 162, 175,
    165, 157,
)
POLARIZABILITY_BOHR3 = (
    4.50711, 1.38375, 164.1125, 37.74, 20.5, 11.3, 7.4, 5.3, 3.74, 2.6611, 162.7, 71.2, 57.8, 37.3,
    25, 19.4, 14.6, 11.083, 289.7, 160.8, 97, 100, 87, 83, 68, 62, 55, 49, 46.5, 38.67, 50, 40, 30,
    28.9, 21, 16.78, 319.8, 197.2, 162, 112, 98, 87, 79, 72, 66, 26.14, 55, 46, 65, 53, 43, 38,
    32.9, 27.32, 400.9, 272, 215, 205, 216, 208, 200, 192, 184, 158, 170, 163, 156, 150, 144, 139,
    137, 103, 74, 68, 62, 57, 54, 48, 36, 33.91, 50, 47, 48, 44, 42, 35, 317.8, 246, 203, 217, 154,
    129, 151, 132, 131, 144, 125, 122, 118, 113, 109, 110, 320, 112, 42, 40, 38, 36, 34, 32, 32,
    28, 29, 31, 70, 67, 62, 58,
)
# fmt: on
# Symbol, molar volume, electron density, potential, charge transfer, hybridisation.
MIEDEMA = """
H 1.7 3.38 5.2 0.14 0; Li 13.0 0.94 2.85 0.14 0; Be 4.9 4.66 5.05 0.1 0.4;
B 4.7 5.36 5.3 0.07 1.9; C 3.26 5.55 6.24 0.04 2.1; N 4.1 4.49 6.86 0.04 2.3;
Na 23.78 0.55 2.7 0.14 0; Mg 14.0 1.6 3.45 0.1 0.4; Al 10.0 2.7 4.2 0.07 1.9;
Si 8.6 3.38 4.7 0.04 2.1; P 8.6 4.49 5.55 0.04 2.3; K 45.63 0.27 2.25 0.14 0;
Ca 26.2 0.75 2.55 0.1 0.4; Sc 15.03 2.05 3.25 0.07 0.7; Ti 10.58 3.51 3.8 0.04 1;
V 8.36 4.41 4.25 0.04 1; Cr 7.23 5.18 4.65 0.04 1; Mn 7.35 4.17 4.45 0.04 1;
Fe 7.09 5.55 4.93 0.04 1; Co 6.7 5.36 5.1 0.04 1; Ni 6.6 5.36 5.2 0.04 1;
Cu 7.12 3.18 4.45 0.07 0.3; Zn 9.17 2.3 4.1 0.1 1.4; Ga 11.82 2.25 4.1 0.07 1.9;
Ge 9.87 2.57 4.55 0.04 2.1; As 11.85 3.0 4.8 0.04 2.3; Rb 56.07 0.22 2.1 0.14 0;
Sr 33.93 0.59 2.4 0.1 0.4; Y 19.9 1.77 3.2 0.07 0.7; Zr 14.0 2.8 3.45 0.04 1;
Nb 10.87 4.41 4.05 0.04 1; Mo 9.4 5.55 4.65 0.04 1; Tc 8.64 5.93 5.3 0.04 1;
Ru 8.2 6.13 5.4 0.04 1; Rh 8.3 5.45 5.4 0.04 1; Pd 8.9 4.66 5.45 0.04 1;
Ag 10.25 2.52 4.35 0.07 0.3; Cd 13.0 1.91 4.05 0.1 1.4; In 15.75 1.6 3.9 0.07 1.9;
Sn 16.3 1.9 4.15 0.04 2.1; Sb 16.95 2.0 4.4 0.04 2.3; Cs 69.23 0.17 1.95 0.14 0;
Ba 38.1 0.53 2.32 0.1 0.4; La 22.55 1.64 3.17 0.07 0.7; Ce 21.62 1.69 3.18 0.07 0.7;
Pr 20.79 1.73 3.19 0.07 0.7; Nd 20.58 1.73 3.19 0.07 0.7; Pm 20.25 1.77 3.19 0.07 0.7;
Sm 20.01 1.77 3.2 0.07 0.7; Eu 19.97 1.77 3.2 0.1 0.7; Gd 19.9 1.77 3.2 0.07 0.7;
Tb 19.32 1.82 3.21 0.07 0.7; Dy 19.0 1.82 3.21 0.07 0.7; Ho 18.76 1.82 3.22 0.07 0.7;
Er 18.45 1.86 3.22 0.07 0.7; Tm 18.12 1.86 3.22 0.07 0.7; Yb 17.97 1.86 3.22 0.1 0.7;
Lu 17.77 1.91 3.22 0.07 0.7; Hf 13.45 3.05 3.6 0.04 1; Ta 10.81 4.33 4.05 0.04 1;
W 9.55 5.93 4.8 0.04 1; Re 8.85 6.33 5.2 0.04 1; Os 8.45 6.33 5.4 0.04 1;
Ir 8.52 6.13 5.55 0.04 1; Pt 9.1 5.64 5.65 0.04 1; Au 10.2 3.87 5.15 0.07 0.3;
Hg 14.08 1.91 4.2 0.1 1.4; Tl 17.23 1.4 3.9 0.07 1.9; Pb 18.28 1.52 4.1 0.04 2.1;
Bi 19.32 1.56 4.15 0.04 2.3; Th 19.8 2.1 3.3 0.04 0.7; U 13.15 3.44 3.9 0.04 1;
Pu 12.06 2.99 3.8 0.04 1
"""
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


def number_of(text):
    """The number at the start of a value of pymatgen, which may carry remarks."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def highest_orbital(element, letter):
    """Energy of the highest atomic orbital of one kind outside the noble-gas core, in eV."""
    if not valence(element, letter):
        return None
    orbitals = element.data["Atomic orbitals"] or {}
    energies = [e for name, e in orbitals.items() if name[1] == letter]
    return max(energies) * HARTREE_EV if energies else None


def miedema(place):
    """A column of the table of Miedema's parameters."""
    rows = [row.split() for row in MIEDEMA.split(";")]
    values = {row[0]: float(row[place]) for row in rows}
    return lambda e: values.get(e.symbol)


def ground_state(name):
    """A column of Magpie's table of the elements' ground states."""
    with (Path(smact.data_directory) / "magpie.csv").open(encoding="utf-8") as file:
        values = {row["element"]: row[name] for row in csv.DictReader(file)}
    return lambda e: number_of(values.get(e.symbol))


def cell(get, element):
    """A finite value as text, empty where unknown."""
    try:
        value = get(element)
    except KeyError:
        value = None
    if value is None or value != value:
        return ""
    return f"{float(value):.8g}"


BOER = "de Boer et al., Cohesion in Metals (1988), as in matminer"
MAGPIE = "OQMD by PBE, Ward et al. 2016 (Magpie), as in SMACT"
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
    "pyykko_radius": (
        "angstrom",
        "single bonds, Pyykkö and Atsumi 2009",
        lambda e: PYYKKO_PM[e.Z - 1] / 100,
    ),
    "polarizability": (
        "angstrom^3",
        "free atom, Schwerdtfeger and Nagle 2018, update of 2020",
        lambda e: POLARIZABILITY_BOHR3[e.Z - 1] * BOHR_ANGSTROM**3,
    ),
    "metallic_radius": (
        "angstrom",
        "pymatgen",
        lambda e: number_of(e.data["Metallic radius"]),
    ),
    "density": ("kg/m^3", "of the solid, pymatgen", lambda e: e.density_of_solid),
    "bulk_modulus": ("GPa", "pymatgen", lambda e: e.bulk_modulus),
    "orbital_s_energy": (
        "eV",
        "highest valence s level of the free atom in LDA, NIST, as in pymatgen",
        lambda e: highest_orbital(e, "s"),
    ),
    "orbital_p_energy": (
        "eV",
        "highest valence p level of the free atom in LDA, NIST, as in pymatgen",
        lambda e: highest_orbital(e, "p"),
    ),
    "orbital_d_energy": (
        "eV",
        "highest valence d level of the free atom in LDA, NIST, as in pymatgen",
        lambda e: highest_orbital(e, "d"),
    ),
    "miedema_volume": ("cm^3/mol", f"molar volume, {BOER}", miedema(1)),
    "miedema_density": (
        "density units",
        f"electron density at the cell boundary, {BOER}",
        miedema(2),
    ),
    "miedema_potential": ("V", f"work function like potential, {BOER}", miedema(3)),
    "miedema_transfer": ("1/V", f"volume change by charge transfer, {BOER}", miedema(4)),
    "miedema_hybridisation": ("", f"hybridisation of p and d electrons, {BOER}", miedema(5)),
    "ground_state_volume": ("angstrom^3/atom", MAGPIE, ground_state("GSvolume_pa")),
    "ground_state_band_gap": ("eV", MAGPIE, ground_state("GSbandgap")),
    "ground_state_moment": ("Bohr magneton/atom", MAGPIE, ground_state("GSmagmom")),
    "ground_state_space_group": ("", MAGPIE, ground_state("SpaceGroupNumber")),
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
            "licence": "facts; collected from pymatgen (MIT), ASE (LGPL), SMACT (MIT) and "
            "matminer (BSD)",
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
