"""Energy above hull of 10,000 candidates: matmill's hull against pymatgen's phase diagrams.

    python benchmarks/hull.py                 # 10,000 candidates, pymatgen on the first 500
    python benchmarks/hull.py -n 2000 --peer 200

Candidates are the compositions of ``wbm_sample.parquet``, crystals made by substitution, with an
energy of -5 eV an atom each, as only the hull is timed. Both get the table that ships. The peer
builds a ``PhaseDiagram`` for each chemical system from the entries of all its subsystems, which it
is handed by an index, keeps it for other candidates of that system, and is asked with
``allow_negative``. Times are processor time, one thread, so that a busy machine matters little;
reading the table is not in them, the first question to each system is.
"""

import argparse
import json
import sys
import time
import warnings
from itertools import combinations

import numpy as np
import torch

from hull_common import DATA, read_structures
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import chemical_systems, element_counts
from matmill.crystals.elements import SYMBOLS
from matmill.verify.hull import ON_HULL, Hull

ENERGY = -5.0  # eV per atom


def ours(hull: Hull, batch: CrystalBatch) -> tuple[np.ndarray, dict[str, float]]:
    """Return distances and seconds: index, first questions, the same again, and competitors."""
    energy = ENERGY * batch.n_atoms.double()
    begin = time.process_time()
    hull.value(np.eye(len(SYMBOLS), dtype=np.int64)[1])
    index = time.process_time() - begin
    begin = time.process_time()
    above = hull.energy_above(energy, batch)
    first = time.process_time() - begin
    begin = time.process_time()
    hull.energy_above(energy, batch)
    again = time.process_time() - begin
    begin = time.process_time()
    hull.n_competitors(batch)
    hull.n_competitors(batch, subsystems=True)
    counting = time.process_time() - begin
    return above.numpy(), {"index": index, "first": first, "again": again, "competitors": counting}


class Peer:
    """pymatgen's phase diagrams, one for each chemical system."""

    def __init__(self, hull: Hull, *, vertices_only: bool) -> None:
        from pymatgen.analysis.phase_diagram import PDEntry
        from pymatgen.core import Composition

        entries = hull.entries
        above = entries.above_hull_ev_per_atom
        assert above is not None
        rows = np.nonzero(above <= ON_HULL)[0] if vertices_only else np.arange(len(entries.ids))
        self.by_system: dict[tuple[str, ...], list[PDEntry]] = {}
        for i in rows:
            there = np.nonzero(entries.counts[i])[0]
            atoms = {SYMBOLS[z]: int(entries.counts[i, z]) for z in there}
            energy = entries.energy_ev_per_atom[i] * sum(atoms.values())
            entry = PDEntry(Composition(atoms), energy)
            self.by_system.setdefault(tuple(sorted(atoms)), []).append(entry)
        self.diagrams: dict[tuple[str, ...], object] = {}

    def above(self, atoms: dict[str, int]) -> float:
        """Return the distance of a composition, NaN where the diagram lacks an element."""
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition

        system = tuple(sorted(atoms))
        if system not in self.diagrams:
            inside = [
                entry
                for size in range(1, len(system) + 1)
                for part in combinations(system, size)
                for entry in self.by_system.get(part, ())
            ]
            try:
                self.diagrams[system] = PhaseDiagram(inside)
            except (ValueError, IndexError):
                self.diagrams[system] = None
        diagram = self.diagrams[system]
        if diagram is None:
            return float("nan")
        entry = PDEntry(Composition(atoms), ENERGY * sum(atoms.values()))
        try:
            return float(diagram.get_e_above_hull(entry, allow_negative=True))  # type: ignore[attr-defined]
        except ValueError:
            return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10_000, help="candidates")
    parser.add_argument("--peer", type=int, default=500, help="of them by pymatgen as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch = read_structures(DATA / "wbm_sample.parquet")
    rng = torch.Generator().manual_seed(0)
    batch = batch.select(torch.randperm(len(batch), generator=rng)[: arguments.n])
    hull = Hull.load()
    above, seconds = ours(hull, batch)
    counts = element_counts(batch).numpy()[: arguments.peer]
    answer = {
        "candidates": len(batch),
        "systems": len(set(chemical_systems(batch))),
        "without_a_hull": int(np.isnan(above).sum()),
        "hull": hull.name,
        "ours_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "ours_us_per_candidate": round(1e6 * seconds["first"] / len(batch), 1),
    }
    subset = batch.select(torch.arange(len(counts)))
    for vertices_only in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = Peer(hull, vertices_only=vertices_only)
            begin = time.process_time()
            theirs = np.array(
                [
                    peer.above({SYMBOLS[z]: int(row[z]) for z in np.nonzero(row)[0]})
                    for row in counts
                ]
            )
            spent = time.process_time() - begin
        fresh = Hull(hull.entries, name=hull.name, hash=hull.hash)
        mine, same = ours(fresh, subset)
        both = np.isfinite(theirs) & np.isfinite(mine)
        answer["pymatgen, vertices only" if vertices_only else "pymatgen, all entries"] = {
            "candidates": len(counts),
            "seconds": round(spent, 2),
            "ours_seconds": round(same["first"], 3),
            "ratio": round(spent / same["first"], 1),
            "compared": int(both.sum()),
            "nan_in_one_only": int((np.isfinite(theirs) != np.isfinite(mine)).sum()),
            "largest_difference_ev_per_atom": float(np.abs(theirs - mine)[both].max()),
        }
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
