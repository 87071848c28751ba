"""Constant against dynamic guidance on one condition, judged by a predictor apart from it.

    python benchmarks/guidance.py -n 96 --out work/guidance.json

The same seeds for every row, so that crystals differ by the schedule alone. Hits are crystals
within ±10 % of the trained range around the target; validity is that of unscreened samples. Also
prints the mean effect of the condition, by which the dynamic schedule is normalised
(`generate.guidance.USUAL_EFFECT`).
"""

import argparse
import json
import time
from pathlib import Path

import torch

from matmill.crystals.symmetry import find as find_symmetry
from matmill.generate import guidance as rule
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.predict.protocol import load_predictor
from matmill.quantities import find
from matmill.randomness import child
from matmill.verify.validity import smallest_distance


def wilson(hits, n):
    """Return the 95 % interval of a share."""
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=96, help="crystals a row")
    parser.add_argument("--property", default="band_gap")
    parser.add_argument("--target", type=float, default=2.0)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.5, 3.0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--max-atoms", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = load_generator(arguments.model)
    quantity, predictor = find(arguments.property), load_predictor(arguments.property)
    low, high, _ = generator.trained.ranges[quantity.column]
    half = 0.1 * (high - low)
    effects = []
    plain_effect = rule.effect

    def listening(own, base, state):
        value = plain_effect(own, base, state)
        effects.append(value)
        return value

    rule.effect = listening
    rows = []
    settings = [("constant", 1.0), *((s, w) for w in arguments.scales for s in rule_names())]
    for schedule, scale in settings:
        effects.clear()
        request = GenerationRequest(
            n=arguments.n,
            n_atoms=(1, arguments.max_atoms),
            conditions={quantity.column: arguments.target},
            guidance=scale,
            schedule=schedule,
            n_steps=arguments.steps,
            screen=False,
        )
        started = time.process_time()
        crystals = generator.sample(request, child(arguments.seed, "guidance"))
        seconds = time.process_time() - started
        values = predictor.predict(crystals).mean
        hits = int(((values - arguments.target).abs() <= half).sum())
        apart = smallest_distance(crystals) > 1.5
        groups = find_symmetry(crystals, symprec=0.1).number
        row = {
            "schedule": schedule,
            "scale": scale,
            "hits": hits,
            "n": len(values),
            "interval_95": wilson(hits, len(values)),
            "median": float(values.median()),
            "smallest_distance_above_1.5": int(apart.sum()),
            "p1": int((groups == 1).sum()),
            "cpu_seconds": round(seconds, 1),
        }
        if effects:
            every = torch.cat(effects)
            row["effect"] = {
                "mean": float(every.mean()),
                "quartiles": every.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist(),
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.out:
        content = {"generator": generator.hash, **vars(arguments), "rows": rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(content, indent=2, default=str) + "\n")


def rule_names():
    """Return the schedules, constant first."""
    return ("constant", "dynamic")


if __name__ == "__main__":
    main()
