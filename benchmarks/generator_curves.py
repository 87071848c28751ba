"""What more network calls and less precision do to the crystals.

    python benchmarks/generator_curves.py --model flow -n 512 --out work/sheets/curves.json

For each number of steps: crystals as the network makes them, none drawn again, with their CPU
seconds; the same number of steps in bfloat16 and in float32; and the match rate of one sample on
``--csp`` MP-20 validation compositions (0 leaves it out). Distances are to MP-20 test. All runs
start from the same seed. Samples are kept in ``--work``: the same command continues after a kill.
"""

import argparse
import sys
from pathlib import Path

import torch

from csp import choose_rows, rate, text
from generator_common import DATA, markdown, mp_20, sampled, save, training_formulas, with_interval
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import ASSETS, GenerationRequest
from matmill.verify import metrics
from matmill.verify.novelty import first_of_each
from matmill.verify.prediction import match_distances

STEPS = (5, 10, 20, 30, 50, 100, 250, 1000)


def measured(batch, reference, seen):
    """Return what is worth watching about one set, as metrics by short name."""
    first = torch.tensor(first_of_each(batch)) == torch.arange(len(batch))
    is_new = torch.tensor([formula not in seen for formula in batch.formula])
    density, volume, elements = metrics.distribution_distances(batch, reference)
    return {
        "> 0.5 Å": metrics.geometric_validity(batch),
        "> 1.5 Å": metrics.roomy(batch),
        "SMACT": metrics.compositional_validity(batch)[0],
        "P1": metrics.p1_share(batch),
        "unique": metrics.share("unique", first),
        "new formula": metrics.share("new formula", is_new),
        "W1 density": density,
        "W1 V/atom": volume,
        "W1 elements": elements,
    }


def matched(generator, true, steps, folder, name, seed):
    """Return the match rate of one sample a composition."""
    chunk = 200

    def request(piece, m):
        return GenerationRequest(
            n=m,
            seeds=true.select(torch.arange(piece * chunk, piece * chunk + m)),
            strength=1.0,
            n_steps=steps,
            conditions={"energy_above_hull_ev": 0.0},
            guidance=1.0,
        )

    made = sampled(
        generator,
        request,
        len(true),
        folder,
        f"csp-{name}",
        seed=seed,
        chunk=chunk,
        stream="csp-curves",
    )
    return rate(match_distances([made], true)[0])


def page(report):
    """Return the table as Markdown."""
    rows = []
    for run in report["runs"]:
        shares = [
            with_interval(int(run[name]["numerator"]), run[name]["denominator"])
            if run[name]["is_share"]
            else f"{run[name]['value']:.2f}"
            for name in report["columns"]
        ]
        match = text(run["csp"]) if run.get("csp") else "–"
        cost = 1000 * run["cpu_seconds_per_crystal"]
        head = [run["calls"], run["precision"], run["n"], f"{cost:.1f}"]
        rows.append([*head, *shares, match])
    header = ["calls", "precision", "n", "CPU ms a crystal", *report["columns"], "CSP match"]
    return markdown(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=512, help="crystals a setting")
    parser.add_argument("--most-calls", type=int, default=1_000_000, help="n is cut above these")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--fp32", type=int, nargs="*", default=[50], help="steps in float32 too")
    parser.add_argument("--csp", type=int, default=0, help="validation compositions a setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="flow", help="flow, or a .safetensors file")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("work/sheets"))
    parser.add_argument("--out", type=Path, help="JSON; the table goes beside it as Markdown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = ASSETS / "flow.safetensors" if arguments.model == "flow" else Path(arguments.model)
    reference = mp_20("test", arguments.data)
    seen = training_formulas(arguments.data)
    true = None
    if arguments.csp:
        every = mp_20("val", arguments.data, published_geometry=True)
        true = choose_rows(every, arguments.csp, arguments.seed)
    settings = [("bf16", steps) for steps in arguments.steps]
    settings += [("fp32", steps) for steps in arguments.fp32]
    loaded = {p: FlowGenerator.load(path, precision=p) for p in dict(settings)}
    runs = []
    for precision, steps in settings:
        generator = loaded[precision]
        folder = arguments.work / f"{generator.hash[:10]}-curves-{arguments.seed}"
        n = min(arguments.n, max(32, arguments.most_calls // steps))
        batch = sampled(
            generator,
            lambda _, m, steps=steps: GenerationRequest(n=m, n_steps=steps, screen=False),
            n,
            folder,
            f"{precision}-{steps}",
            seed=arguments.seed,
            chunk=128,
            stream="curves",
        )
        run = {
            "calls": steps,
            "precision": precision,
            "n": n,
            "cpu_seconds_per_crystal": float(batch.properties["cpu_s"].mean()),
        }
        found = measured(batch, reference, seen)
        for name, metric in found.items():
            run[name] = {
                "value": metric.value,
                "numerator": metric.numerator,
                "denominator": metric.denominator,
                "is_share": metric.is_share,
            }
        if true is not None:
            name = f"{precision}-{steps}-{len(true)}"
            run["csp"] = matched(generator, true, steps, folder, name, arguments.seed)
        runs.append(run)
        report = {
            "command": " ".join(sys.argv),
            "generator": generator.hash,
            "columns": list(found),
            "runs": runs,
        }
        if arguments.out:
            save(report, arguments.out)
            arguments.out.with_suffix(".md").write_text(page(report) + "\n")
    print("\n" + page(report))


if __name__ == "__main__":
    main()
