"""Scorecards of our generators side by side, and what a scorecard costs.

    python benchmarks/evaluate_scorecards.py
    python benchmarks/evaluate_scorecards.py -n 10000 --relax 1000 --test 2000 --out work/scorecards
    python benchmarks/evaluate_scorecards.py --samples mine.zip theirs.extxyz -n 0

Sets: ``flow-soft`` and ``flow-hard`` (the shipped generator, without and with hard symmetry),
``random`` (the registered baseline), ``substitute`` (a crystal of MP-20 train with every element
exchanged for one of its group, the cell scaled by covalent radii), and ``train`` (other crystals of
MP-20 train: the noise floor); ``--samples`` adds files of anybody's generator. All are judged by
protocol matmill-1 against MP-20 train and ``--test`` crystals of MP-20 test (coverage costs about
0.1 CPU seconds a crystal; 0 leaves it out). Every set is judged once without and once with
relaxation of its first ``--relax`` crystals, both timed. Samples and relaxations are made anew.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from generator_common import DATA, markdown, mp_20, save, subset
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import table
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
    "unique_novel",
    "w1_density",
    "w1_n_elements",
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


def sets(n, seed, training):
    """Return what makes each set, by name."""
    return {
        "flow-soft": lambda: generated("flow", n, seed),
        "flow-hard": lambda: generated("flow", n, seed, symmetry="hard"),
        "random": lambda: generated("random", n, seed),
        "substitute": lambda: substituted(training, n, seed),
        "train": lambda: subset(training, n, seed, "scorecards"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=40, help="samples of each generator; 0 for none")
    parser.add_argument("--relax", type=int, default=4)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--samples", type=Path, nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
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
    makers = sets(arguments.n, arguments.seed, training) if arguments.n else {}
    wanted = arguments.only or [*makers, *(path.name for path in arguments.samples)]
    makers |= {path.name: lambda path=path: read_samples([path]) for path in arguments.samples}
    cards, seconds = [], {}
    for name in wanted:
        begin = time.process_time()
        made = makers[name]()
        samples = as_samples(made) if isinstance(made, CrystalBatch) else made
        times = [time.process_time() - begin]
        for n_relax in dict.fromkeys((0, arguments.relax)):
            begin = time.process_time()
            card = evaluate(samples, against, n_relax=n_relax, name=name)
            times.append(time.process_time() - begin)
        output.write(card, arguments.out / name, samples=samples, against=(training, against.test))
        cards.append(card)
        seconds[name] = dict(zip(("sampling", "without", "with"), times, strict=False))
        print(f"{name}: CPU seconds {seconds[name]}, statuses {card.statuses}", flush=True)
    rows = [
        [key, *(card.numbers[key].shown()[0] if key in card.numbers else "–" for card in cards)]
        for key in HEADLINES
    ]
    print(markdown(["metric", *(card.name for card in cards)], rows))
    if len(cards) > 1:
        assert len(compare(cards).rows) >= len(cards[0].numbers)
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
