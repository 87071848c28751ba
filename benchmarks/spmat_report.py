"""Print the tables of the pretraining study, in Markdown, from what has finished.

Usage: python benchmarks/spmat_report.py [--results work/spmat/results.jsonl]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon

MAIN = ("simclr", "barlow", "supervised-simclr", "supervised-barlow")
CONTROLS = ("random labels", "multi-task", "scratch, equal compute")
TARGETS = (
    *("formation energy", "band gap", "Fermi energy"),
    *("density", "atomic density", "bulk modulus"),
)
UNITS = {
    "formation energy": "eV/atom",
    "formation energy (large)": "eV/atom",
    "band gap": "eV",
    "Fermi energy": "eV",
    "density": "g/cm³",
    "atomic density": "1/Å³",
    "bulk modulus": "GPa",
    "exfoliation energy": "meV/atom",
}
N_BOOTSTRAP = 10_000


class Results:
    """Errors by target, size, arm and seed."""

    def __init__(self, lines):
        self.lines = lines
        self.errors = {}
        for line in lines:
            if line["kind"] in ("tuning", "ablation"):
                n = line["n"] if line["target"] != "exfoliation energy" else 0
                key = (line["kind"], line["target"], n, line["arm"])
                self.errors.setdefault(key, {})[line["seed"]] = line["mae"]

    def differences(self, target, n, arm, *, kind="tuning", against="scratch"):
        """Return the relative change of the error for each seed that both arms have, in %."""
        mine = self.errors.get((kind, target, n, arm), {})
        other = self.errors.get((kind, target, n, against), {})
        return {s: 100.0 * (mine[s] / other[s] - 1.0) for s in sorted(mine.keys() & other.keys())}

    def sizes(self, target, kind="tuning"):
        return sorted({k[2] for k in self.errors if k[0] == kind and k[1] == target})


def interval(values):
    """Return the 95 % bootstrap interval of the mean."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(N_BOOTSTRAP, len(values)))].mean(1)
    return np.quantile(means, 0.025), np.quantile(means, 0.975)


def p_value(values):
    """Return Wilcoxon's signed-rank p, two-sided; 1 when there are too few pairs to tell."""
    return float(wilcoxon(values).pvalue) if len(values) >= 5 else float("nan")


def holm(values):
    """Return p-values corrected for how many there are; NaN stay."""
    found = np.full(len(values), np.nan)
    known = [i for i, p in enumerate(values) if p == p]
    largest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * values[i]))
        found[i] = largest
    return found


def cell(values, p=None, *, has_count=True):
    """Return mean, interval, p and count as a table cell."""
    if not len(values):
        return "–"
    low, high = interval(values)
    text = f"{np.mean(values):+.1f} [{low:+.1f}, {high:+.1f}]"
    if p is not None and p == p:
        text += f" p={p:.3f}" if p >= 0.001 else " p<0.001"
    return text + (f" ({len(values)})" if has_count else "")


def table(head, rows):
    print(f"| {' | '.join(head)} |")
    print("|" + "---|" * len(head))
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def main_tables(results):
    for n in (500, 2_000):
        print(f"### n = {n:,}: change of the test MAE against scratch, %\n")
        print("Mean over paired seeds [95 % bootstrap interval], Wilcoxon p with Holm's correction")
        print("over the four arms of a row, (pairs). Negative is better than scratch.\n")
        rows = []
        for target in TARGETS:
            scratch = results.errors.get(("tuning", target, n, "scratch"), {})
            if not scratch:
                continue
            found = [list(results.differences(target, n, arm).values()) for arm in MAIN]
            p = holm([p_value(values) for values in found])
            cells = [cell(v, q) for v, q in zip(found, p, strict=True)]
            mae = f"{np.mean(list(scratch.values())):.4g} {UNITS[target]}"
            rows.append([target, mae, *cells])
        table(["target", "scratch MAE", *MAIN], rows)


def pooled_table(results):
    print("### All targets together, change against scratch, %\n")
    print("Each seed's mean over the six targets is one value.\n")
    rows = []
    for n in (500, 2_000):
        row = [f"{n:,}"]
        for arm in (*MAIN, *CONTROLS):
            row.append(cell(list(pooled(results, n, arm).values())))
        rows.append(row)
    table(["n", *MAIN, *CONTROLS], rows)
    print("### Supervised against its unsupervised form, all targets together, %\n")
    rows = []
    for n in (500, 2_000):
        row = [f"{n:,}"]
        for arm, against in (
            ("supervised-simclr", "simclr"),
            ("supervised-barlow", "barlow"),
            ("supervised-barlow", "random labels"),
            ("supervised-barlow", "multi-task"),
        ):
            values = list(pooled(results, n, arm, against).values())
            row.append(cell(values, p_value(values)))
        rows.append(row)
    table(
        [
            "n",
            "simclr: supervised − plain",
            "barlow: supervised − plain",
            "supervised-barlow − random labels",
            "supervised-barlow − multi-task",
        ],
        rows,
    )


def pooled(results, n, arm, against="scratch"):
    """Return for each seed that has all targets the mean change over them."""
    each = [results.differences(target, n, arm, against=against) for target in TARGETS]
    seeds = set.intersection(*(set(one) for one in each))
    return {seed: np.mean([one[seed] for one in each]) for seed in sorted(seeds)}


