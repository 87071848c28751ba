"""Make the table of Magpie's 22 element properties, as it was published, missing values filled in.

Run: python benchmarks/make_magpie_table.py   (needs smact)

SMACT carries the table under the MIT licence. Numbers, order and units are kept: distances between
unscaled Magpie vectors are dominated by the columns with large numbers, so another unit would give
another distance.
"""

import csv
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import smact

ASSETS = Path(__file__).parents[1] / "src" / "matmill" / "assets"
UNITS = {
    "AtomicWeight": "amu",
    "MeltingT": "K",
    "CovalentRadius": "pm",
    "Electronegativity": "Pauling",
    "GSvolume_pa": "angstrom^3/atom",
    "GSbandgap": "eV",
    "GSmagmom": "Bohr magneton/atom",
}
SOURCE = "Ward et al., A general-purpose machine learning framework (Magpie), 2016, as in SMACT"


def main():
    with (Path(smact.data_directory) / "magpie.csv").open(encoding="utf-8") as file:
        names, *rows = list(csv.reader(file))
    lines = [f"# {name} [{UNITS.get(name, '')}] {SOURCE}" for name in names[1:]]
    lines.append(",".join(["symbol", *names[1:]]))
    lines += [",".join([row[0], *(f"{float(x):.12g}" for x in row[1:])]) for row in rows]
    text = "\n".join(lines) + "\n"
    (ASSETS / "magpie.csv").write_text(text, encoding="utf-8")
    card = {
        "what": "The 22 properties of the elements of Magpie, in its own units and order.",
        "columns": {name: {"unit": UNITS.get(name, ""), "source": SOURCE} for name in names[1:]},
        "licence": "facts; collected in SMACT (MIT)",
        "limits": "Missing values were filled with means at the source (electronegativity and "
        "melting point of helium, for instance); elements beyond the table have none.",
        "rows": len(rows),
        "command": "python benchmarks/make_magpie_table.py",
        "made_with": {"smact": version("smact")},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    path = ASSETS / "magpie.json"
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(rows)} elements, {len(text)} bytes")


if __name__ == "__main__":
    main()
