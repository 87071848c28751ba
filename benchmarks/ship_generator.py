"""Put a trained generator into the package, rounded to bfloat16, with its scores on the card.

python benchmarks/ship_generator.py work/generator/generator.safetensors
python benchmarks/generator_sheet.py --generator flow -n 1000 --relax 256 --out work/sheet.json
python benchmarks/csp.py -n 500 --out work/csp.json
python benchmarks/ship_generator.py --sheet work/sheet.json --csp work/csp.json
python benchmarks/ship_generator.py --conditioning C.json --curves D.json

What is not given stays as the card has it.
"""

import argparse
import json
from pathlib import Path

import torch

from matmill.generate.protocol import ASSETS
from matmill.training import checkpoint

# Standardisation is exact; everything else is multiplied in bfloat16 anyway.
_EXACT = ("scale_mean", "scale_std")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="what training wrote")
    parser.add_argument("--sheet", type=Path, help="JSON of benchmarks/generator_sheet.py")
    parser.add_argument("--csp", type=Path, nargs="*", help="JSON of benchmarks/csp.py")
    parser.add_argument("--conditioning", type=Path, help="JSON of benchmarks/conditioning.py")
    parser.add_argument("--curves", type=Path, help="JSON of benchmarks/generator_curves.py")
    parser.add_argument("--out", type=Path, default=ASSETS / "flow.safetensors")
    arguments = parser.parse_args()
    if arguments.checkpoint:
        ship(arguments.checkpoint, arguments.out)
    names = ("sheet", "conditioning", "curves")
    scores = {
        name: json.loads(path.read_text())
        for name in names
        if (path := getattr(arguments, name)) is not None
    }
    if arguments.csp:
        scores["csp"] = [json.loads(path.read_text()) for path in arguments.csp]
    if scores:
        # The card alone is replaced: scores belong to the weights that they were measured on.
        _, card = checkpoint.load(arguments.out)
        card.pop("weights_sha256", None)
        card["scores"] = {**card.get("scores", {}), **scores}
        checkpoint.rewrite_card(arguments.out, card)


def ship(source, out):
    """Round a checkpoint and write it into the package."""
    tensors, card = checkpoint.load(source)
    card.pop("weights_sha256", None)
    rounded = {
        name: tensor if name in _EXACT else tensor.to(torch.bfloat16)
        for name, tensor in tensors.items()
    }
    worst = max(
        float((tensor - rounded[name].to(tensor.dtype)).abs().max())
        for name, tensor in tensors.items()
    )
    card["stored_as"] = "bfloat16"
    path = checkpoint.save(out, rounded, card)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; largest change of a weight {worst:.2g}")


if __name__ == "__main__":
    main()
