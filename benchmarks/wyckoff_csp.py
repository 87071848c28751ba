"""How often the Wyckoff model names the true template of a composition; what it draws de novo.

    python benchmarks/wyckoff_csp.py --model wyckoff -n 500

Compositions (atoms of the primitive cell) are MP-20 validation crystals that nothing was trained
on; templates that differ by the choice of origin or axes count as equal. The baseline takes the
template of the training crystal of the same anonymous formula whose elements are nearest in
standardised properties. De novo: 2,000 templates against the training templates.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from matmill.generate.wyckoff.memory import Skeleton, exchanged, exchanges_of, skeleton, slot_order
from matmill.generate.wyckoff.sampler import WyckoffModel
from matmill.generate.wyckoff.vocabulary import element_features
from matmill.randomness import child
from wyckoff_train import chosen_part, load_rows


def nearest(memory, atoms):
    """Return the template skeleton of the crystal with the most similar elements, in our slots."""
    order, counts = slot_order(atoms)
    shelf = memory.shelves.get(counts)
    if shelf is None:
        return None
    features = element_features()
    best: tuple[float, Skeleton] | None = None
    for exchange in exchanges_of(counts):
        asked = features[torch.tensor([order[s] for s in exchange])].flatten()
        off = (features[shelf.elements].flatten(1) - asked).square().sum(1)
        at = int(off.argmin())
        if best is None or off[at].item() < best[0]:
            best = (off[at].item(), exchanged(memory.skeletons[int(shelf.skeletons[at])], exchange))
    return best[1] if best else None


def share(hits):
    """Return a mean with its standard error, in words."""
    rate = sum(hits) / len(hits)
    return f"{rate:.1%} ± {(rate * (1 - rate) / len(hits)) ** 0.5:.1%}"


def compositions_given(model, true, seed):
    """Print how often the template is found."""
    ranked = [model.propose(t.formula, 20) for t in true]
    names = [[template for template, _ in row] for row in ranked]
    report: dict[str, str | float] = {
        f"template among the best {k}": share(
            [t in row[:k] for t, row in zip(true, names, strict=True)]
        )
        for k in (1, 5, 20)
    }
    report["space group of the best"] = share(
        [t.space_group == row[0].space_group for t, row in zip(true, names, strict=True)]
    )
    drawn = [
        model.sample_each([t.formula for t in true], child(seed, "wyckoff", k)) for k in range(20)
    ]
    for k in (1, 5, 20):
        hits = [any(d[i] == t for d in drawn[:k]) for i, t in enumerate(true)]
        report[f"template among {k} draws"] = share(hits)
    if model.memory is not None:
        same = []
        for t in true:
            order, _ = slot_order(t.counts)
            same.append(nearest(model.memory, t.counts) == skeleton(t, order))
        report["baseline: nearest in properties"] = share(same)
    logs = model.log_probability(true)
    report["nats per template, capped at 20"] = round(float(-logs.clamp_min(-20).mean()), 3)
    return report


def de_novo(model, known, n, seed):
    """Print how draws without a request differ from training templates."""
    made = model.sample(n, child(seed, "wyckoff", "de novo"))

    def variation(of):
        ours, theirs = Counter(map(of, made)), Counter(map(of, known))
        keys = {*ours, *theirs}
        return sum(abs(ours[k] / len(made) - theirs[k] / len(known)) for k in keys) / 2

    def wasserstein(of):
        levels = torch.linspace(0, 1, 1001, dtype=torch.float64)
        parts = [torch.tensor([float(of(t)) for t in part]).double() for part in (made, known)]
        a, b = (p.quantile(levels) for p in parts)
        return float((a - b).abs().mean())

    seen = set(known)
    without = {bare(t) for t in known}
    return {
        "space groups, total variation": round(variation(lambda t: t.space_group), 3),
        "same, of as many training templates": round(floor(known, n, seed), 3),
        "numbers of elements, Wasserstein": round(wasserstein(lambda t: len(t.formula)), 3),
        "numbers of atoms, Wasserstein": round(wasserstein(lambda t: t.n_atoms), 3),
        "share in P1": round(sum(t.space_group == 1 for t in made) / n, 4),
        "new templates": round(sum(t not in seen for t in made) / n, 3),
        "new group and letters": round(
            sum(bare(t) not in without for t in made) / n,
            3,
        ),
        "different": round(len(set(made)) / n, 3),
    }


def bare(template):
    """Return group and letters without elements."""
    return template.space_group, tuple(sorted(template.letters))


def floor(known, n, seed):
    """Return the total variation that ``n`` random training templates have."""
    rows = torch.randint(len(known), (n,), generator=child(seed, "floor")).tolist()
    ours = Counter(known[i].space_group for i in rows)
    theirs = Counter(t.space_group for t in known)
    return sum(abs(ours[k] / n - theirs[k] / len(known)) for k in theirs) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--templates", type=Path, default=Path("work/wyckoff"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--de-novo", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = load_rows(arguments.data, arguments.templates)
    model = WyckoffModel.load(arguments.model)
    val, _ = chosen_part(rows, ("val",))
    order = torch.randperm(len(val), generator=child(arguments.seed, "wyckoff", "csp"))
    true = [val[i] for i in order[: arguments.n].tolist()]
    known, _ = chosen_part(rows, ("train", "more"))
    report = {
        "compositions": len(true),
        "composition given": compositions_given(model, true, arguments.seed),
        "de novo": de_novo(model, known, arguments.de_novo, arguments.seed),
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
