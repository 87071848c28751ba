"""Train the judges that ship: second predictors, of another family, on crystals of their own.

Usage: python benchmarks/train_judges.py [--data FOLDER] [--work FOLDER] [--property band_gap]

The predictor that steers and ranks is a graph network, trained on the part ``train`` of the table.
A judge is a forest of boosted trees on descriptors, trained on its part ``val`` and on half of its
part ``test``: no crystal teaches both. The other half of ``test``, with no formula that the judge
has seen, is what both are scored on; truth and both predictions travel with the weights, so that
every report can say what a hit means on crystals whose value is known. The weights go to
``src/matmill/assets/judges`` with a card beside them. A killed run continues when repeated.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from matmill.cli.progress import show
from matmill.predict.judges import KNOWN, SHIPPED
from matmill.predict.protocol import load_predictor
from matmill.predict.tabular.predictor import BoostedPredictor
from matmill.quantities import find
from matmill.randomness import child
from matmill.training import checkpoint
from train_predictors import load_table

ROOT = Path(__file__).parents[1]
BLOCKS = ("composition", "structure")
ATTRIBUTION = ["Materials Project: A. Jain et al., APL Materials 1, 011002 (2013); CC BY 4.0."]
LIMITS = [
    "PBE quantities of relaxed crystals of at most 40 atoms.",
    "A judge, not a better predictor: it learned from a fifth of the rows of the one that ships "
    "and errs more. Its worth is that it errs on its own.",
    "Systematic errors of PBE, and of both having learned from the Materials Project, are shared.",
]


def parts_for_judges(table, seed):
    """Return the rows that teach a judge, and those that both predictors are scored on.

    Half of the formulas of the part ``test`` are kept for scoring.
    """
    split = table.notes["split"]
    formulas = table.crystals.formula
    test = sorted({f for f, part in zip(formulas, split, strict=True) if part == "test"})
    order = torch.randperm(len(test), generator=child(seed, "judges")).tolist()
    kept = {test[i] for i in order[: len(test) // 2]}
    learn, score = [], []
    for row, (formula, part) in enumerate(zip(formulas, split, strict=True)):
        if part == "test" and formula in kept:
            score.append(row)
        elif part in ("val", "test") and formula not in kept:
            learn.append(row)
    return learn, score


def train(name, table, arguments):
    """Train and save one judge; return what it scores."""
    column = find(name).column
    known = torch.isfinite(table.column(column).double())
    rows = table.select(known)
    learn, score = parts_for_judges(rows, arguments.seed)
    own = rows.select(torch.tensor([*learn, *score]))
    own = replace(own, notes={"split": ("train",) * len(learn) + ("test",) * len(score)})
    with show() as on_event:
        judge = BoostedPredictor.fit(
            own,
            column,
            folder=arguments.work / name,
            seed=arguments.seed,
            on_event=on_event,
            blocks=BLOCKS,
            descriptors=arguments.work / "descriptors",
        )
    crystals = rows.select(torch.tensor(score)).crystals
    truth = rows.column(column).double()[score]
    steering = load_predictor(name)
    theirs, mine = steering.predict(crystals).mean, judge.predict(crystals)
    errors = [(mean - truth).abs().mean().item() for mean in (mine.mean, theirs)]
    both = torch.stack([mine.mean - truth, theirs - truth])
    judge.card.update(
        what=f"A judge of {name}: boosted trees on descriptors, apart from what steers.",
        disjoint_from=steering.card.get("weights_sha256", "")[:16],
        parts="learned from part val and half the formulas of part test; scored on the other half",
        agreement={
            "n": len(truth),
            "mae_judge": errors[0],
            "mae_steering": errors[1],
            "mae_between": float((mine.mean - theirs).abs().mean()),
            "error_correlation": float(torch.corrcoef(both)[0, 1]),
            "judge_interval_coverage": float(
                ((truth >= mine.low) & (truth <= mine.high)).double().mean()
            ),
        },
        attribution=ATTRIBUTION,
        licence="Weights: MIT, like the code. Data: CC BY 4.0, see attribution.",
        limits=LIMITS,
        command=f"python benchmarks/train_judges.py --property {name} --seed {arguments.seed}",
        made_with={"python": sys.version.split()[0], "torch": torch.__version__},
    )
    path = judge.save(SHIPPED / name)
    tensors, card = checkpoint.load(path)
    columns = zip(("truth", "judge", "steering"), (truth, mine.mean, theirs), strict=True)
    tensors = {k: v.clone() for k, v in tensors.items()}
    tensors |= {f"{KNOWN}.{key}": values.float() for key, values in columns}
    card.pop("weights_sha256", None)
    checkpoint.save(path, tensors, card)
    print(f"{name}: {path.stat().st_size / 1e6:.2f} MB, {len(learn)} rows taught it")
    print(json.dumps(card["agreement"], indent=1), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("MATMILL_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(shared))
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "judges")
    parser.add_argument(
        "--property", nargs="+", default=["band_gap", "formation_energy_per_atom"], dest="names"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = load_table(arguments.data)
    for name in arguments.names:
        train(name, table, arguments)


if __name__ == "__main__":
    main()
