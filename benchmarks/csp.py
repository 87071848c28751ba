"""Crystal structure prediction: does the generator find the crystal of a given composition?

    python benchmarks/csp.py -n 500 --samples 1
    python benchmarks/csp.py -n 200 --samples 5

Compositions and numbers of atoms of MP-20 validation rows whose geometry is that of the published
set; no space group is given. The network is asked for crystals on the hull (``--no-hull`` asks for
nothing), as `matmill design` does. A match is pymatgen's StructureMatcher at ltol 0.3, stol 0.5,
angle 10. With several samples: the share matched by any of them, and by the one of lowest CHGNet
energy (single point, unrelaxed), which is what a user without the answer would pick.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from matmill.data.table import open_table
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.randomness import child
from matmill.verify.metrics import csp_match
from matmill.verify.potentials import load_chgnet

PUBLISHED_GEOMETRY = ("mp_20", "mp_2020_pbe", "mpts_52")
DATA = Path(os.environ.get("MATMILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def validation_crystals(n, seed):
    """Return ``n`` random validation rows that were never trained on."""
    table = open_table(DATA / "mp_20.parquet")
    rows = [
        i
        for i, (part, source) in enumerate(
            zip(table.notes["split"], table.notes["structure_source"], strict=True)
        )
        if part == "val" and source in PUBLISHED_GEOMETRY
    ]
    order = torch.randperm(len(rows), generator=child(seed, "csp", "rows"))[:n]
    return table.crystals.select([rows[i] for i in order.tolist()]), len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=500, help="compositions")
    parser.add_argument("--samples", type=int, default=1, help="samples a composition")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--no-hull", action="store_true", help="do not ask for hull members")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    true, n_rows = validation_crystals(arguments.n, arguments.seed)
    generator = load_generator(arguments.model)
    # Strength 1 forgets everything about a seed but its elements.
    request = GenerationRequest(
        n=len(true) * arguments.samples,
        seeds=true,
        strength=1.0,
        n_steps=arguments.steps,
        conditions={} if arguments.no_hull else {"energy_above_hull_ev": 0.0},
        guidance=1.0,
    )
    made = generator.sample(request, child(arguments.seed, "csp", "samples"))
    report = {
        "compositions": len(true),
        "rows_to_choose_from": n_rows,
        "samples": arguments.samples,
        "steps": arguments.steps,
        "asked_for_hull_members": not arguments.no_hull,
        "generator": generator.hash,
        "draws_per_sample": float(made.properties["attempts"].mean()),
    }
    rounds = [
        made.select(torch.arange(k * len(true), (k + 1) * len(true)))
        for k in range(arguments.samples)
    ]
    matched = [csp_match(part, true) for part in rounds]
    report["one_sample"] = show("one sample", matched[0])
    if arguments.samples > 1:
        hits = torch.stack([hit_mask(part, true) for part in rounds])
        report["any_sample"] = float(hits.any(0).double().mean())
        energies = torch.stack(
            [load_chgnet().compute(p, forces=False).energy_ev for p in rounds]
        ).nan_to_num(torch.inf)
        lowest = energies.argmin(0)
        picked = hits.gather(0, lowest[None])[0]
        report["lowest_energy"] = float(picked.double().mean())
        print(
            f"any of {arguments.samples}: {report['any_sample']:.1%}; lowest CHGNet energy of "
            f"{arguments.samples}: {report['lowest_energy']:.1%}"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def show(title, metrics):
    """Print metrics and return them as plain values."""
    for metric in metrics:
        print(f"{title}: {metric}")
    return {m.name: [m.value, m.numerator, m.denominator] for m in metrics}


def hit_mask(made, true):
    """Return which crystals match, one by one."""
    from matmill.crystals.matching import MatchTolerance, rms

    csp = MatchTolerance(ltol=0.3, stol=0.5, angle_tol=10.0)
    return torch.tensor([rms(made, i, true, i, csp) is not None for i in range(len(true))])


if __name__ == "__main__":
    main()
