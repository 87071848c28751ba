"""The ladder of ablations: one change at a time, the same seed and the same CPU seconds for each.

    OMP_NUM_THREADS=1 python benchmarks/generator_ladder.py --max-atoms 8 --seconds 240
    python benchmarks/generator_ladder.py --out work/ladder --table

Every branch trains from scratch on the crystals of ``train_generator.py`` until its CPU seconds
(of the process, not of the clock on the wall) are used up, and is then measured: match rate and
RMSE on 500 validation compositions (one sample, 30 steps, a crystal on the hull asked for, nothing
drawn again), and 500 free samples with the same settings. Small cells are learnt several times
faster, so that a short budget can tell branches apart: ``--max-atoms``. Interrupt it at any time:
the same command goes on. Results are in ``ladder.jsonl``, one line a branch, and ``ladder.md``.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch

import train_generator
from csp import choose_rows
from generator_common import mp_20
from matmill.cli.progress import show
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.facts import density
from matmill.data.table import open_table
from matmill.generate.dataset import TrainingSet, usable
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.generate.train import GeneratorSettings, train_on
from matmill.randomness import child
from matmill.training.fit import FitSettings
from matmill.verify import metrics

FAR_EV_PER_ATOM = 1.0
N_STEPS = 30

# In order of the gain that is expected: an interrupted ladder has answered the best questions.
BRANCHES = {
    "base": {},
    "permutation coupling": {"flow": {"coupling": "permutation"}},
    "base, another seed": {"seed": 1},
    "also up to 1 eV above the hull": {"data": "wide"},
    "half the batch": {"n_tokens": 830},
    "coordinates weigh twice": {"flow": {"coords_weight": 2.0}},
    "elements weigh twice": {"flow": {"types_weight": 1.0}},
    "clocks: de novo and composition known": {"flow": {"task_shares": (0.6, 0.0, 0.4, 0.0)}},
    "clocks near the end (1 - u^1.5)": {"flow": {"time_power": 1.5}},
    "size M": {"size": "M"},
    "learning rate 2e-3": {"fit": {"learning_rate": 2e-3}},
    "size tiny": {"size": "tiny"},
    "clocks: de novo alone": {"flow": {"task_shares": (1.0, 0.0, 0.0, 0.0)}},
    "targets with the common drift": {"flow": {"mean_free": False}},
    "average over fewer steps (0.99)": {"fit": {"ema_decay": 0.99}},
    "fp32": {"fit": {"precision": "fp32"}},
}


def wide(data: Path, narrow: CrystalBatch) -> CrystalBatch:
    """Return the crystals of the base with those up to 1 eV per atom above the hull."""
    union = train_generator.read(data / "mp_union.parquet")
    mp20 = open_table(data / "mp_20.parquet")
    mpts = open_table(data / "mpts_52.parquet")
    held_ids, held_formulas = set(narrow.ids), set()
    for table, column in ((mp20, "split"), (union, "benchmark"), (mpts, "split")):
        tested = train_generator.is_tested(table.notes[column])
        pairs = zip(table.ids, table.crystals.formula, tested, strict=True)
        held = [(i, formula) for i, formula, is_held in pairs if is_held]
        held_ids |= {i for i, _ in held}
        held_formulas |= {formula for _, formula in held}
    fit = (union.crystals.n_atoms <= 20) & (union.column("energy_above_hull_ev") <= FAR_EV_PER_ATOM)
    formulas = union.crystals.formula
    fresh = [
        k
        for k in torch.nonzero(fit).flatten().tolist()
        if union.ids[k] not in held_ids and formulas[k] not in held_formulas
    ]
    more = union.crystals.select(fresh)
    return concatenate([narrow, more.with_properties(density_g_cm3=density(more))])


def training_sets(data: Path, max_atoms: int):
    """Return a function that makes the training set of a branch; each is prepared once."""
    ready: dict[str, CrystalBatch] = {}

    def make(kind: str, n_tokens: int) -> TrainingSet:
        if "base" not in ready:
            batch, _, _ = train_generator.training_crystals(data)
            ready["base"] = usable(batch, max_atoms=max_atoms)
        if kind not in ready:
            ready[kind] = usable(wide(data, ready["base"]), max_atoms=max_atoms)
        batch = ready[kind]
        groups = batch.properties["spacegroup"].nan_to_num(0.0).long()
        return TrainingSet(batch, groups, n_tokens=n_tokens)

    return make


def settings_of(change: dict, seconds: float, most: int) -> GeneratorSettings:
    """Return the settings of a branch."""
    fit = {
        "max_seconds": seconds,
        "clock": "cpu",
        "learning_rate": 1e-3,
        "warmup_steps": 100,
        "decay_tail": 0.3,
        "ema_decay": 0.999,
        "log_every_steps": 50,
        "precision": "bf16",
        **change.get("fit", {}),
    }
    rest = {name: change[name] for name in ("size", "flow", "n_tokens") if name in change}
    return GeneratorSettings(symmetric_passes=0, max_atoms=most, **rest, fit=FitSettings(**fit))


def measure(generator: FlowGenerator, truth: CrystalBatch, reference: CrystalBatch, n: int, seed):
    """Return the metrics of one branch by short name."""
    asked = {"conditions": {"energy_above_hull_ev": 0.0}, "guidance": 1.0, "n_steps": N_STEPS}
    same = GenerationRequest(n=len(truth), seeds=truth, strength=1.0, screen=False, **asked)
    found = metrics.csp_match(generator.sample(same, child(seed, "ladder", "csp")), truth)
    began = time.process_time()
    free = GenerationRequest(n=n, screen=False, **asked)
    made = generator.sample(free, child(seed, "ladder", "free"))
    rate = n / (time.process_time() - began)
    compositions = metrics.compositional_validity(made)
    return {
        "match": found[0].value,
        "rmse": found[1].value if math.isfinite(found[1].value) else None,
        "match by size": [m.value for m in found[2:]],
        "d > 0.5 Å": metrics.roomy(made, 0.5).value,
        "d > 1.5 Å": metrics.roomy(made, 1.5).value,
        "P1": metrics.p1_share(made).value,
        "density W1": metrics.distribution_distances(made, reference)[0].value,
        "compositions": compositions[0].value,
        "compositions rule": compositions[0].name,
        "samples per CPU second": rate,
    }


def table(rows: list[dict]) -> str:
    """Return the results as Markdown; differences are judged against the two base seeds."""
    columns = ["match", "rmse", "d > 0.5 Å", "d > 1.5 Å", "P1", "density W1", "compositions"]
    shares = {"match", "d > 0.5 Å", "d > 1.5 Å", "P1", "compositions"}
    lines = [
        "| branch | CPU s | views | " + " | ".join(columns) + " |",
        "|" + "---|" * (len(columns) + 3),
    ]
    for row in rows:
        cells = [
            "–"
            if row[name] is None
            else f"{100 * row[name]:.1f} %"
            if name in shares
            else f"{row[name]:.3f}"
            for name in columns
        ]
        lead = [row["branch"], f"{row['seconds']:.0f}", f"{row['views'] / 1e3:.0f} k"]
        lines.append("| " + " | ".join(lead + cells) + " |")
    if rows:
        p, n = rows[0]["match"], rows[0]["compositions asked"]
        error = 100 * math.sqrt(max(p * (1 - p), 1e-9) / n)
        lines += ["", f"One standard error of a match rate: {error:.1f} points ({n} compositions)."]
    return "\n".join(lines) + "\n"


def commit() -> str:
    """Return the commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("work/ladder"))
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds a branch")
    parser.add_argument("-n", type=int, default=500, help="compositions, and free samples")
    parser.add_argument("--max-atoms", type=int, default=20, help="largest cell, everywhere")
    parser.add_argument("--branches", nargs="*", choices=BRANCHES, help="these alone")
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = arguments.out / "ladder.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows = [json.loads(line) for line in lines]
    if arguments.table:
        sys.stdout.write(table(rows))
        return
    torch.set_num_threads(1)
    most = arguments.max_atoms
    val = mp_20("val", arguments.data, published_geometry=True)
    truth = choose_rows(val.select(val.n_atoms <= most), arguments.n, arguments.seed)
    test = mp_20("test", arguments.data)
    reference = test.select(test.n_atoms <= most)
    make = training_sets(arguments.data, most)
    for name in arguments.branches or BRANCHES:
        if any(row["branch"] == name and row["budget"] == arguments.seconds for row in rows):
            continue
        change = BRANCHES[name]
        settings = settings_of(change, arguments.seconds, most)
        folder = arguments.out / "".join(c if c.isalnum() else "_" for c in name)
        data = make(change.get("data", "base"), settings.n_tokens)
        with show() as bars:
            seed = change.get("seed", arguments.seed)
            result = train_on(data, settings=settings, folder=folder, seed=seed, on_event=bars)
        generator = FlowGenerator.load(folder / "generator.safetensors")
        found = measure(generator, truth, reference, arguments.n, arguments.seed)
        row = {
            "branch": name,
            "budget": arguments.seconds,
            "change": change,
            "seconds": result.seconds,
            "steps": result.step,
            "crystals": len(data),
            "views": round(result.step * len(data) / data.n_batches()),
            "max_atoms": most,
            "compositions asked": len(truth),
            "commit": commit(),
            **found,
        }
        rows.append(row)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        (arguments.out / "ladder.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
