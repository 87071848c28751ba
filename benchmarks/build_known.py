"""Build the index of known crystals that ships: formulas and fingerprints, no structures.

    python benchmarks/build_known.py

Fingerprints in parts under ``MATMILL_HULL_WORK`` (resumable), then the two distances are measured
on pairs of the same formula, then ``src/matmill/assets/known.parquet`` and its card are written.
"""

import hashlib
import json
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hull_common import DATA, ROOT, WORK, read_structures, write_atomic
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.matching import Matcher
from matmill.verify.novelty import STRUCTURE_FILES, fingerprint, known_table

K = 8  # of each of the three kinds of distances
PART = 2000
N_PAIRS = 600
ASSETS = ROOT / "src" / "matmill" / "assets"


def known_crystals() -> tuple[CrystalBatch, np.ndarray]:
    """Return all known crystals, each id once, and their space groups."""
    seen: set[str] = set()
    batches, groups = [], []
    for name in STRUCTURE_FILES:
        batch = read_structures(DATA / name)
        group = pq.read_table(DATA / name, columns=["spacegroup"])["spacegroup"].fill_null(0)
        rows = torch.tensor([i for i, key in enumerate(batch.ids) if key not in seen])
        seen.update(batch.ids)
        batches.append(batch.select(rows.long()))
        groups.append(group.to_numpy()[rows.numpy()])
    return concatenate(batches), np.concatenate(groups)


def all_prints(batch: CrystalBatch) -> np.ndarray:
    """Return the fingerprints of all crystals, part by part."""
    folder = WORK / f"prints_{K}"
    found = []
    begin = time.perf_counter()
    for part, start in enumerate(range(0, len(batch), PART)):
        path = folder / f"{part:04d}.parquet"
        chunk = batch.select(torch.arange(start, min(start + PART, len(batch))))
        if not path.exists():
            values = fingerprint(chunk, K).numpy()
            columns = {f"print_{j:02d}": values[:, j] for j in range(3 * K)}
            write_atomic(pa.table({"material_id": list(chunk.ids), **columns}), path)
            sys.stderr.write(f"part {part}: {time.perf_counter() - begin:.0f} s\n")
        table = pq.read_table(path)
        assert table["material_id"].to_pylist() == list(chunk.ids)
        found.append(np.stack([table[f"print_{j:02d}"].to_numpy() for j in range(3 * K)], axis=1))
    return np.concatenate(found)


def measure_pairs(batch: CrystalBatch, prints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fingerprint distances of random pairs of one formula, and whether they match."""
    by_formula: dict[str, list[int]] = {}
    for i, formula in enumerate(batch.formula):
        if batch.n_atoms[i] <= 24:
            by_formula.setdefault(formula, []).append(i)
    rng = np.random.default_rng(0)
    several = [rows for rows in by_formula.values() if len(rows) > 1]
    pairs = [
        tuple(rng.choice(several[int(g)], 2, replace=False).tolist())
        for g in rng.choice(len(several), N_PAIRS, replace=False)
    ]
    chosen = sorted({i for pair in pairs for i in pair})
    place = {row: i for i, row in enumerate(chosen)}
    matcher = Matcher(batch.select(torch.tensor(chosen)))
    distance = np.array([np.abs(prints[a] - prints[b]).max() for a, b in pairs])
    same = np.array([matcher.same(place[a], place[b]) for a, b in pairs])
    return distance, same


def main() -> None:
    torch.set_num_threads(1)
    batch, groups = known_crystals()
    prints = all_prints(batch)
    distance, same = measure_pairs(batch, prints)
    # "Likely" takes in nine of ten true matches: calling a known crystal new is the worse mistake.
    likely = float(np.ceil(np.percentile(distance[same], 90) * 1000) / 1000)
    never = float(max(2 * distance[same].max(), 0.3))
    about: dict[str, object] = {"name": "mp_union+novelty_reference", "likely": likely}
    about |= {"never": never, "format": 1}
    volume = (batch.volume / batch.n_atoms).numpy().astype(np.float16)
    extra = {"spacegroup": groups.astype(np.int16), "volume_per_atom_a3": volume}
    path = ASSETS / "known.parquet"
    write_atomic(known_table(batch, prints, extra, about), path, compression_level=19)
    called = distance <= likely
    np.savez(WORK / "known_pairs.npz", distance=distance, same=same)
    curve = {
        f"{t:g}": [int((same & (distance <= t)).sum()), int((~same & (distance <= t)).sum())]
        for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
    }
    card = {
        "name": about["name"],
        "what": "Known crystals: reduced formula and a fingerprint of the geometry, no structure.",
        "fingerprint": f"Average minimum distances 1 to {K} over (volume/atom)^(1/3) of all atoms, "
        "of the least and of the most electronegative element, float16.",
        "command": "python benchmarks/build_known.py",
        "data": {
            name: hashlib.sha256((DATA / name).read_bytes()).hexdigest() for name in STRUCTURE_FILES
        },
        "attribution": [
            "Materials Project, Jain et al. 2013, CC BY 4.0; Alexandria, CC BY 4.0; OQMD, "
            "CC BY 4.0; JARVIS (NIST). Facts and fingerprints that we computed; no structure."
        ],
        "licence": "CC BY 4.0",
        "n_crystals": len(batch),
        "n_formulas": len(set(batch.formula)),
        "calibration": {
            "pairs": f"{N_PAIRS} random pairs of one formula, at most 24 atoms a cell, seed 0; "
            "judge: StructureMatcher 0.2/0.3/5",
            "same": int(same.sum()),
            "same_and_different_below_distance": curve,
            "likely_below": round(likely, 4),
            "same_called_likely": int((same & called).sum()),
            "different_called_likely": int((~same & called).sum()),
            "largest_distance_of_a_match": round(float(distance[same].max()), 4),
            "never_above": round(never, 4),
        },
        "limits": [
            "A 'likely' match was not confirmed: give the structures (MATMILL_DATA) to confirm.",
            "Cells above 64 atoms, disordered crystals and anything outside these files are "
            "missing, so 'not known' means not known here.",
            "The fingerprint does not see which site an element of middle electronegativity takes.",
        ],
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    sys.stderr.write(f"{path}: {path.stat().st_size / 1e6:.2f} MB\n{text}")


if __name__ == "__main__":
    main()
