"""Step 1 of the hull: single-point energies of all given crystals with the embedded potential.

    python benchmarks/build_hull_energies.py

Small crystals first; results in parts of 1,000 crystals under ``MATMILL_HULL_WORK``. A killed run
continues where it stopped. One thread: run it with ``OMP_NUM_THREADS=1``.
"""

import sys
import time

import pyarrow as pa
import torch

from hull_common import DATA, WORK, Crystals, read_structures, write_atomic
from matmill.crystals.batch import concatenate
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


def main() -> None:
    torch.set_num_threads(1)
    crystals = all_crystals()
    potential = load_chgnet()
    folder = WORK / "energies"
    starts = range(0, len(crystals.batch), PART)
    begin, n_done = time.perf_counter(), 0
    for part, start in enumerate(starts):
        path = folder / f"{part:04d}.parquet"
        if path.exists():
            continue
        batch = crystals.batch.select(torch.arange(start, min(start + PART, len(crystals.batch))))
        output = potential.compute(batch, forces=False)
        table = pa.table(
            {
                "material_id": list(batch.ids),
                "source": crystals.source[start : start + PART],
                "n_atoms": batch.n_atoms.numpy(),
                "energy_ev": output.energy_ev.numpy(),
            }
        )
        write_atomic(table, path)
        n_done += int(batch.n_atoms.sum())
        seconds = time.perf_counter() - begin
        sys.stderr.write(
            f"part {part + 1}/{len(starts)}: {n_done} atoms in {seconds:.0f} s, "
            f"{n_done / seconds:.0f} atoms/s\n"
        )


if __name__ == "__main__":
    main()
