"""What makes synthetic data help or hurt: one option of the flywheel changed at a time.

    python benchmarks/flywheel_ablations.py benchmarks/flywheel/jdft2d.toml \\
        --data properties/matbench_jdft2d.parquet --out work/flywheel/jdft2d \\
        [--only plain weighted] [--predictors cgcnn] [--modes supervised] [--controls] [--seed 100]

Give the folder of the study itself: generators, synthetic crystals and fits that a variation does
not change are read from there. Prints, for each variation, predictor and mode, the paired
differences of all arms to real rows alone, and of real + synthetic to its controls.
"""

import argparse
from pathlib import Path

from flywheel_common import HEADS, difference_rows, found_before, kept_as, studied, table_of
from generator_common import markdown, save
from matmill.config import read_toml
from matmill.steer.flywheel.settings import FilterSettings

STRONG = {"label": "predictor", "labeller": "tabular", "mixing": "plain"}
VARIATIONS = {
    "plain": {},
    "labels of the predictor": {"label": "predictor", "mixing": "plain"},
    "labels are conditions": {"label": "condition", "mixing": "plain"},
    "labels of the strongest predictor": STRONG,
    "the same, with agreement": {**STRONG, "filters": {"agreement": 0.9}},
    "the same, no filters": {**STRONG, "filters": FilterSettings.none().model_dump()},
    "the same, surest half": {**STRONG, "filters": {"certainty": 0.5}},
    "the same, twice as many": {**STRONG, "synthetic_ratio": 2.0},
    "the same, four times as many": {**STRONG, "synthetic_ratio": 4.0},
    "weighted by its error": {**STRONG, "mixing": "weighted"},
    "weighted, augmentation": {
        **STRONG,
        "mixing": "weighted",
        "generator": {"family": "augment"},
    },
    "a third of the weight": {"synthetic_weight": 1 / 3},
    "no filters": {"filters": FilterSettings.none().model_dump()},
    "without agreement": {"filters": {"agreement": 0.0}},
    "charges must balance": {"filters": {"neutral": True}},
    "surest half": {"filters": {"certainty": 0.5}},
    "at most 0.5 eV/atom above the hull": {"filters": {"stability": "single-point"}},
    "relaxed, at most 0.5 eV/atom above the hull": {"filters": {"stability": "relaxed"}},
    "half as many": {"synthetic_ratio": 0.5},
    "twice as many": {"synthetic_ratio": 2.0},
    "flat conditions": {"conditions": "flat"},
    "conditions beyond the range": {"conditions": "beyond"},
    "finetuned": {"mixing": "finetuned", "predictors": ["cgcnn"]},
    "finetuned, labels of the strongest": {
        **STRONG,
        "mixing": "finetuned",
        "predictors": ["cgcnn"],
    },
    "plain augmentation": {"generator": {"family": "augment"}},
    "augmentation, labels of the strongest": {
        **STRONG,
        "generator": {"family": "augment"},
    },
    "adapter on the shipped flow": {"generator": {"family": "flow-adapter"}},
    "adapter, labels of the strongest": {**STRONG, "generator": {"family": "flow-adapter"}},
    "an ensemble of thirty": {"control_members": 30},  # what k_vrh_200's wheel costs
    "three turns, each labelled by the last": {"rounds": 3, "labeller": "own"},
    "three turns, labels of the predictor": {"rounds": 3, "labeller": "own", "label": "predictor"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", required=True, help="Below MATMILL_DATA, or a path.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(VARIATIONS))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--modes", nargs="*")
    parser.add_argument("--predictors", nargs="*")
    parser.add_argument("--seed", type=int, help="of the first run; others confirm what was found")
    parser.add_argument("--controls", action="store_true", help="shuffled labels, equal computing")
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    given = {**read_toml(arguments.config), "data": table_of(arguments.data)}
    given["controls"] = arguments.controls
    wanted = {
        "n_runs": arguments.runs,
        "modes": arguments.modes,
        "predictors": arguments.predictors,
        "seed": arguments.seed,
    }
    given |= {name: value for name, value in wanted.items() if value}
    kept = arguments.out / "ablations.json"
    rows, found = [], found_before(kept)
    for name in arguments.only:
        changed = {**given, **VARIATIONS[name]}
        study = studied(name, changed, out=arguments.out, workers=arguments.workers)
        found[kept_as(name, study)] = study.as_dict()
        rows += difference_rows(name, study)
        print(markdown(HEADS, rows), flush=True)
        save(found, kept)


if __name__ == "__main__":
    main()
