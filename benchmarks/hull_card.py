"""The card of the hull table: what it was made from, how good it is, what it cannot do."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hull_common import DATA
from matmill.crystals.elements import SYMBOLS
from matmill.verify.hull import ON_HULL
from matmill.verify.hull_entries import HullEntries

FILES = ("mp_union", "mp_20", "element_references", "novelty_reference")

PITFALLS = {
    "training-set leakage": (
        "CHGNet was trained on relaxations of Materials Project crystals, so the references are "
        "described better than new crystals. The sign of the effect on new ones is unknown; the "
        "calibration below is on crystals of that kind, all within 0.1 eV of the hull by DFT, and "
        "is therefore optimistic."
    ),
    "magnetism": "CHGNet has one magnetic branch; no other spin state is tried.",
    "relaxed and unrelaxed references": (
        "Candidates are relaxed. An unrelaxed reference lies too high by the drop given under "
        "'relaxation', so a candidate next to it looks too stable by up to that much. The name of "
        "the hull says whether all vertices are relaxed."
    ),
    "float32": "Energies repeat to about 0.01 meV/atom within one build of torch.",
    "missing competitors": (
        "Given crystals without an energy (see 'counts') are the largest cells, those that DFT "
        "puts on the hull excepted. Cells above 64 atoms, the withheld rows and everything outside "
        "the files named under 'data' are missing, so the hull lies too high there and candidates "
        "look too stable. Each verdict shows the number of known crystals in its chemical system; "
        "fewer than 3 is a flag."
    ),
    "elements": (
        "The lowest given polymorph of each element. Large ground states (alpha-S with 128 atoms) "
        "are missing. Gases are molecular crystals, which CHGNet treats poorly; their error enters "
        "only where a pure gas competes."
    ),
    "corrections": "CHGNet 0.3.0 carries the Materials Project's 2020 corrections. None is added.",
}


def make_card(
    table: pa.Table, entries: HullEntries, distance: np.ndarray, about: dict[str, object]
) -> dict[str, object]:
    """Return the card as a dictionary that goes to JSON."""
    from build_hull import counts_by_id

    vertices = distance <= ON_HULL
    near = distance <= 0.03
    n_given = len(counts_by_id())
    missing = [s for s in SYMBOLS[1:95] if s not in _elements(entries)]
    return {
        "name": about["name"],
        "version": about["version"],
        "scheme": about["scheme"],
        "what": "Energies of known crystals by CHGNet 0.3.0, lowest of each reduced formula.",
        "potential": {"name": about["potential"], "weights_hash": about["potential_hash"]},
        "command": [
            "python benchmarks/build_hull_energies.py",
            "python benchmarks/build_hull_relax.py",
            "python benchmarks/build_hull.py",
        ],
        "data": {name: {"sha256": _sha256(DATA / f"{name}.parquet")} for name in FILES},
        "attribution": [
            "Structures: Materials Project, Jain et al. 2013, CC BY 4.0; of novelty_reference "
            "also Alexandria (CC BY 4.0), OQMD (CC BY 4.0) and JARVIS (NIST). The table has only "
            "compositions, ids and energies that we computed; no structure.",
            "Potential: CHGNet 0.3.0, Deng et al. 2023, BSD-3-Clause-LBNL, package chgnet.",
        ],
        "licence": "CC BY 4.0",
        "counts": {
            "crystals_given": n_given,
            "crystals_computed": int(np.isfinite(table["energy_ev"].to_numpy()).sum()),
            "crystals_without_energy": int((~np.isfinite(table["energy_ev"].to_numpy())).sum()),
            "formulas": len(entries.ids),
            "vertices": int(vertices.sum()),
            "within_30_mev": int(near.sum()),
            "elements_missing_up_to_Pu": missing,
        },
        "relaxation": _relaxation(table, entries, vertices, near),
        "calibration": calibration(table, entries, distance),
        "limits": PITFALLS,
    }


def _elements(entries: HullEntries) -> set[str]:
    alone = entries.counts[(entries.counts > 0).sum(1) == 1]
    return {SYMBOLS[z] for z in np.nonzero(alone.sum(0))[0]}


def _relaxation(
    table: pa.Table, entries: HullEntries, vertices: np.ndarray, near: np.ndarray
) -> dict[str, object]:
    relaxed = table["relaxed_ev"].to_numpy(zero_copy_only=False).astype(float)
    drop = (table["energy_ev"].to_numpy() - relaxed) / table["n_atoms"].to_numpy()
    known = np.isfinite(drop)
    drop, n_atoms = drop[known], table["n_atoms"].to_numpy()[known]
    steps = table["steps"].to_numpy(zero_copy_only=False).astype(float)[known]
    card: dict[str, object] = {
        "settings": "FIRE on cell and positions, fmax 0.1 eV/Å, at most 200 steps, as in design",
        "crystals_relaxed": len(drop),
        "vertices_relaxed": f"{int(entries.relaxed[vertices].sum())} of {int(vertices.sum())}",
        "within_30_mev_relaxed": f"{int(entries.relaxed[near].sum())} of {int(near.sum())}",
    }
    if len(drop):
        card["lowered_by_mev_per_atom"] = {
            "mean": round(1000 * float(drop.mean()), 2),
            "median": round(1000 * float(np.median(drop)), 2),
            "90th_percentile": round(1000 * float(np.percentile(drop, 90)), 2),
        }
        card["share_within_fmax_as_given"] = round(float((steps == 0).mean()), 3)
        card["mean_drop_mev_per_atom_by_size"] = {
            f"{low}-{high} atoms": [
                round(1000 * float(drop[(n_atoms >= low) & (n_atoms <= high)].mean()), 2),
                int(((n_atoms >= low) & (n_atoms <= high)).sum()),
            ]
            for low, high in ((1, 4), (5, 8), (9, 16), (17, 64))
            if ((n_atoms >= low) & (n_atoms <= high)).any()
        }
    return card


def calibration(table: pa.Table, entries: HullEntries, distance: np.ndarray) -> dict[str, object]:
    """Compare our distances with those by DFT, on the validation rows of MP-20.

    Ours are of the same crystal: its own energy (relaxed where known) over the hull value at its
    composition. Below zero is impossible here, as every crystal is itself an entry.
    """
    columns = ["material_id", "split", "energy_above_hull_ev", "energy_above_hull_est_ev"]
    dft = pq.read_table(DATA / "mp_20.parquet", columns=columns).to_pandas()
    dft = dft[dft["split"] == "val"]
    tabulated = dft["energy_above_hull_ev"].fillna(dft["energy_above_hull_est_ev"])
    truth = dict(zip(dft["material_id"], tabulated, strict=True))
    floor = dict(
        zip(
            (row.tobytes() for row in entries.counts),
            entries.energy_ev_per_atom - distance,
            strict=True,
        )
    )
    from build_hull import counts_by_id

    counts = counts_by_id()
    relaxed = table["relaxed_ev"].to_numpy(zero_copy_only=False).astype(float)
    energy = np.where(np.isnan(relaxed), table["energy_ev"].to_numpy(), relaxed)
    energy = energy / table["n_atoms"].to_numpy()
    mine, theirs = [], []
    for key, value in zip(table["material_id"].to_pylist(), energy, strict=True):
        if not np.isfinite(truth.get(key, np.nan)):
            continue
        row = counts[key].astype(np.int32)
        row = row // np.gcd.reduce(row[row > 0])
        mine.append(value - floor[row.tobytes()])
        theirs.append(truth[key])
    a, b = np.array(mine), np.array(theirs)
    # A vertex is zero up to rounding; one meV decides "on the hull" for both.
    confusion = {}
    for limit in (0.001, 0.05, 0.1):
        ours, dfts = a <= limit, b <= limit
        confusion[f"at_{limit:g}_ev"] = {
            "both": int((ours & dfts).sum()),
            "only_ours": int((ours & ~dfts).sum()),
            "only_dft": int((~ours & dfts).sum()),
            "neither": int((~ours & ~dfts).sum()),
        }
    return {
        "rows": "MP-20 validation rows with a DFT hull distance (tabulated, else recomputed)",
        "n": len(a),
        "mae_mev_per_atom": round(1000 * float(np.abs(a - b).mean()), 2),
        "bias_mev_per_atom": round(1000 * float((a - b).mean()), 2),
        "median_abs_mev_per_atom": round(1000 * float(np.median(np.abs(a - b))), 2),
        "confusion": confusion,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
