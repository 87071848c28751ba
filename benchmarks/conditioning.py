"""Does asking help? Generate towards targets and let a predictor that never saw them judge.

    python benchmarks/conditioning.py --out docs/img/conditioning.png

For band gap and formation energy: three targets each, the share of crystals within ±10 % of the
trained range around the target, and the same share among unconditional crystals. Judged by the
shipped predictors, which were trained apart from the generator; crystals are not relaxed.
"""

import argparse
import json
from pathlib import Path

import torch

from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.predict.protocol import load_predictor
from matmill.quantities import find
from matmill.randomness import child

TARGETS = {
    "band_gap": (1.0, 2.0, 4.0),
    "formation_energy_per_atom": (-3.0, -2.0, -1.0),
}


def wilson(hits, n):
    """Return the 95 % interval of a share."""
    z, p = 1.96, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=128, help="crystals a target")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--out", type=Path, default=Path("docs/img/conditioning.png"))
    arguments = parser.parse_args()
    generator = load_generator(arguments.model)

    def sample(name, **wishes):
        request = GenerationRequest(guidance=arguments.guidance, **wishes)
        return generator.sample(request, child(arguments.seed, name))

    free = sample("unconditional", n=2 * arguments.n)
    results, drawn = [], {}
    for name, targets in TARGETS.items():
        quantity, predictor = find(name), load_predictor(name)
        low, high, _ = generator.trained.ranges[quantity.column]
        half = 0.1 * (high - low)
        base = predictor.predict(free).mean
        drawn[name] = [("unconditional", base)]
        for target in targets:
            crystals = sample(
                f"{name}={target}", n=arguments.n, conditions={quantity.column: target}
            )
            values = predictor.predict(crystals).mean
            drawn[name].append((f"{target:g} {quantity.unit}", values))
            hits = int(((values - target).abs() <= half).sum())
            by_chance = int(((base - target).abs() <= half).sum())
            share, chance = hits / len(values), by_chance / len(base)
            row = {
                "property": name,
                "target": target,
                "half_width": half,
                "hits": hits,
                "n": len(values),
                "hit_rate": share,
                "interval_95": wilson(hits, len(values)),
                "unconditional_hits": by_chance,
                "unconditional_n": len(base),
                "unconditional_rate": chance,
                "ratio": share / chance if chance else None,
                "median": float(values.median()),
            }
            results.append(row)
            ratio = f"{row['ratio']:.1f}x" if row["ratio"] else "none by chance"
            print(
                f"{name} = {target:g} ± {half:.2f} {quantity.unit}: {hits}/{len(values)} = "
                f"{share:.0%}; unconditional {by_chance}/{len(base)} = {chance:.0%}; {ratio}; "
                f"median {row['median']:.2f}",
                flush=True,
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw(drawn, arguments.out)
    arguments.out.with_suffix(".json").write_text(
        json.dumps(
            {
                "generator": generator.hash,
                "guidance": arguments.guidance,
                "seed": arguments.seed,
                "results": results,
            },
            indent=2,
        )
        + "\n"
    )


def draw(drawn, path):
    """Draw the distributions of the predicted values, one panel a property."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(drawn), figsize=(9, 3.2), constrained_layout=True)
    for axis, (name, series) in zip(axes, drawn.items(), strict=True):
        quantity = find(name)
        everything = torch.cat([values for _, values in series])
        low, high = float(everything.quantile(0.005)), float(everything.quantile(0.995))
        for i, (label, values) in enumerate(series):
            colour = "0.7" if i == 0 else f"C{i - 1}"
            axis.hist(
                values.numpy(),
                bins=30,
                range=(low, high),
                density=True,
                color=colour,
                histtype="stepfilled" if i == 0 else "step",
                linewidth=1.6,
                label=label if i == 0 else f"asked for {label}",
            )
            if i:
                axis.axvline(float(label.split()[0]), color=colour, linestyle=":", linewidth=1)
        axis.set_xlabel(f"predicted {quantity.title}")
        axis.set_yticks([])
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("share of crystals")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
