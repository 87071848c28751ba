"""What makes synthetic data help or hurt: one option of the flywheel changed at a time.

    python benchmarks/flywheel_ablations.py benchmarks/flywheel/jdft2d.toml \\
        --data properties/matbench_jdft2d.parquet --out work/flywheel/jdft2d [--only plain weighted]

Give the folder of the study itself: generators, synthetic crystals and fits that a variation does
not change are read from there. Prints, for each variation, predictor and mode, the paired
difference of real + synthetic to real rows alone.
"""

import argparse
from pathlib import Path

from generator_common import DATA, markdown, save
from matmill.campaign.workers import LocalWorkers
from matmill.config import check_settings, read_toml
from matmill.steer.flywheel.driver import TASK_SECONDS, run_flywheel
from matmill.steer.flywheel.settings import FilterSettings, FlywheelSettings
from matmill.steer.flywheel.study import BOTH, SYNTHETIC

VARIATIONS = {
    "plain": {},
    "labels of the predictor": {"label": "predictor"},
    "labels of the strongest predictor": {"label": "predictor", "labeller": "tabular"},
    "weighted by its error": {"label": "predictor", "labeller": "tabular", "mixing": "weighted"},
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
    "plain augmentation": {"generator": {"family": "augment"}, "filters": {"copies": False}},
    "adapter on the shipped flow": {"generator": {"family": "flow-adapter"}},
    "started from shipped weights": {"generator": {"start": "concdvae"}},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", required=True, help="Below MATMILL_DATA, or a path.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(VARIATIONS))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--modes", nargs="*")
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    given = read_toml(arguments.config)
    path = Path(arguments.data)
    given["data"] = str(path if path.exists() else Path(DATA) / path)
    given["controls"] = False
    if arguments.runs:
        given["n_runs"] = arguments.runs
    if arguments.modes:
        given["modes"] = arguments.modes
    rows, found = [], {}
    for name in arguments.only:
        changed = {**given, **VARIATIONS[name]}
        if "generator" in VARIATIONS[name] and "family" not in VARIATIONS[name]["generator"]:
            changed["generator"] = {**given.get("generator", {}), **VARIATIONS[name]["generator"]}
        settings = check_settings(changed, FlywheelSettings, source=name)
        study = run_flywheel(
            settings,
            folder=arguments.out,
            workers=LocalWorkers(arguments.workers, timeout_s=TASK_SECONDS),
        ).study
        found[name] = study.as_dict()
        kept = sum(s.n_kept for s in study.syntheses) / max(
            1, sum(s.n_asked for s in study.syntheses)
        )
        for row in study.rows:
            change = row.against_real
            if change is None or row.arm not in (BOTH, SYNTHETIC):
                continue
            interval = f"{change.low:+.3g} … {change.high:+.3g}"
            rows.append(
                [
                    name,
                    row.mode,
                    row.predictor,
                    row.arm,
                    f"{row.mean:.4g}",
                    f"{change.mean:+.3g}",
                    interval,
                    f"{change.n_better} of {change.n}",
                    f"{100 * kept:.0f} %",
                ]
            )
        heads = ["variation", "mode", "predictor", "arm", "MAE", "difference", "95 % interval",
                 "better", "kept"]  # fmt: skip
        print(markdown(heads, rows), flush=True)
    save(found, arguments.out / "ablations.json")


if __name__ == "__main__":
    main()
