"""Crystal structure prediction: does the generator find the crystal of a given composition?

    python benchmarks/csp.py --part test -n 5000 --samples 20 --out csp.json
    python benchmarks/csp.py --part val -n 500 --samples 1

Compositions and numbers of atoms of MP-20 rows whose geometry is that of the published split; no
space group is given. The network is asked for crystals on the hull (``--no-hull`` asks for
nothing), as `matmill design` does. A match is pymatgen's StructureMatcher at ltol 0.3, stol 0.5,
angle 10; with several samples the best of the first k counts. Gated means that both crystals must
be valid (0.5 Å, and SMACT's rule on the composition): what published figures count.

METRe: for each reference crystal the best match among all samples of its reduced formula, and cRMSE
with 0.5 for what is not matched. Rows are drawn formula by formula, so that all polymorphs of one
are in; and those whose formula occurs in MP-20 train are told apart. Samples are kept in ``--work``
piece by piece: the same command continues after a kill.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from generator_common import (
    DATA,
    markdown,
    mp_20,
    sampled,
    save,
    symmetry_key,
    training_formulas,
    with_interval,
)
from matmill.crystals.batch import concatenate
from matmill.crystals.matching import CSP_TOLERANCE
from matmill.errors import InputError
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.randomness import child
from matmill.verify.confidence import wilson
from matmill.verify.prediction import (
    best_of,
    both_valid,
    match_distances,
    polymorph_distances,
)

SIZES = ((1, 4), (5, 8), (9, 12), (13, 20))
PUBLISHED = (
    # Match rate in per cent and RMSE, one sample, whole MP-20 test split (9,046 rows).
    ("DiffCSP", "51.49 / 0.0631"),
    ("FlowMM", "61.39 / 0.0566"),
    ("CrystalFlow", "62.02 / 0.0710"),
    ("OMatG", "63.75 / 0.0720"),
    ("KLDM", "65.83 / 0.0517"),
    ("Crystalite", "66.05 / 0.0329"),
)
PUBLISHED_METRE = (
    # METRe in per cent and cRMSE on the polymorph-aware split MP-20-ps.
    ("DiffCSP", "53.1 / 0.279"),
    ("FlowMM", "65.2 / 0.226"),
    ("OMatG", "70.5 / 0.187"),
    ("Crystalite", "70.9 / 0.174"),
)


def choose_rows(crystals, n, seed):
    """Return at least ``n`` crystals, formula by formula in random order, or all there are."""
    rows_of = defaultdict(list)
    for row, formula in enumerate(crystals.formula):
        rows_of[formula].append(row)
    formulas = list(rows_of)
    chosen = []
    for k in torch.randperm(len(formulas), generator=child(seed, "csp", "rows")).tolist():
        if len(chosen) >= n:
            break
        chosen += rows_of[formulas[k]]
    return crystals.select(chosen)


def predict(generator, true, folder, arguments):
    """Return the samples, a batch for each round: one sample for each crystal of ``true``.

    All samples of a composition are asked for at once, so that they share its templates.
    """
    k = arguments.samples
    crystals = max(1, 2000 // k)  # of a piece

    def request(piece, m):
        seeds = true.select(torch.arange(piece * crystals, piece * crystals + m // k))
        # Strength 1 forgets everything about a seed but its elements and how many there are.
        wish = {"symmetry": "hard"} if arguments.symmetry == "hard" else {}
        return GenerationRequest(
            n=m,
            seeds=seeds,
            strength=1.0,
            n_steps=arguments.steps,
            conditions={} if arguments.no_hull else {"energy_above_hull_ev": 0.0},
            guidance=1.0,
            **wish,
        )

    name = f"csp-{arguments.part}-{len(true)}-{k}"
    n = k * len(true)
    made = sampled(generator, request, n, folder, name, seed=arguments.seed, chunk=k * crystals)
    # Seeds are used in turn: within a piece, round after round.
    row = torch.arange(len(true))
    piece, place = row // crystals, row % crystals
    size = torch.minimum(torch.tensor(crystals), len(true) - piece * crystals)
    start = piece * crystals * k + place
    return [made.select(start + turn * size) for turn in range(k)]


class SoftWhereItMust:
    """A generator that predicts without symmetry where no template has the composition."""

    def __init__(self, generator):
        self.generator, self.n_soft = generator, 0

    def sample(self, request, rng):
        """Return the crystals of a request; halves it until what cannot be met stands alone."""
        try:
            return self.generator.sample(request, rng)
        except InputError:
            if request.symmetry == "soft":
                raise
        n_seeds = len(request.seeds)
        turns = request.n // n_seeds
        if n_seeds == 1:
            self.n_soft += turns
            return self.generator.sample(replace(request, symmetry="soft"), rng)
        middle = n_seeds // 2
        halves = torch.arange(n_seeds).split([middle, n_seeds - middle])
        parts = [
            self.sample(
                replace(request, n=turns * len(rows), seeds=request.seeds.select(rows)), rng
            )
            for rows in halves
        ]
        # Each half goes round after round; so must the whole.
        order = [
            start + turn * len(rows) + torch.arange(len(rows))
            for turn in range(turns)
            for start, rows in zip((0, len(parts[0])), halves, strict=True)
        ]
        return concatenate(parts).select(torch.cat(order))


def rate(rms, rows=None):
    """Return match rate, RMSE of the matches and cRMSE over some rows."""
    rms = rms if rows is None else rms[rows]
    hit = torch.isfinite(rms)
    n, hits = len(rms), int(hit.sum())
    return {
        "matched": hits,
        "of": n,
        "rate": hits / n if n else None,
        "interval_95": wilson(hits, n),
        "rmse": float(rms[hit].mean()) if hits else None,
        "crmse": float(rms.nan_to_num(nan=CSP_TOLERANCE.stol).mean()) if n else None,
    }


def scored(rounds, true, unseen, counts):
    """Return the tables for every number of samples."""
    own = match_distances(rounds, true)
    valid = torch.stack([both_valid(made, true) for made in rounds])
    gated = torch.where(valid, own, torch.nan)
    grouped = polymorph_distances(rounds, true, own)
    tables = {}
    for k in counts:
        best = best_of(own[:k])
        tables[str(k)] = {
            "ungated": rate(best),
            "gated": rate(best_of(gated[:k])),
            "formulas unseen in training": rate(best, unseen),
            "METRe": rate(best_of(grouped[:k])),
            "METRe, formulas unseen in training": rate(best_of(grouped[:k]), unseen),
            "by size": {
                f"{low} to {high} atoms": rate(best, (true.n_atoms >= low) & (true.n_atoms <= high))
                for low, high in SIZES
            },
        }
    return tables, own


def lowest_energy(rounds, own):
    """Return the match rate of the sample of lowest CHGNet energy, unrelaxed."""
    from matmill.verify.potentials import load_chgnet

    potential = load_chgnet()
    energy = torch.stack(
        [potential.compute(made, forces=False).energy_ev for made in rounds]
    ).nan_to_num(torch.inf)
    return rate(own.gather(0, energy.argmin(0)[None])[0])


def text(entry):
    """Return match rate with its interval, and the RMSE."""
    rmse = "–" if entry["rmse"] is None else f"{entry['rmse']:.4f}"
    return f"{with_interval(entry['matched'], entry['of'])}, RMSE {rmse}"


def page(report):
    """Return the tables as Markdown."""
    rows = []
    for k, table in report["by_samples"].items():
        for name, entry in table.items():
            if name == "by size":
                rows += [[k, size, text(e)] for size, e in entry.items()]
            elif name.startswith("METRe"):
                shares = with_interval(entry["matched"], entry["of"])
                rows.append([k, name, f"{shares}, cRMSE {entry['crmse']:.3f}"])
            else:
                rows.append([k, name, text(entry)])
    lines = [
        f"{report['crystals']} of {report['rows_to_choose_from']} {report['part']} rows, "
        f"{report['formulas']} formulas ({report['unseen']} rows of formulas unseen in training), "
        f"{report['steps']} steps, symmetry {report['symmetry']}.",
        "",
        markdown(["samples", "", "match rate [95 %], RMSE"], rows),
        "",
        "Published, one sample, gated, whole test split: "
        + "; ".join(f"{name} {value}" for name, value in PUBLISHED)
        + ". METRe / cRMSE on MP-20-ps: "
        + "; ".join(f"{name} {value}" for name, value in PUBLISHED_METRE)
        + ".",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("test", "val"), default="val")
    parser.add_argument("-n", type=int, default=500, help="crystals, at least; whole formulas")
    parser.add_argument("--samples", type=int, default=1, help="samples a crystal")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--no-hull", action="store_true", help="do not ask for hull members")
    parser.add_argument("--symmetry", choices=("soft", "hard"), default="soft")
    parser.add_argument("--rank", action="store_true", help="also the sample of lowest energy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="flow", help="name, or a .safetensors file")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("work/sheets"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = mp_20(arguments.part, arguments.data, published_geometry=True)
    true = choose_rows(every, arguments.n, arguments.seed)
    seen = training_formulas(arguments.data)
    unseen = torch.tensor([formula not in seen for formula in true.formula])
    generator = load_generator(arguments.model)
    sampler = SoftWhereItMust(generator)
    mode = symmetry_key(generator, arguments.symmetry)
    settings = f"{arguments.steps}-{mode}-{arguments.seed}"
    hull = "" if not arguments.no_hull else "-any"
    folder = arguments.work / f"{generator.hash[:10]}-{settings}{hull}"
    rounds = predict(sampler, true, folder, arguments)
    counts = sorted({k for k in (1, 5, arguments.samples) if k <= arguments.samples})
    tables, own = scored(rounds, true, unseen, counts)
    report = {
        "command": " ".join(sys.argv),
        "part": arguments.part,
        "crystals": len(true),
        "formulas": len(set(true.formula)),
        "unseen": int(unseen.sum()),
        "rows_to_choose_from": len(every),
        "samples": arguments.samples,
        "steps": arguments.steps,
        "symmetry": arguments.symmetry,
        "asked_for_hull_members": not arguments.no_hull,
        "generator": generator.hash,
        "cpu_seconds_per_crystal": float(rounds[0].properties["cpu_s"].mean()),
        "by_samples": tables,
        "published": dict(PUBLISHED),
    }
    if arguments.symmetry == "hard":
        report["without_template_in_this_run"] = sampler.n_soft
    if arguments.rank and arguments.samples > 1:
        report["lowest_energy"] = lowest_energy(rounds, own)
    print(page(report))
    if "lowest_energy" in report:
        print(f"\nLowest energy of {arguments.samples}: {text(report['lowest_energy'])}")
    if arguments.out:
        save(report, arguments.out)


if __name__ == "__main__":
    main()
