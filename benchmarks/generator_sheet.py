"""The generator's sheet: what a set of crystals is worth, with the noise floor beside it.

    python benchmarks/generator_sheet.py --samples samples.parquet
    python benchmarks/generator_sheet.py --generator flow -n 1000 --seed 0 --out sheet.json

The reference of all distances is the test part of MP-20; the noise floor is as many crystals of
its training part, through the same protocol. The first ``--relax`` crystals of each set are
relaxed with the settings of the main job. Needs the given crystals (MATMILL_DATA). Match rates on
validation compositions: ``benchmarks/csp.py``.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import torch

from hull_common import DATA, read_structures
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import read, write
from matmill.randomness import child
from matmill.verify import metrics
from matmill.verify.evaluation import PROTOCOL, evaluate
from matmill.verify.metrics import Metric
from matmill.verify.novelty import STRUCTURE_FILES, KnownIndex


def part_of_mp_20(split: str) -> CrystalBatch:
    """Return the crystals of one published split."""
    splits = pq.read_table(DATA / "mp_20.parquet", columns=["split"])["split"].to_pylist()
    rows = [i for i, name in enumerate(splits) if name == split]
    return read_structures(DATA / "mp_20.parquet").select(torch.tensor(rows))


def generated(name: str, n: int, seed: int, *, screen: bool = True) -> tuple[CrystalBatch, float]:
    """Return crystals of a generator and how many it made a second."""
    from matmill.generate.protocol import GenerationRequest, load_generator

    generator = load_generator(name)
    begin = time.perf_counter()
    batch = generator.sample(GenerationRequest(n=n, screen=screen), child(seed, "sheet"))
    return batch.to(dtype=torch.float64), n / (time.perf_counter() - begin)


def sheet(batch: CrystalBatch, reference: CrystalBatch, n_relax: int) -> list[Metric]:
    """Return every number of the sheet for one set of crystals."""
    known = KnownIndex.load(structures=[DATA / name for name in STRUCTURE_FILES])
    return evaluate(batch, reference=reference, known=known, n_relax=n_relax)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--samples", type=Path)
    source.add_argument("--generator")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--relax", type=int, default=100)
    parser.add_argument("--no-floor", action="store_true")
    parser.add_argument("--keep", type=Path, help="write the generated crystals here")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, object] = {"command": " ".join(sys.argv), "protocol": PROTOCOL}
    if arguments.samples:
        batch = read(arguments.samples).crystals.to(dtype=torch.float64)
        batch = batch.select(torch.arange(min(arguments.n, len(batch))))
    else:
        batch, rate = generated(arguments.generator, arguments.n, arguments.seed)
        report["crystals_per_second"] = rate
        if arguments.keep:
            write(batch, arguments.keep)
    reference = part_of_mp_20("test")
    columns = {"samples": sheet(batch, reference, arguments.relax)}
    if arguments.generator:
        # What the network does by itself, before overlapping crystals are drawn again.
        raw, _ = generated(arguments.generator, arguments.n, arguments.seed, screen=False)
        columns["samples, unscreened"] = [
            metrics.geometric_validity(raw),
            metrics.roomy(raw),
            *metrics.compositional_validity(raw),
            *metrics.distribution_distances(raw, reference),
            metrics.p1_share(raw),
        ]
        report["draws_per_sample"] = float(batch.properties["attempts"].mean())
    if not arguments.no_floor:
        train = part_of_mp_20("train")
        rows = torch.randperm(len(train), generator=child(arguments.seed, "floor"))[: len(batch)]
        columns["noise floor (training crystals)"] = sheet(
            train.select(rows), reference, arguments.relax
        )
    report |= {name: [asdict(metric) for metric in found] for name, found in columns.items()}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, found in columns.items():
        sys.stdout.write(f"\n{name}\n" + "\n".join(f"  {metric}" for metric in found) + "\n")


if __name__ == "__main__":
    main()
