"""Put a trained Con-CDVAE into the package, rounded to bfloat16, with its scores on the card.

    python benchmarks/cdvae_ship.py work/cdvae/generator.safetensors
    python benchmarks/cdvae_sheet.py --out work/sheets/cdvae.json
    python benchmarks/cdvae_small.py --out work/cdvae_small
    python benchmarks/cdvae_ship.py --sheet work/sheets/cdvae.json \
        --small work/cdvae_small/report.json

What is not given stays as the card has it.
"""

import argparse
import json
from pathlib import Path

import torch

from matmill.generate.cdvae.generator import CdvaeGenerator
from matmill.generate.protocol import ASSETS
from matmill.training import checkpoint

LIMITS = (
    "A briefly trained network: the flow is the better generator. Cells of at most 20 atoms and "
    "lattices in the scale of bulk crystals. Crystals of MP-20 and MPTS-52 val and test were left "
    "out by row, so their formulas may occur. The decoder began with the layers of the shipped "
    "flow, which were trained on MP-20 train and a part of mp_union."
)
FLOW = ASSETS / "flow.safetensors"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="what training wrote")
    parser.add_argument("--sheet", type=Path, help="JSON of benchmarks/cdvae_sheet.py")
    parser.add_argument("--small", type=Path, help="JSON of benchmarks/cdvae_small.py")
    parser.add_argument("--out", type=Path, default=ASSETS / "concdvae.safetensors")
    arguments = parser.parse_args()
    if arguments.checkpoint:
        generator = CdvaeGenerator.load(arguments.checkpoint)
        generator.card.pop("weights_sha256", None)
        generator.card |= {
            "stored_as": "bfloat16",
            "licence": "MIT (weights)",
            "limits": LIMITS,
            "trunk_sha256": checkpoint.hash_of(FLOW),
        }
        path = generator.save(arguments.out, dtype=torch.bfloat16)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {generator.hash[:12]}")
    scores = {
        name: json.loads(path.read_text())
        for name in ("sheet", "small")
        if (path := getattr(arguments, name)) is not None
    }
    if scores:
        # The card alone is replaced: scores belong to the weights that they were measured on.
        _, card = checkpoint.load(arguments.out)
        card.pop("weights_sha256", None)
        card["scores"] = {**card.get("scores", {}), **scores}
        checkpoint.rewrite_card(arguments.out, card)


if __name__ == "__main__":
    main()