def controls_table(results):
    print("### Controls, change against scratch, %\n")
    print("Equal compute: scratch trains longer by a twelfth of the pretraining's node passes, the")
    print("share of one of the twelve settings (six targets, two sizes) that an encoder serves.\n")
    rows = []
    for n in (500, 2_000):
        for target in TARGETS:
            found = [list(results.differences(target, n, arm).values()) for arm in CONTROLS]
            seeds = results.differences(target, n, CONTROLS[0])
            same = results.differences(target, n, "supervised-barlow")
            same = [value for seed, value in same.items() if seed in seeds]
            if any(found):
                rows.append([f"{target}, {n:,}", cell(same), *(cell(v) for v in found)])
    table(["target, n", "supervised-barlow, same seeds", *CONTROLS], rows)


def other_tables(results):
    print("### 20,000 rows (formation energy) and transfer to 2D (jdft2d, official folds)\n")
    rows = []
    for target, what in (
        ("formation energy (large)", "20,000 rows"),
        ("exfoliation energy", "jdft2d, 508 rows"),
    ):
        for n in results.sizes(target):
            scratch = results.errors[("tuning", target, n, "scratch")]
            found = [list(results.differences(target, n, arm).values()) for arm in MAIN]
            extra = [list(results.differences(target, n, arm).values()) for arm in CONTROLS[:2]]
            mae = f"{np.mean(list(scratch.values())):.4g} {UNITS[target]}"
            rows.append([what, mae, *(cell(v) for v in [*found, *extra])])
    table(["set", "scratch MAE", *MAIN, *CONTROLS[:2]], rows)


def ablation_table(results):
    print("### Ablations of supervised-barlow, n = 500, change of the MAE, %\n")
    print("Encoders of equal, shorter pretraining. Against scratch, and against the base (metal,")
    print("δ 0.5 Å, batch 256, right labels).\n")
    names = []
    for kind, _, _, arm in results.errors:
        if kind == "ablation" and arm != "scratch" and arm not in names:
            names.append(arm)
    targets = ("formation energy", "band gap")
    rows = []
    for arm in names:
        row = [arm.removeprefix("ablation ")]
        for target in targets:
            for against in ("scratch", "ablation base"):
                if arm == against:
                    row.append("–")
                    continue
                found = results.differences(target, 500, arm, kind="ablation", against=against)
                row.append(cell(list(found.values())))
        rows.append(row)
    head = [f"{target}: against {other}" for target in targets for other in ("scratch", "base")]
    table(["encoder", *head], rows)


def compute_table(results):
    print("### Compute, seconds of one core\n")
    rows = []
    for line in results.lines:
        if line["kind"] in ("pretraining", "collapsed"):
            health = line.get("health") or {}
            rows.append(
                [
                    line["arm"],
                    f"{line.get('seconds', line['cpu_seconds']):.0f}",
                    str(line.get("steps", "collapsed")),
                    f"{line.get('node_passes', 0) / 1e6:.2f} M",
                    *(f"{health.get(k, float('nan')):.2f}" for k in ("rank", "spread")),
                    f"{health['separation']:.2f}" if "separation" in health else "–",
                ]
            )
    head = ["pretraining", "seconds", "steps", "node passes"]
    table([*head, "effective rank", "spread", "class separation"], rows)
    groups = {}
    for line in results.lines:
        if line["kind"] in ("tuning", "ablation", "pilot"):
            equal = line["arm"] == "scratch, equal compute"
            size = "jdft2d" if line["target"] == "exfoliation energy" else f"{line['n']:,}"
            key = (line["kind"] + (", equal compute" if equal else ""), size)
            groups.setdefault(key, []).append((line["cpu_seconds"], line["steps"]))
    rows = [
        [kind, n, str(len(v)), f"{np.mean([s for s, _ in v]):.1f}", f"{v[0][1]}"]
        for (kind, n), v in sorted(groups.items())
    ]
    table(["fine-tuning", "n", "trainings", "mean seconds", "steps"], rows)
    print(f"All together: {sum(line['cpu_seconds'] for line in results.lines):,.0f} s.\n")


def pilot_table(results):
    sums = {}
    for line in results.lines:
        if line["kind"] == "pilot":
            key = ("scratch" if line["arm"] == "scratch" else "pretrained", *line["rates"])
            sums.setdefault(key, []).append(line["mae"] / line["median_predictor_mae"])
    print("### Pilot: rates, on seeds that nothing else uses (MAE over that of the median)\n")
    rows = [
        [kind, f"{encoder:g}", f"{head:g}", f"{np.mean(v):.4f}", str(len(v))]
        for (kind, encoder, head), v in sorted(sums.items())
    ]
    table(["start", "encoder rate", "head rate", "relative MAE", "trainings"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("work/spmat/results.jsonl"))
    options = parser.parse_args()
    text = options.results.read_text(encoding="utf-8").splitlines()
    results = Results([json.loads(line) for line in text if line.endswith("}")])
    for line in results.lines:
        if line["kind"] == "setting":
            print(", ".join(f"{name}: {count}" for name, count in line["counts"].items()), "\n")
            break
    pilot_table(results)
    main_tables(results)
    pooled_table(results)
    controls_table(results)
    other_tables(results)
    ablation_table(results)
    compute_table(results)


if __name__ == "__main__":
    main()
