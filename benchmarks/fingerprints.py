"""Speed of fingerprints, of distances, and of looking for the nearest among a million references.

    OMP_NUM_THREADS=1 python benchmarks/fingerprints.py [-n 500] [--references 10000 100000 1000000]

Crystals per CPU second on one thread for MP-20 crystals; then milliseconds a query against
references of growing number, and the exponent of growth between the first and the last. References
beyond the given ones are made from real fingerprints: two of them blended, every distance scaled by
one number, so that they fill the same curved sheet that real ones fill. Needs the given crystals
(MATMILL_DATA).
"""

import argparse
import json
import math
import os
import platform
import resource
import time
from pathlib import Path

import numpy as np
import torch

from hull_common import DATA, read_structures
from matmill.crystals.composition import element_counts
from matmill.crystals.element_mover import composition_vectors, element_mover_distances
from matmill.crystals.fingerprint import amd, pdd
from matmill.crystals.magpie import magpie_vectors
from matmill.crystals.prototype import prototype_labels
from matmill.crystals.transport import pdd_distances
from matmill.verify.known_prints import KnownPrints

NAMES = ("amd", "elmd", "elmd+amd")


def cpu(call):
    """Return what a call gives and the CPU seconds it took."""
    start = time.process_time()
    answer = call()
    return answer, time.process_time() - start


def per_second(batch):
    """Return crystals per CPU second of each fingerprint, and pairs of each distance."""
    counts = element_counts(batch)
    makers = {
        "amd, k = 100": lambda: amd(batch),
        "pdd, k = 100": lambda: pdd(batch),
        "elmd vectors": lambda: composition_vectors(counts),
        "magpie": lambda: magpie_vectors(counts),
        "prototype label": lambda: prototype_labels(batch),
    }
    cpu(lambda: (pdd(batch.select([0])), prototype_labels(batch.select([0]))))  # imports
    rates = {name: len(batch) / cpu(make)[1] for name, make in makers.items()}
    few = batch.select(torch.arange(min(100, len(batch))))
    rows = pdd(few)
    pdd_distances(rows.select(slice(0, 1)), rows)  # imports
    _, spent = cpu(lambda: pdd_distances(rows, rows))
    pairs = {"pdd": len(few) ** 2 / spent}
    _, spent = cpu(lambda: element_mover_distances(counts, counts))
    pairs["elmd"] = len(batch) ** 2 / spent
    prints = amd(batch)
    _, spent = cpu(lambda: torch.cdist(prints, prints, p=torch.inf))
    pairs["amd"] = len(batch) ** 2 / spent
    return rates, pairs


def references(real, n, rng):
    """Return n made-up references from the fingerprints of real crystals."""
    n_formulas = max(1, n // 4)
    prints = torch.empty(n, real.amd.shape[1])
    lines = torch.empty(n_formulas, real.formulas.shape[1])
    for start in range(0, n, 50_000):
        part = slice(start, min(start + 50_000, n))
        first, second = rng.integers(0, len(real), (2, part.stop - start))
        blend = torch.from_numpy(0.3 * rng.random((len(first), 1))).float()
        scale = torch.from_numpy(np.exp(0.03 * rng.standard_normal((len(first), 1)))).float()
        prints[part] = (real.amd[first] * (1 - blend) + real.amd[second] * blend) * scale
        # Formulas of their own for every fourth: as in databases, several crystals share one.
        some = slice(start // 4, min(start // 4 + 12_500, n_formulas))
        pair = (real.formula[x[: some.stop - some.start]] for x in (first, second))
        lines[some] = sum(real.formulas[x] for x in pair) / 2
    return KnownPrints(
        name="made up",
        ids=tuple(map(str, range(n))),
        amd=prints,
        formula=torch.arange(n) % n_formulas,
        formulas=lines,
    )


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=500, help="crystals whose fingerprints are timed")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--references", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    whole = read_structures(DATA / "mp_20.parquet").to(dtype=torch.float64)
    drawn = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    timed = whole.select(drawn[: arguments.n])
    rates, pairs = per_second(timed)
    print(f"{len(timed)} MP-20 crystals, {int(timed.n_atoms.sum()) / len(timed):.1f} atoms each")
    for name, rate in rates.items():
        print(f"{name:>18} {rate:12,.0f} crystals per CPU second")
    for name, rate in pairs.items():
        print(f"{name:>18} {rate:12,.0f} pairs per CPU second")
    queries = whole.select(drawn[-arguments.queries :])
    real, _ = cpu(lambda: KnownPrints.build(whole.select(drawn[:5000]), name="real"))
    none = KnownPrints.build(whole.select([]), name="none")
    fixed = {kind: cpu(lambda kind=kind: none.novelty(queries, kind))[1] for kind in NAMES}
    spent = {kind: [] for kind in NAMES}
    rng = np.random.default_rng(0)
    for n in arguments.references:
        known = references(real, n, rng)
        _, build = cpu(lambda known=known: known._index.tree)
        known.novelty(queries.select([0]), "elmd+amd")  # groups the formulas, once
        for kind in NAMES:
            _, seconds = cpu(lambda known=known, kind=kind: known.novelty(queries, kind))
            # What the query's own fingerprint costs does not depend on the references.
            spent[kind].append(1000 * max(seconds - fixed[kind], 0.0) / len(queries))
        shown = ", ".join(f"{kind} {spent[kind][-1]:.2f}" for kind in NAMES)
        print(f"{n:>10,} references: tree in {build:.2f} s; ms a query: {shown}")
        del known
    ratio = math.log(arguments.references[-1] / arguments.references[0])
    growth = {
        kind: math.log(ms[-1] / ms[0]) / ratio for kind, ms in spent.items() if ratio and ms[0] > 0
    }
    print("exponent of growth: " + ", ".join(f"{kind} {x:.2f}" for kind, x in growth.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process {peak:,.0f} MB")
    if arguments.out:
        result = {
            "crystals_per_cpu_second": rates,
            "pairs_per_cpu_second": pairs,
            "references": arguments.references,
            "ms_per_query": spent,
            "growth_exponent": growth,
            "peak_memory_mb": peak,
            "machine": platform.processor() or platform.machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
            "torch": torch.__version__,
        }
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
