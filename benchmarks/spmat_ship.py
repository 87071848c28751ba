"""Ship an encoder of the pretraining study: copy it, and write card and page.

Usage: python benchmarks/spmat_ship.py NAME [--out work/spmat] [--page docs/cards/encoders.md]
"""

import argparse
import json
from pathlib import Path

import numpy as np

from matmill.predict.pretrain.encoder import COMPOSITIONS, SHIPPED, load_encoder
from matmill.training import checkpoint
from spmat_data import Data
from spmat_report import TARGETS, UNITS, Results, interval

FILE = SHIPPED / "structures.safetensors"
ATTRIBUTION = (
    "Crystals and properties: Materials Project (Jain et al., 2013), CC BY 4.0, in the releases "
    "that the data page names; the weights are ours."
)
LIMITS = [
    "Crystals of at most 64 atoms; made for starting a training, predicts nothing by itself.",
    "Pretrained on crystals that are mostly above the hull of the Materials Project.",
    "Gains hold for the fine-tuning that was measured (280 steps at 500 rows, 465 at 2,000).",
]


def gains(results, arm):
    """Return the measured change of the error against scratch, by size and target."""
    found = {}
    for n in (500, 2_000):
        for target in TARGETS:
            values = list(results.differences(target, n, arm).values())
            if values:
                low, high = interval(values)
                found.setdefault(str(n), {})[target] = {
                    "change_percent": round(float(np.mean(values)), 2),
                    "low": round(float(low), 2),
                    "high": round(float(high), 2),
                    "pairs": len(values),
                }
    return found


def page(cards):
    """Return the page about all encoders that ship."""
    lines = [
        "# Encoders that ship",
        "",
        "Written by `python benchmarks/spmat_ship.py` from the cards beside the weights.",
        "`matmill train predictor DATA --target COLUMN --from shipped-encoder` starts from the one",
        "for crystals. Models of compositions start from the other one by themselves.",
        "",
    ]
    for name, card in cards.items():
        lines += [f"## {name}", "", card.get("what", ""), ""]
        lines += [f"- Network: {card['network']}, {json.dumps(card['network_settings'])}"]
        lines += [f"- Command: `{card['command']}`", f"- Seed: {card.get('seed', 0)}"]
        for key, value in card["data"].items():
            lines.append(f"- {key.replace('_', ' ')}: {value}")
        given = card.get("attribution", [])
        lines += [f"- {text}" for text in ([given] if isinstance(given, str) else given)]
        lines += [f"- {limit}" for limit in card.get("limits", [])]
        lines.append("")
        if "gains" in card:
            lines += [
                "Change of the test error against the same training from scratch, in % (mean over",
                "paired seeds, 95 % bootstrap interval; negative is better):",
                "",
                "| target | unit | n = 500 | n = 2,000 |",
                "| --- | --- | --- | --- |",
            ]
            for target in TARGETS:
                cells = []
                for n in ("500", "2000"):
                    one = card["gains"].get(n, {}).get(target)
                    cells.append(
                        f"{one['change_percent']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}] "
                        f"({one['pairs']} pairs)"
                        if one
                        else "–"
                    )
                lines.append(f"| {target} | {UNITS[target]} | {cells[0]} | {cells[1]} |")
            lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="Encoder of the study, e.g. supervised-barlow.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("work/spmat"))
    parser.add_argument("--page", type=Path, default=Path("docs/cards/encoders.md"))
    options = parser.parse_args()
    text = (options.out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    results = Results([json.loads(line) for line in text])
    source = options.out / "encoders" / options.name.replace(" ", "-") / "encoder"
    tensors, card = load_encoder(source)
    counts = Data(options.data, options.out).counts
    card.pop("weights_sha256")
    best = min(
        (line for line in results.lines if line["kind"] == "tuning" and line["arm"] != "scratch"),
        key=lambda line: line["seed"],
    )["rates"]
    card |= {
        "name": FILE.stem,
        "what": f"{card['network']}, pretrained by {card['objective']} on "
        f"{', '.join(card['surrogates']) or 'no labels'} of crystals whose formulas are in no set "
        "that it was measured on.",
        "command": "python benchmarks/spmat_study.py; "
        f"python benchmarks/spmat_ship.py {options.name}",
        "attribution": ATTRIBUTION,
        "limits": LIMITS,
        "taken_rate": best[0] / best[1],
        "gains": gains(results, options.name),
    }
    card["data"] |= {
        "crystals above the hull": counts["pool above the hull"],
        "crystals of unknown hull distance": counts["pool of unknown hull distance"],
        "left_out": "every formula of a fine-tuning or test set, and of every stable entry",
    }
    checkpoint.save(FILE, tensors, card)
    cards = {}
    for path in (FILE, SHIPPED / f"{COMPOSITIONS}.safetensors"):
        if path.exists():
            cards[path.stem] = checkpoint.load(path)[1]
    options.page.write_text(page(cards), encoding="utf-8")
    print(f"{FILE}: {FILE.stat().st_size / 1024:.0f} KiB; {options.page}")


if __name__ == "__main__":
    main()
