"""Speed-up of the relaxation stage: two processes, and a local Ray cluster, over one process.

    OMP_NUM_THREADS=1 python benchmarks/workers.py --out benchmarks/results/workers.json

Generated crystals are screened and cut into tasks as a campaign cuts them, and the same tasks are
relaxed by each crew in turn, several times over, so that a change of the machine's load meets all
of them. Models are loaded before a clock starts. The medians are compared; that every crew gives
the same energies is checked. Run it on a machine that does nothing else.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from matmill.campaign.plan import CampaignSettings
from matmill.campaign.provenance import machine
from matmill.campaign.ray_workers import RayWorkers
from matmill.campaign.relaxation import Relaxation, cut
from matmill.campaign.workers import LocalWorkers, Workers
from matmill.crystals.batch import CrystalBatch
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.randomness import child
from matmill.registry import potentials
from matmill.verify.relax import RelaxSettings
from matmill.verify.validity import Limits, check

ELEMENTS = ("Li", "Na", "Mg", "Al", "Si", "P", "S", "Zn", "Ga", "Ge", "N", "O", "F", "Cl", "Se")


def crystals(n: int, seed: int) -> CrystalBatch:
    """Return the first ``n`` valid crystals that the shipped generator makes of this seed."""
    request = GenerationRequest(n=2 * n, elements=ELEMENTS)
    batch = load_generator("flow").sample(request, child(seed, "workers"))
    valid = [i for i, fate in enumerate(check(batch, Limits())) if fate is None]
    batch = batch.select(valid[:n])
    return batch.with_ids(batch.hashes)


def run(workers: Workers, work: Relaxation, tasks: list[CrystalBatch], n: int) -> dict[str, object]:
    """Relax all tasks on loaded workers; return the wall time and every energy."""
    smallest = min(tasks, key=lambda batch: int(batch.n_atoms.sum()))
    workers.map(work, [smallest.select([0])] * (4 * n))  # all of them have loaded after this
    start = time.perf_counter()
    outcomes = workers.map(work, tasks)
    seconds = time.perf_counter() - start
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert not errors, errors[0]
    energies = [record["energy_ev"] for outcome in outcomes for record in outcome.value[1]]
    busy = sum(outcome.seconds for outcome in outcomes)
    return {"seconds": seconds, "busy_seconds": busy, "energies": energies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=60, help="crystals")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=None, help="of a relaxation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    changes = {} if options.max_steps is None else {"max_steps": options.max_steps}
    settings = CampaignSettings(relax=RelaxSettings(**changes))
    batch = crystals(options.n, options.seed)
    pieces = cut(list(range(len(batch))), batch, settings.chunk_atoms)
    tasks = [batch.select(list(piece.candidates)) for piece in reversed(pieces)]
    work = Relaxation(potentials.load("chgnet"), settings.relax)
    crews: dict[str, tuple[int, Callable[[], Workers]]] = {
        "1 process": (1, lambda: LocalWorkers(1)),
        "2 processes": (2, lambda: LocalWorkers(2)),
    }
    if not options.no_ray:
        crews["Ray, 2 cores"] = (2, lambda: RayWorkers(2))
    runs: dict[str, list[dict]] = {name: [] for name in crews}
    for repeat in range(options.repeats):
        for name, (n, make) in crews.items():
            workers = make()
            runs[name].append(run(workers, work, tasks, n))
            workers.close()
            print(f"{repeat + 1}. {name}: {runs[name][-1]['seconds']:.1f} s", file=sys.stderr)
    energies = [one.pop("energies") for found in runs.values() for one in found]
    median = {name: statistics.median(r["seconds"] for r in found) for name, found in runs.items()}
    one = median["1 process"]
    record = {
        "n_crystals": len(batch),
        "n_tasks": len(tasks),
        "seed": options.seed,
        "settings": settings.relax.model_dump(mode="json"),
        "same_energies": all(found == energies[0] for found in energies),
        "median_seconds": median,
        "speed_up": {name: one / seconds for name, seconds in median.items()},
        "share_of_linear": {name: one / median[name] / crews[name][0] for name in crews},
        "runs": runs,
        "machine": machine(),
    }
    for name in crews:
        print(
            f"{name:>14}: {median[name]:8.1f} s, {record['speed_up'][name]:.2f}x, "
            f"{record['share_of_linear'][name]:.2f} of linear"
        )
    print(f"same energies: {record['same_energies']}; {len(batch)} crystals, {len(tasks)} tasks")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
