"""The descriptor blocks: crystals per second, and what simple models make of them.

Usage: OMP_NUM_THREADS=1 python benchmarks/descriptors.py speed [--data FOLDER] [--out FILE.json]
       OMP_NUM_THREADS=1 python benchmarks/descriptors.py scores TASK [--blocks a,b] [--model et]

Speeds are crystals per CPU second of one thread, so that a busy machine does not spoil them.

Scores are five-fold mean absolute errors on ``jdft2d`` (the official folds, meV/atom),
``phonons`` (own folds: part of the rows is withheld, 1/cm), ``refractive_index`` and
``poly_total`` (own folds). Models are the plainest that work: 300 extremely random trees (``et``)
or a support vector machine (``svr``), the same settings for all tasks, nothing tuned, on a log
scale; for jdft2d on asinh of the energy per area, with the area from the `slab` geometry and the
unit of the scale from the training rows alone.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from matmill.data.table import open_table
from matmill.predict.descriptors.blocks import BLOCKS, compute
from matmill.predict.descriptors.dimensionality import dimensionality, layer_geometry

DATA = Path(__file__).parents[2] / "shared" / "data"
TASKS = {
    "jdft2d": ("matbench_jdft2d", "exfoliation_energy_mev_atom"),
    "phonons": ("matbench_phonons", "last_phdos_peak_cm1"),
    "refractive_index": ("dielectric_petousis_mp", "refractive_index"),
    "poly_total": ("dielectric_petousis_mp", "poly_total"),
}
MATBENCH_SEED = 18012019  # KFold of Matbench v0.1
N_DEAR = 32  # crystals that the dearest block is timed on
UNIT_OF_SCALE = 50.0  # meV/atom, where asinh turns from linear to logarithmic


def open_task(task, data):
    """Return crystals in the order of the folds, and the target."""
    name, column = TASKS[task]
    crystals = open_table(data / "properties" / f"{name}.parquet", target=column).crystals
    if task == "jdft2d":
        rows = sorted(range(len(crystals)), key=lambda i: int(crystals.ids[i].split("-")[-1]))
        crystals = crystals.select(rows)
    return crystals, crystals.properties[column].double().numpy()


def speeds(data):
    """Return crystals per CPU second of every block on three sets."""
    found = {}
    for task in ("jdft2d", "phonons", "refractive_index"):
        crystals, _ = open_task(task, data)
        n_atoms = float(crystals.n_atoms.double().mean())
        rates = {}
        for name in [*BLOCKS, "dimensionality"]:
            some = crystals.select(range(N_DEAR)) if name == "vibrations" else crystals
            for batch in (some.select([0]), some):  # the first one loads weights
                start = time.process_time()
                dimensionality(batch) if name == "dimensionality" else compute(batch, [name])
                rates[name] = len(batch) / (time.process_time() - start)
        shown = ", ".join(f"{name} {rate:,.3g}" for name, rate in rates.items())
        print(f"{task} ({len(crystals)} crystals of {n_atoms:.1f} atoms), per second: {shown}")
        found[task] = {"n": len(crystals), "mean_atoms": n_atoms, "per_second": rates}
    return found


def scores(task, blocks, model, data, folder, seed):
    """Return the error of each of five folds."""
    crystals, y = open_task(task, data)
    features = compute(crystals, blocks, folder=folder)
    print(f"{task}: {len(y)} rows, {features.n_columns} columns of {', '.join(blocks)}")
    x = np.clip(features.values.numpy(), -1e9, 1e9)
    area = layer_geometry(crystals).area_per_atom.numpy()
    from sklearn.model_selection import KFold

    errors = []
    for train, test in KFold(5, shuffle=True, random_state=MATBENCH_SEED).split(x):
        if task == "jdft2d":
            unit = area * UNIT_OF_SCALE / np.median(area[train])
            learner = make_model(model, x.shape[1], seed)
            learner.fit(x[train], np.arcsinh(y[train] / unit[train]))
            guess = np.sinh(learner.predict(x[test])) * unit[test]
        else:
            learner = make_model(model, x.shape[1], seed)
            guess = np.exp(learner.fit(x[train], np.log(y[train])).predict(x[test]))
        errors.append(float(np.abs(guess - y[test]).mean()))
    return errors


def make_model(name, n_columns, seed):
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    if name == "et":
        filled = SimpleImputer(strategy="constant", fill_value=-999.0)
        trees = ExtraTreesRegressor(300, max_features=0.33, random_state=seed)
        return make_pipeline(filled, trees)
    machine = SVR(C=3.0, epsilon=0.02, gamma=0.3 / n_columns)
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), machine)


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "scores"])
    parser.add_argument("task", nargs="?", choices=list(TASKS), default="jdft2d")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--blocks", default="composition,structure,slab")
    parser.add_argument("--model", choices=["et", "svr"], default="et")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder that keeps the descriptors")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "speed":
        result = speeds(options.data)
    else:
        blocks = options.blocks.split(",")
        errors = scores(
            options.task, blocks, options.model, options.data, options.cache, options.seed
        )
        shown = ", ".join(f"{error:.3f}" for error in errors)
        mean, spread = np.mean(errors), np.std(errors)
        print(f"{options.model}: MAE {mean:.3f} ± {spread:.3f} over folds ({shown})")
        result = {"task": options.task, "blocks": blocks, "model": options.model, "mae": errors}
    if options.out:
        result["machine"] = {"processor": platform.processor(), "torch": torch.__version__}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
