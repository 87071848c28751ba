"""Adapters from a few hundred labels: does asking for a new property give crystals that have it?

    nice -n 5 python benchmarks/adapters.py --data ../shared/data --out work/adapters

For each property and number of labels an adapter is trained on the shipped generator. Crystals are
then asked for at three targets, at two guidance weights, and judged by a tabular predictor that is
trained on all labels and shares nothing with the generator (its out-of-fold error is printed). A
hit lies within a factor of the target that is stated with the property; the same window is applied
to crystals that were asked for nothing. Crystals are not relaxed. Also: geometric validity and the
share in P1 of both, and whether the base with the adapter loaded gives the same bits as without.

Every step is kept in --out, so that an interrupted run goes on; delete the folder for a new base.
"""

import argparse
import json
import math
import resource
from pathlib import Path

import torch

from matmill.crystals import symmetry
from matmill.crystals.files import read, write
from matmill.data.table import open_table
from matmill.generate.finetune import FinetuneSettings, finetune
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.predict.protocol import load_file
from matmill.predict.tabular.predictor import TabularPredictor
from matmill.randomness import child
from matmill.verify.confidence import wilson
from matmill.verify.validity import check

# Property -> file, column, unit, targets, factor either way that counts as a hit.
TASKS = {
    "exfoliation_energy": (
        "properties/jarvis_dft3d_exfoliation.parquet",
        "exfoliation_energy_mev_atom",
        "meV/atom",
        (40.0, 80.0, 200.0),
        1.3,
    ),
    "refractive_index": (
        "properties/refractive_index_naccarato2019.parquet",
        "refractive_index",
        "",
        (1.5, 2.0, 2.8),
        1.1,
    ),
    "stiffness": (
        "properties/elastic_tensor_mp2015.parquet",
        "k_vrh_gpa",
        "GPa",
        (50.0, 120.0, 220.0),
        1.2,
    ),
}
GUIDANCE = (1.0, 2.0)
MAX_ATOMS = 20


def labelled(data, task, n=None):
    """Return the labelled rows that the generator could place, ``n`` of them at random."""
    file, column, *_ = TASKS[task]
    table = open_table(data / file, target=column)
    table = table.select(table.crystals.n_atoms <= MAX_ATOMS)
    order = torch.randperm(len(table), generator=child(0, "labels", task))
    return table.select(order if n is None else order[:n])


def judge_of(task, data, out):
    """Return the predictor that judges, and its error on a tenth of the formulas."""
    from matmill.data.parts import divided

    path = out / f"judge_{task}.safetensors"
    if path.exists():
        judge = load_file(path)
    else:
        table = divided(labelled(data, task), seed=0)
        judge = TabularPredictor.fit(
            table,
            TASKS[task][1],
            folder=out / f"judge_{task}.training",
            preset="fast",
            learners=("extra-trees",),
        )
        judge.save(path)
    return judge, judge.card["scores"][TASKS[task][1]]


def adapter_of(task, n, data, out, arguments):
    """Train an adapter on ``n`` labels, or read the one that is there; return path and card."""
    folder = out / f"{task}_{n}"
    path = folder / f"{task}.safetensors"
    if not path.exists():
        generator = FlowGenerator.load(arguments.model)
        settings = FinetuneSettings()
        settings = settings.model_copy(
            update={
                "fit": settings.fit.model_copy(
                    update={"max_seconds": 60 * arguments.minutes, "accelerator": "cpu"}
                )
            }
        )
        before = cpu_seconds()
        finetune(
            generator,
            labelled(data, task, n),
            task,
            column=TASKS[task][1],
            unit=TASKS[task][2],
            settings=settings,
            folder=folder,
            facts={"command": "python benchmarks/adapters.py"},
        )
        (folder / "cpu.json").write_text(json.dumps(cpu_seconds() - before))
    card = json.loads(path.with_suffix(".json").read_text())
    return path, card, json.loads((folder / "cpu.json").read_text())


def sampled(key, generator, request, out):
    """Return the crystals of a request, from the disk where they are there."""
    path = out / "samples" / f"{key}.extxyz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(generator.sample(request, child(0, "adapters", key)), path)
    return read(path).crystals


