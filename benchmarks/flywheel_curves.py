"""Where synthetic data helps: tasks, generator families and numbers of labels, each paired.

    python benchmarks/flywheel_curves.py --tasks phonons piezoelectric --labels 50 200 \\
        --families concdvae flow-adapter --labelled-by condition finetuned --out work/curves

Supervised runs on so many training rows, drawn from 70 % of a table by formula; validation and test
rows are always 15 % each. Generators start from shipped weights; families that end with "-scratch"
learn from the training rows alone. One folder a task: the same command goes on, and whatever two
studies have in common is computed once.
"""

import argparse
from pathlib import Path

from flywheel_common import HEADS, difference_rows, found_before, kept_as, studied, table_of
from generator_common import markdown, save

TASKS = {
    "exfoliation": ("matbench_jdft2d", "exfoliation_energy_mev_atom"),
    "dielectric": ("dielectric_petousis_mp", "poly_total"),
    "phonons": ("matbench_phonons", "last_phdos_peak_cm1"),
    "piezoelectric": ("piezoelectric_mp", "eij_max_c_m2"),
    "bulk modulus": ("elastic_tensor_mp2015", "k_vrh_gpa"),
    "shear modulus": ("elastic_tensor_mp2015", "g_vrh_gpa"),
    "bulk exfoliation": ("jarvis_dft3d_exfoliation", "exfoliation_energy_mev_atom"),
    "refractive index": ("refractive_index_naccarato2019", "refractive_index"),
}
FAMILIES = {
    "concdvae": {
        "family": "concdvae",
        "start": "concdvae",
        "settings": {
            "batch_size": 32,
            "fit": {"max_steps": 150, "learning_rate": 5e-4, "warmup_steps": 15},
            "prior_fit": {"max_steps": 400},
        },
    },
    "concdvae-scratch": {
        "family": "concdvae",
        "start": "scratch",
        "settings": {
            "batch_size": 32,
            "fit": {"max_steps": 400},
            "prior_fit": {"max_steps": 600},
        },
    },
    "flow-adapter": {"family": "flow-adapter"},
    "flow-adapter-scratch": {"family": "flow-adapter", "start": "scratch"},
    "augment": {"family": "augment"},
}
STRONG = {"label": "predictor", "labeller": "tabular", "mixing": "plain"}
LABELS = {
    "condition": {"label": "condition", "labeller": "own", "mixing": "plain"},
    "tabular": STRONG,
    "weighted": {**STRONG, "mixing": "weighted"},
    "finetuned": {**STRONG, "mixing": "finetuned", "predictors": ["cgcnn"]},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--families", nargs="*", default=["concdvae", "flow-adapter"])
    parser.add_argument("--labels", nargs="*", type=int, default=[50, 100, 200, 500, 1000])
    parser.add_argument("--labelled-by", nargs="*", default=list(LABELS), choices=list(LABELS))
    parser.add_argument("--predictors", nargs="*", default=["cgcnn", "tabular"])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--ratio", type=float, default=1.0)
    parser.add_argument("--controls", action="store_true", help="shuffled labels, equal computing")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    kept = arguments.out / "curves.json"
    rows, found = [], found_before(kept)
    for n in arguments.labels:
        for task in arguments.tasks:
            for family in arguments.families:
                for by in arguments.labelled_by:
                    file, target = TASKS[task]
                    given = {
                        "data": table_of(f"properties/{file}.parquet"),
                        "target": target,
                        "predictors": arguments.predictors,
                        "modes": ["supervised"],
                        "n_runs": arguments.runs,
                        "max_labels": n,
                        "synthetic_ratio": arguments.ratio,
                        "generator": FAMILIES[family],
                        "controls": arguments.controls,
                        **LABELS[by],
                    }
                    name = f"{task}, {family}, labels: {by}"
                    folder = arguments.out / task.replace(" ", "-")
                    study = studied(name, given, out=folder, workers=arguments.workers)
                    found[kept_as(name, study)] = study.as_dict()
                    rows += difference_rows(name, study)
                    print(markdown(HEADS, rows), flush=True)
                    save(found, kept)


if __name__ == "__main__":
    main()
