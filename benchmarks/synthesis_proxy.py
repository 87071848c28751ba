"""Does the synthesis proxy rank crystals that were made above ones that nobody reported?

    OMP_NUM_THREADS=1 python benchmarks/synthesis_proxy.py [-n 1000]

Made: MPTS-52 test, experimental crystals first reported 2004-2013. Unreported: WBM, made by
swapping elements in known crystals; some of them could well be made, so no score can reach 1. Known
to the proxy: MPTS-52 validation, reported 1997-2004, the time split. The hull is that of MP
formation energies without the formulas that are judged, so that no crystal is its own competitor.
Needs the given data (MATMILL_DATA). WBM crystals are small and came from prototypes of MP, which is
to the advantage of their family sign.
"""

import argparse
import json

import numpy as np
import pyarrow.parquet as pq
import torch

from hull_common import DATA
from matmill.crystals.batch import CrystalBatch
from matmill.verify.hull import Hull
from matmill.verify.hull_entries import HullEntries
from matmill.verify.synthesis import (
    charge_sign,
    family_sign,
    hull_sign,
    ranking_share,
    synthesis_proxy,
)

COLUMNS = ["material_id", "atomic_numbers", "frac_coords", "lattice", "split"]
ENERGY = "formation_energy_per_atom_ev"


def crystals(name, rows_of, n, seed):
    """Return a draw of crystals of a file with their formation energy in eV/atom."""
    table = pq.read_table(DATA / f"{name}.parquet", columns=[*COLUMNS, ENERGY])
    rows = np.flatnonzero(rows_of(table))
    if n and n < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
    rows = table.take(rows).to_pylist()
    return CrystalBatch.from_lists(
        [np.reshape(row["lattice"], (3, 3)) for row in rows],
        [np.reshape(row["frac_coords"], (-1, 3)) for row in rows],
        [row["atomic_numbers"] for row in rows],
        ids=[row["material_id"] for row in rows],
        properties={ENERGY: [row[ENERGY] for row in rows]},
    )


def hull_without(formulas):
    """Return the hull of MP formation energies, the elements at 0, without these formulas."""
    columns = ["formula", "elements_z", "counts", ENERGY, "recommended"]
    rows = pq.read_table(DATA / "hull_reference.parquet", columns=columns).to_pylist()
    best = {}
    for row in rows:
        key, energy = row["formula"], row[ENERGY]
        if not row["recommended"] or energy is None or key in formulas:
            continue
        if key not in best or energy < best[key][1]:
            best[key] = (row, energy)
    counts = np.zeros((len(best) + 94, 119), dtype=np.int32)
    energies = np.zeros(len(counts))
    for i, (row, energy) in enumerate(best.values()):
        counts[i, row["elements_z"]] = row["counts"]
        energies[i] = energy
    counts[np.arange(len(best), len(counts)), np.arange(1, 95)] = 1
    entries = HullEntries(
        counts=counts,
        energy_ev_per_atom=energies,
        relaxed=np.zeros(len(counts), dtype=bool),
        n_crystals=np.ones(len(counts), dtype=int),
        ids=[""] * len(counts),
    )
    return Hull(entries, name="MP formation energies", hash="")


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="crystals of each side")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def of_split(name):
        return lambda table: np.array(table["split"].to_pylist()) == name

    known = crystals("mpts_52", of_split("val"), 0, arguments.seed)
    made = crystals("mpts_52", of_split("test"), arguments.n, arguments.seed)
    unmade = crystals("wbm_sample", lambda table: np.ones(len(table)), arguments.n, arguments.seed)
    hull = hull_without({*made.formula, *unmade.formula})
    signs = []
    for side in (made, unmade):
        above = hull.energy_above(side.properties[ENERGY] * side.n_atoms, side)
        charges, family = charge_sign(side), family_sign(side, known)
        signs.append(
            {
                "hull": hull_sign(above),
                "charges": charges.double(),
                "family": family,
                "proxy": synthesis_proxy(above, charges, family),
            }
        )
    result = {
        "made": len(made),
        "unreported": len(unmade),
        "known": len(known),
        "with_energy": [int(torch.isfinite(side["hull"]).sum()) for side in signs],
        "ranking_share": {name: ranking_share(signs[0][name], signs[1][name]) for name in signs[0]},
        "ranking_share_of_known_prototypes": {
            name: ranking_share(*(side[name][side["family"] > 0] for side in signs))
            for name in signs[0]
        },
        "mean": {
            name: [float(side[name][torch.isfinite(side[name])].mean()) for side in signs]
            for name in signs[0]
        },
        "of_a_known_prototype": [float((side["family"] > 0).double().mean()) for side in signs],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
