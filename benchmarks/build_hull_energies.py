"""Step 1 of the hull: single-point energies of all given crystals with the embedded potential.

    python benchmarks/build_hull_energies.py             # from nothing
    python benchmarks/build_hull_energies.py --extend    # what the shipped table lacks

Small crystals first; results in parts of 1,000 crystals under ``MATMILL_HULL_WORK``. A killed run
continues where it stopped. One thread: run it with ``OMP_NUM_THREADS=1``.

The shipped table has the lowest crystal of each formula and how many were computed, not which. So
``--extend`` computes every crystal of the formulas of which more are given than were computed, but
for the one in the table, and the validation rows of MP-20 that the card's calibration needs.
"""

import argparse
import sys
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hull_common import DATA, WORK, Crystals, read_structures, reduced_formulas, write_atomic
from matmill.crystals.batch import concatenate
from matmill.verify.hull import Hull
from matmill.verify.potentials import load_chgnet

PART = 1000
FILES = ("mp_union", "mp_20", "element_references", "novelty_reference")


def all_crystals() -> Crystals:
    """Return the crystals of `FILES`, each id once (first file wins), smallest cells first."""
    seen: set[str] = set()
    batches, source = [], []
    for name in FILES:
        batch = read_structures(DATA / f"{name}.parquet")
        new = [i for i, key in enumerate(batch.ids) if key not in seen]
        if name == "element_references":  # the same crystal may be in mp_union in another geometry
            batch = batch.with_ids([f"ref:{key}" for key in batch.ids])
            new = list(range(len(batch)))
        seen.update(batch.ids)
        batches.append(batch.select(torch.tensor(new)))
        source += [name] * len(new)
    batch = concatenate(batches)
    order = sorted(range(len(batch)), key=lambda i: (int(batch.n_atoms[i]), batch.ids[i]))
    return Crystals(batch.select(torch.tensor(order)), [source[i] for i in order])


def waiting_and_stable(crystals: Crystals) -> Crystals:
    """Return the crystals without an energy that are on the hull by DFT."""
    done: set[str] = set()
    for path in (WORK / "energies").glob("[0-9]*.parquet"):
        done.update(pq.read_table(path, columns=["material_id"])["material_id"].to_pylist())
    columns = ["material_id", "energy_above_hull_ev", "energy_above_hull_est_ev"]
    dft = pq.read_table(DATA / "mp_union.parquet", columns=columns).to_pandas()
    above = dft["energy_above_hull_ev"].fillna(dft["energy_above_hull_est_ev"])
    wanted = set(dft["material_id"][above <= 0.0]) - done
    rows = [i for i, key in enumerate(crystals.batch.ids) if key in wanted]
    return Crystals(crystals.batch.select(torch.tensor(rows)), [crystals.source[i] for i in rows])


def not_in_the_table(crystals: Crystals) -> Crystals:
    """Return the crystals that the shipped table may lack, and those that its card needs."""
    entries = Hull.load().entries
    computed = {row.tobytes(): n for row, n in zip(entries.counts, entries.n_crystals, strict=True)}
    formulas = [row.tobytes() for row in reduced_formulas(crystals.batch)]
    given = Counter(
        formula
        for formula, source in zip(formulas, crystals.source, strict=True)
        if source != "element_references"
    )
    columns = ["material_id", "split", "energy_above_hull_ev", "energy_above_hull_est_ev"]
    dft = pq.read_table(DATA / "mp_20.parquet", columns=columns).to_pandas()
    known = dft["energy_above_hull_ev"].fillna(dft["energy_above_hull_est_ev"])
    wanted = set(dft["material_id"][(dft["split"] == "val") & known.notna()])
    ready = set(entries.ids)
    for path in (WORK / "energies").glob("extend_*.parquet"):
        ready.update(pq.read_table(path, columns=["material_id"])["material_id"].to_pylist())
    rows = [
        i
        for i, (key, formula) in enumerate(zip(crystals.batch.ids, formulas, strict=True))
        if key not in ready
        # Of the elements' own references the table does not say how many were computed.
        and (key in wanted or key[:4] == "ref:" or given[formula] > computed.get(formula, 0))
    ]
    return Crystals(crystals.batch.select(torch.tensor(rows)), [crystals.source[i] for i in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stable-first",
        action="store_true",
        help="only crystals not done yet that DFT puts on the hull, in parts of their own",
    )
    parser.add_argument("--extend", action="store_true", help="only what the shipped table lacks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    crystals = all_crystals()
    potential = load_chgnet()
    folder = WORK / "energies"
    part_size = PART
    prefix = ""
    if arguments.stable_first:
        crystals, part_size, prefix = waiting_and_stable(crystals), 100, "stable_"
    elif arguments.extend:
        crystals, part_size, prefix = not_in_the_table(crystals), 500, "extend_"
        n_atoms = crystals.batch.n_atoms
        sys.stderr.write(f"{len(crystals.batch)} crystals, {int(n_atoms.sum())} atoms\n")
    # Those of --extend are counted on: what is lacking, and so the parts, changes with the table.
    first = len(list(folder.glob("extend_*.parquet"))) if arguments.extend else 0
    starts = range(0, len(crystals.batch), part_size)
    begin, n_done = time.perf_counter(), 0
    for part, start in enumerate(starts, start=first):
        path = folder / f"{prefix}{part:04d}.parquet"
        if path.exists():
            continue
        batch = crystals.batch.select(
            torch.arange(start, min(start + part_size, len(crystals.batch)))
        )
        output = potential.compute(batch, forces=False)
        table = pa.table(
            {
                "material_id": list(batch.ids),
                "source": crystals.source[start : start + part_size],
                "n_atoms": batch.n_atoms.numpy(),
                "energy_ev": output.energy_ev.numpy(),
            }
        )
        write_atomic(table, path)
        n_done += int(batch.n_atoms.sum())
        seconds = time.perf_counter() - begin
        sys.stderr.write(
            f"part {part + 1}/{first + len(starts)}: {n_done} atoms in {seconds:.0f} s, "
            f"{n_done / seconds:.0f} atoms/s\n"
        )


if __name__ == "__main__":
    main()
