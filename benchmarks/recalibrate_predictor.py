"""Calibrate the shipped predictor again, without training: its weights stay as they are.

Usage: python benchmarks/recalibrate_predictor.py [--data FOLDER] [--out FILE]

Needed once for a file that was saved before calibration rows and training crystals were kept with
it. The rows are those of its training: the table must have the content hash that is on the card.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from matmill.graphs.graph import Graph
from matmill.predict.ensemble import EnsembleModel, load_model
from matmill.predict.finish import calibrate_model, describe_domain
from matmill.predict.protocol import ASSETS
from matmill.predict.scores import score_model
from train_predictors import load_table

ROOT = Path(__file__).parents[1]
DOMAIN_ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("MATMILL_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(shared))
    parser.add_argument("--model", type=Path, default=ASSETS / "materials_project.safetensors")
    parser.add_argument("--out", type=Path, help="default: in place")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = load_model(args.model)
    table = load_table(args.data)
    if table.hash != model.card["data"]["content_hash"]:
        raise SystemExit(f"{args.data} holds other rows than the predictor was trained on.")
    started = time.monotonic()
    parts = {
        name: torch.tensor([i for i, note in enumerate(table.notes["split"]) if note == name])
        for name in ("train", "val", "test")
    }
    columns = model.card["columns_trained"]
    values = torch.stack([table.column(name).double() for name in columns], dim=1)
    scales = model.scales
    labels = torch.stack([s.to_learned(values[:, i]) for i, s in enumerate(scales)], dim=1).float()

    def graphs(rows: torch.Tensor) -> Graph:
        return model.graphs(table.crystals.select(rows))

    before = model.card["calibration"]
    describe_domain(model, graphs(parts["train"][:DOMAIN_ROWS]))
    calibrate_model(model, graphs(parts["val"]), labels[parts["val"]])
    model.card["scores"] = score_model(model, graphs(parts["test"]), values[parts["test"]])
    for column in model.columns:
        old, new = (c[column]["conformal_factors"]["0.90"] for c in (before, _calibration(model)))
        covered = model.card["scores"][column]["intervals"]["0.90"]["covered"]
        print(f"{column}: factor for 90 % {old:.4f} -> {new:.4f}; covers {100 * covered:.1f} %")
    path = model.save(args.out or args.model)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, {time.monotonic() - started:.0f} s")


def _calibration(model: EnsembleModel) -> dict:
    return model.card["calibration"]


if __name__ == "__main__":
    main()
