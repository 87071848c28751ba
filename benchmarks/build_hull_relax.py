"""Step 2 of the hull: relax the entries near it with the settings of the main job.

    python benchmarks/build_hull_relax.py --hours 1

Entries on the hull first, then those within 30 meV per atom, small cells first within each.
Results in parts under ``MATMILL_HULL_WORK``; a killed run continues where it stopped. Run
``build_hull.py`` before (which entries are near) and after (the new table).
"""

import argparse
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from build_hull import ASSETS
from hull_common import DATA, WORK, read_structures, write_atomic
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify.hull import ON_HULL
from matmill.verify.potentials import load_chgnet
from matmill.verify.relax import RelaxSettings, relax

ATOMS_A_PART = 1500
NEAR = 0.03


def wanted() -> CrystalBatch:
    """Return the crystals to relax, in order."""
    columns = ["material_id", "above_hull_ev_per_atom", "relaxed"]
    table = pq.read_table(ASSETS / "hull_chgnet.parquet", columns=columns)
    above = table["above_hull_ev_per_atom"].to_numpy()
    todo = (above <= NEAR) & ~table["relaxed"].to_numpy(zero_copy_only=False)
    done = _done()
    ids = [key for key, take in zip(table["material_id"].to_pylist(), todo, strict=True) if take]
    near = dict(zip(ids, above[todo] > ON_HULL, strict=True))
    batches = []
    for name in ("mp_union", "mp_20", "element_references", "novelty_reference"):
        batch = read_structures(DATA / f"{name}.parquet")
        if name == "element_references":
            batch = batch.with_ids([f"ref:{key}" for key in batch.ids])
        rows = [i for i, key in enumerate(batch.ids) if key in near and key not in done]
        done.update(batch.ids)
        batches.append(batch.select(torch.tensor(rows, dtype=torch.int64)))
    batch = concatenate(batches)
    order = np.lexsort((batch.n_atoms.numpy(), [near[key] for key in batch.ids]))
    return batch.select(torch.from_numpy(order))


def _done() -> set[str]:
    done: set[str] = set()
    for path in sorted((WORK / "relaxed").glob("*.parquet")):
        done.update(pq.read_table(path, columns=["material_id"])["material_id"].to_pylist())
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--sample", type=int, help="only so many, at random: what is to be gained")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 3600 * arguments.hours
    potential, settings = load_chgnet(), RelaxSettings()
    batch = wanted()
    folder = WORK / "relaxed"
    part = len(list(folder.glob("[0-9]*.parquet"))) if folder.exists() else 0
    name = ""
    if arguments.sample:
        rng = torch.Generator().manual_seed(0)
        batch = batch.select(torch.randperm(len(batch), generator=rng)[: arguments.sample])
        part, name = 0, "sample_"
    n_done = 0
    for chunk in batch.chunks(ATOMS_A_PART):
        if time.monotonic() > end:
            break
        result = relax(chunk, potential, settings)
        table = pa.table(
            {
                "material_id": list(chunk.ids),
                "energy_ev": result.energy_ev.numpy(),
                "start_energy_ev": result.start_energy_ev.numpy(),
                "converged": result.converged.numpy(),
                "steps": result.steps.numpy(),
                "volume_ratio": (result.batch.volume / chunk.volume).numpy(),
            }
        )
        write_atomic(table, folder / f"{name}{part:04d}.parquet")
        part += 1
        n_done += len(chunk)
        sys.stderr.write(
            f"{n_done}/{len(batch)}, {float(result.steps.double().mean()):.1f} steps, "
            f"{int(result.converged.sum())}/{len(chunk)} converged\n"
        )


if __name__ == "__main__":
    main()
