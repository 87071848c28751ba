"""Step 3 of the hull: the table that ships, and its card, from the energies computed so far.

    python benchmarks/build_hull_energies.py          # step 1, single points, 20 minutes
    python benchmarks/build_hull_relax.py --hours 1   # step 2, relaxations near the hull, resumable
    python benchmarks/build_hull.py                   # step 3, seconds; run it again after step 2

    python benchmarks/build_hull_energies.py --extend  # only what the table that ships lacks
    python benchmarks/build_hull.py --extend           # merged into that table

Writes ``src/matmill/assets/hull_chgnet.parquet`` and ``.json``. Every change of an energy makes
another hull: raise `VERSION`, which is in its name.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hull_common import DATA, ROOT, WORK, read_structures, write_atomic
from matmill.crystals.composition import element_counts
from matmill.verify.hull import ON_HULL, Hull, lowest_mixture
from matmill.verify.hull_entries import HullEntries, element_masks, entries_to_table
from matmill.verify.potentials import load_chgnet

FILES = ("mp_union", "mp_20", "element_references", "novelty_reference")
VERSION = 3
ASSETS = ROOT / "src" / "matmill" / "assets"


def load_energies() -> pa.Table:
    """Return one row a crystal: id, source, atoms, single-point energy, relaxed energy or null."""
    parts = sorted((WORK / "energies").glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path) for path in parts])
    first = {key: row for row, key in reversed(list(enumerate(table["material_id"].to_pylist())))}
    table = table.take(sorted(first.values()))  # a part of stable ones may repeat others
    relaxed = sorted((WORK / "relaxed").glob("*.parquet"))
    if not relaxed:
        table = table.append_column("steps", pa.nulls(len(table), pa.int64()))
        return table.append_column("relaxed_ev", pa.nulls(len(table), pa.float64()))
    done = pa.concat_tables([pq.read_table(path) for path in relaxed])
    done = done.filter(done["converged"])
    keys = done["material_id"].to_pylist()
    energy = dict(zip(keys, done["energy_ev"].to_pylist(), strict=True))
    steps = dict(zip(keys, done["steps"].to_pylist(), strict=True))
    every = table["material_id"].to_pylist()
    values = [energy.get(key) for key in every]
    table = table.append_column("steps", pa.array([steps.get(key) for key in every], pa.int64()))
    return table.append_column("relaxed_ev", pa.array(values, pa.float64()))


def counts_by_id() -> dict[str, np.ndarray]:
    """Return the element counts of every given crystal."""
    counts: dict[str, np.ndarray] = {}
    for name in reversed(FILES):
        batch = read_structures(DATA / f"{name}.parquet")
        prefix = "ref:" if name == "element_references" else ""
        rows = element_counts(batch).numpy().astype(np.int16)
        counts.update((prefix + key, row) for key, row in zip(batch.ids, rows, strict=True))
    return counts


def lowest_entries(table: pa.Table) -> HullEntries:
    """Return the lowest crystal of each reduced formula; relaxed energies count where known."""
    counts = counts_by_id()
    ids = table["material_id"].to_pylist()
    single = table["energy_ev"].to_numpy()
    relaxed = table["relaxed_ev"].to_numpy(zero_copy_only=False).astype(float)
    n_atoms = table["n_atoms"].to_numpy()
    best: dict[bytes, int] = {}
    members: dict[bytes, int] = {}
    reduced: dict[bytes, np.ndarray] = {}
    energy = np.where(np.isnan(relaxed), single, relaxed) / n_atoms
    for i, key in enumerate(ids):
        row = counts[key].astype(np.int32)
        row = row // np.gcd.reduce(row[row > 0])
        formula = row.tobytes()
        members[formula] = members.get(formula, 0) + (not key.startswith("ref:"))
        if not np.isfinite(energy[i]):
            continue
        if formula not in best or energy[i] < energy[best[formula]]:
            best[formula], reduced[formula] = i, row
    order = sorted(best, key=lambda formula: ids[best[formula]])
    chosen = [best[formula] for formula in order]
    return HullEntries(
        counts=np.stack([reduced[formula] for formula in order]),
        energy_ev_per_atom=np.round(energy[chosen], 6),
        above_hull_ev_per_atom=None,
        relaxed=~np.isnan(relaxed[chosen]),
        n_crystals=np.array([max(members[formula], 1) for formula in order]),
        ids=[ids[i] for i in chosen],
    )


def own_distances(entries: HullEntries) -> np.ndarray:
    """Return every entry's distance to the hull of all entries, eV per atom.

    Small systems first: what lies above the hull of its own system lies above every larger one's,
    so only vertices are handed on.
    """
    masks = element_masks(entries.counts > 0)
    fractions = entries.counts / entries.counts.sum(1, keepdims=True)
    energy = entries.energy_ev_per_atom
    systems: dict[bytes, list[int]] = {}
    for i, mask in enumerate(masks):
        systems.setdefault(mask.tobytes(), []).append(i)
    order = sorted(systems.values(), key=lambda rows: (entries.counts[rows[0]] > 0).sum())
    distance = np.zeros(len(energy))
    vertices = np.zeros(len(energy), dtype=np.int64)
    words = np.zeros((2, len(energy)), dtype=np.uint64)  # masks of the vertices, word by word
    n_vertices = 0
    for rows in order:
        outside = ~masks[rows[0]]
        strange = words[0, :n_vertices] & outside[0]
        strange |= words[1, :n_vertices] & outside[1]
        inside = vertices[:n_vertices][strange == 0]
        pool = np.concatenate([inside, rows]).astype(np.int64)
        elements = np.nonzero(entries.counts[rows[0]])[0]
        part = fractions[pool][:, elements]
        for i in rows:
            value = lowest_mixture(part, energy[pool], fractions[i, elements])
            distance[i] = energy[i] - value
            if distance[i] <= ON_HULL:
                vertices[n_vertices] = i
                words[:, n_vertices] = masks[i]
                n_vertices += 1
    return distance


def save(
    entries: HullEntries, distance: np.ndarray, make: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Write the table and its card.

    Args:
        entries: The table.
        distance: Of each entry to the hull.
        make: Returns the card from the name and the like.
    """
    entries = replace(entries, above_hull_ev_per_atom=np.maximum(distance, 0.0))
    on_hull = distance <= ON_HULL
    state = "relaxed" if bool(entries.relaxed[on_hull].all()) else "partly-relaxed"
    if not entries.relaxed.any():
        state = "single-points"
    potential = load_chgnet()
    about: dict[str, Any] = {
        "name": f"{potential.name}/mp_union-v{VERSION}/{state}",
        "potential": potential.name,
        "potential_hash": potential.hash,
        "scheme": potential.scheme,
        "version": VERSION,
        "format": 1,
    }
    path = ASSETS / "hull_chgnet.parquet"
    card = make(about)
    write_atomic(entries_to_table(entries, about), path, compression_level=19)
    card["file_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    sys.stderr.write(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {about['name']}\n")