def quality(crystals, n):
    """Return the shares of geometrically valid crystals, of all that were made, and of P1.

    A crystal with two atoms in one place is not read back: it counts as invalid, and as no hit.
    """
    valid = sum(fate is None for fate in check(crystals))
    p1 = int((symmetry.find(crystals, symprec=0.1).number == 1).sum())
    return {"n": n, "valid": valid / n, "p1": p1 / len(crystals)}


def hits(values, target, factor):
    """Count the values within a factor of the target either way."""
    return int(((values / target).clamp_min(1e-9).log().abs() <= math.log(factor)).sum())


def same_bits(base, adapted):
    """Return whether a request that does not name the property gives the same crystals."""
    request = GenerationRequest(n=16, n_steps=20)
    a, b = (g.sample(request, child(0, "same bits")) for g in (base, adapted))
    return torch.equal(a.lattice, b.lattice) and torch.equal(a.frac_coords, b.frac_coords)


def cpu_seconds():
    """Return the processor time of this process."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def measured(task, n, free, arguments):
    """Return one row a target and guidance weight, and what else there is to say."""
    data, out = arguments.data, arguments.out
    judge, error = judge_of(task, data, out)
    path, card, seconds = adapter_of(task, n, data, out, arguments)
    base = FlowGenerator.load(arguments.model)
    adapted = FlowGenerator.load(arguments.model, adapters=[path])
    _, _, unit, targets, factor = TASKS[task]
    by_chance, n_free = judge.predict(free).mean, 2 * arguments.n
    rows = []
    for target in targets:
        chance = hits(by_chance, target, factor)
        for guidance in arguments.guidance:
            key = f"{task}_{n}_{target:g}_{guidance:g}"
            request = GenerationRequest(n=arguments.n, conditions={task: target}, guidance=guidance)
            crystals = sampled(key, adapted, request, out)
            values = judge.predict(crystals).mean
            found = hits(values, target, factor)
            rows.append(
                {
                    "property": task,
                    "labels": card["data"]["labels_used"],
                    "target": target,
                    "unit": unit,
                    "factor": factor,
                    "guidance": guidance,
                    "hits": found,
                    "interval_95": wilson(found, arguments.n),
                    "chance_hits": chance,
                    "chance_n": n_free,
                    "chance_interval_95": wilson(chance, n_free),
                    "median": float(values.median()),
                    **quality(crystals, arguments.n),
                }
            )
            low, high = rows[-1]["interval_95"]
            print(
                f"{task}, {n} labels, {target:g} {unit} within a factor of {factor:g}, guidance "
                f"{guidance:g}: {found}/{arguments.n} = {found / arguments.n:.0%} "
                f"({low:.0%} to {high:.0%}); asked for nothing {chance}/{n_free} = "
                f"{chance / n_free:.0%}; median {rows[-1]['median']:.3g}; valid "
                f"{rows[-1]['valid']:.0%}; P1 {rows[-1]['p1']:.0%}",
                flush=True,
            )
    return {
        "rows": rows,
        "judge": {"mae": error["mae"], "r2": error["r2"], "n_test": error["n_test"]},
        "cpu_seconds": seconds,
        "steps": card["training"]["steps"],
        "check": card["check"],
        "same_bits_without_the_property": same_bits(base, adapted),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("work/adapters"))
    parser.add_argument(
        "--model", type=Path, default=None, help="base; the shipped one if left out"
    )
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument("--labels", type=int, action="append", help="200, 500 and 1000 if left out")
    parser.add_argument("--guidance", type=float, action="append", help="1 and 2 if left out")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training an adapter")
    parser.add_argument("-n", type=int, default=128, help="crystals a target")
    arguments = parser.parse_args()
    arguments.guidance = arguments.guidance or GUIDANCE
    torch.set_num_threads(1)
    base = FlowGenerator.load(arguments.model)
    free = sampled("free", base, GenerationRequest(n=2 * arguments.n), arguments.out)
    results = {"base": base.hash, "asked for nothing": quality(free, 2 * arguments.n)}
    print("asked for nothing:", results["asked for nothing"], flush=True)
    for task in arguments.task or TASKS:
        for n in arguments.labels or (200, 500, 1000):
            found = results[f"{task}_{n}"] = measured(task, n, free, arguments)
            rest = {k: v for k, v in found.items() if k != "rows"}
            print(f"{task}, {n} labels:", rest, flush=True)
            (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
