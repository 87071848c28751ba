"""Scorecards of our generators and of known sets side by side, and what a scorecard costs.

    python benchmarks/evaluate_scorecards.py
    python benchmarks/evaluate_scorecards.py -n 1000 --relax 40 --relaxed flow-free flow-hard train
    python benchmarks/evaluate_scorecards.py --samples mine.zip theirs.extxyz -n 0

Generators: ``flow-free`` (the shipped one, asked for nothing), ``flow-soft`` (asked for the space
groups of known crystals, by guidance), ``flow-hard`` (on the orbits of Wyckoff templates that the
shipped template model draws), ``random`` (the registered baseline), ``substitute`` (a crystal of
MP-20 train with every element exchanged for one of its group, the cell scaled by covalent radii).
Known sets: ``train`` (other crystals of MP-20 train: the noise floor), ``wbm``, ``alexandria``,
``jarvis``, ``oqmd``, ``perov-5``; ``--samples`` adds files of anybody's generator. All are judged
by protocol matmill-1 against MP-20 train and ``--test`` crystals of MP-20 test (coverage costs
about 0.1 CPU seconds a crystal; 0 leaves it out). The first ``--relax`` of the sets ``--relaxed``
(all unless given) are relaxed. Samples are kept in ``--work``; relaxations are made anew.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from generator_common import DATA, cached, markdown, mp_20, save, subset
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.elements import table
from matmill.crystals.symmetry import find
from matmill.data.table import open_table
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.randomness import child
from matmill.verify.evaluation import Against, evaluate
from matmill.verify.hull import Hull
from matmill.verify.novelty import STRUCTURE_FILES, KnownIndex
from matmill.verify.potentials import load_chgnet
from matmill.verify.samples import as_samples, read_samples
from matmill.verify.scorecard import output
from matmill.verify.scorecard.compare import compare

HEADLINES = (
    "parsed",
    "geometry",
    "composition",
    "composition_metals",
    "valid",
    "p1_0.1",
    "unique",
    "novel",
    "train_novel",
    "framework_novel",
    "lanthanide_swap",
    "unique_novel",
    "continuous_uniqueness",
    "continuous_novelty",
    "w1_density",
    "w1_n_elements",
    "mmd_density",
    "jsd_space_group",
    "cov_r",
    "cov_p",
    "converged",
    "stable_0",
    "stable_0.1",
    "sun",
    "msun",
    "above_hull",
    "rmsd_aligned",
    "vsun",
)


def substituted(training, n, seed):
    """Return training crystals with every element exchanged for another one of its group."""
    rng = np.random.default_rng(seed)
    group, radius = table("group").tolist(), table("covalent_radius").tolist()
    allowed = [z for z in range(1, 84) if radius[z] == radius[z] and z not in (2, 10, 18, 36, 54)]
    mates = {z: [y for y in allowed if group[y] == group[z]] or [z] for z in range(1, 119)}
    chosen = training.select(rng.choice(len(training), n).tolist())
    numbers, lattice = chosen.atomic_numbers.clone(), chosen.lattice.clone()
    for i in range(n):
        rows = chosen.atoms_of(i)
        old = chosen.atomic_numbers[rows].tolist()
        swap = {z: int(rng.choice(mates[z])) for z in sorted(set(old))}
        new = [swap[z] for z in old]
        numbers[rows] = torch.tensor(new)
        scale = sum(radius[z] for z in new) / sum(radius[z] for z in old)
        lattice[i] *= scale
    return CrystalBatch(
        lattice=lattice,
        frac_coords=chosen.frac_coords,
        atomic_numbers=numbers,
        n_atoms=chosen.n_atoms,
    )


def generated(name, n, seed, *, symmetry="soft"):
    """Return samples of a registered generator."""
    wish = {"symmetry": "hard"} if symmetry == "hard" else {}
    request = GenerationRequest(n=n, n_steps=50, **wish)
    batch = load_generator(name).sample(request, child(seed, "scorecards", name, symmetry))
    return batch.to(dtype=torch.float64)


def by_guidance(n, seed, groups, *, at_once=50):
    """Return samples of the flow that were asked for space groups drawn from known ones."""
    rng = np.random.default_rng(seed)
    generator, parts = load_generator("flow"), []
    for start in range(0, n, at_once):
        request = GenerationRequest(
            n=min(at_once, n - start), n_steps=50, space_group=int(rng.choice(groups))
        )
        parts.append(generator.sample(request, child(seed, "scorecards", "asked", start)))
    return concatenate([part.to(dtype=torch.float64) for part in parts])


def known(name, n, seed, data):
    """Return known crystals of other sources than MP-20."""
    file = {"wbm": "wbm_sample", "perov-5": "perov_5"}.get(name, "novelty_reference")
    sheet = open_table(data / f"{file}.parquet")
    rows = range(len(sheet))
    if file == "novelty_reference":
        bases = sheet.notes["database"]
        rows = [i for i in rows if bases[i].lower().startswith(name)]
    if file == "perov_5":
        rows = [i for i in rows if sheet.notes["split"][i] == "test"]
    return subset(sheet.crystals.select(list(rows)), n, seed, f"scorecards {name}")


def sets(n, seed, training, data):
    """Return what makes each set, by name."""
    groups = find(subset(training, 2000, seed, "groups"), symprec=0.1).number.tolist()
    generators = {
        "flow-free": lambda: generated("flow", n, seed),
        "flow-soft": lambda: by_guidance(n, seed, groups),
        "flow-hard": lambda: generated("flow", n, seed, symmetry="hard"),
        "random": lambda: generated("random", n, seed),
        "substitute": lambda: substituted(training, n, seed),
        "train": lambda: subset(training, n, seed, "scorecards"),
    }
    others = ("wbm", "alexandria", "jarvis", "oqmd", "perov-5")
    return generators | {name: lambda name=name: known(name, n, seed, data) for name in others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=40, help="samples of each generator; 0 for none")
    parser.add_argument("--relax", type=int, default=4)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--relaxed", nargs="*", help="names of sets that are relaxed; all")
    parser.add_argument("--samples", type=Path, nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("work/scorecards/samples"))
    parser.add_argument("--out", type=Path, default=Path("work/scorecards"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = mp_20("train", arguments.data)
    test = subset(mp_20("test", arguments.data), arguments.test, 0, "scorecards")
    against = Against(
        reference=training,
        test=test if len(test) else None,
        index=KnownIndex.load(structures=[arguments.data / f for f in STRUCTURE_FILES]),
        hull=Hull.load(),
        potential=load_chgnet(),
    )
    n, seed = arguments.n, arguments.seed
    makers = sets(n, seed, training, arguments.data) if n else {}
    wanted = arguments.only or [*makers, *(path.name for path in arguments.samples)]
    makers |= {path.name: lambda path=path: read_samples([path]) for path in arguments.samples}
    relaxed = wanted if arguments.relaxed is None else arguments.relaxed
    cards, seconds = [], {}
    for name in wanted:
        begin = time.process_time()
        if name.startswith("flow"):
            made = cached(arguments.work / f"{name}-{n}-{seed}.safetensors", makers[name])
        else:
            made = makers[name]()
        samples = as_samples(made) if isinstance(made, CrystalBatch) else made
        sampling = time.process_time() - begin
        begin = time.process_time()
        n_relax = arguments.relax if name in relaxed else 0
        card = evaluate(samples, against, n_relax=n_relax, name=name)
        spent = time.process_time() - begin
        output.write(card, arguments.out / name, samples=samples, against=(training, against.test))
        cards.append(card)
        seconds[name] = {"sampling": sampling, "judging": spent, "relaxed": n_relax}
        print(f"{name}: CPU seconds {seconds[name]}, statuses {card.statuses}", flush=True)
        print({k: round(v, 1) for k, v in card.seconds.items()}, flush=True)
    rows = [
        [key, *(card.numbers[key].shown()[0] if key in card.numbers else "–" for card in cards)]
        for key in HEADLINES
    ]
    print(markdown(["metric", *(card.name for card in cards)], rows))
    alike = [card for card in cards if card.basis.id == cards[0].basis.id]
    if len(alike) > 1:
        assert len(compare(alike).rows) >= len(cards[0].numbers)
    report = {
        "command": " ".join(sys.argv),
        "protocol_id": cards[0].basis.id,
        "n": arguments.n,
        "cpu_seconds": seconds,
        "cards": {card.name: card.as_dict() for card in cards},
    }
    save(report, arguments.out / "scorecards.json")


if __name__ == "__main__":
    main()