def extend() -> None:
    """Merge what was computed since into the table that ships."""
    from hull_card import calibration
    from hull_extend import all_energies, merge, read_added, rise, update_card

    counts = counts_by_id()
    before = Hull.load().entries
    added = read_added(counts)
    after = merge(before, added, counts)
    sys.stderr.write(f"{len(after.ids) - len(before.ids)} new formulas\n")
    distance = own_distances(after)
    highest_rise = rise(before, after, distance)
    if highest_rise > 1e-4:
        raise SystemExit(f"The hull rose by {highest_rise:.4f} eV/atom: entries were lost.")
    energies = all_energies((after, before), added, counts)
    path = ASSETS / "hull_chgnet.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    save(
        after,
        distance,
        lambda about: update_card(
            card,
            before,
            after,
            distance,
            about=about,
            n_given=len(counts),
            calibration=calibration(energies, after, distance),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extend", action="store_true", help="add to the table that ships")
    if parser.parse_args().extend:
        extend()
        return
    begin = time.perf_counter()
    table = load_energies()
    entries = lowest_entries(table)
    sys.stderr.write(f"{len(entries.ids)} formulas, {time.perf_counter() - begin:.0f} s\n")
    distance = own_distances(entries)
    sys.stderr.write(f"hull distances, {time.perf_counter() - begin:.0f} s\n")
    from hull_card import make_card

    save(entries, distance, lambda about: make_card(table, entries, distance, about))


if __name__ == "__main__":
    main()
