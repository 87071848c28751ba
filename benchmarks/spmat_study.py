"""Does supervised pretraining help with few labels? A resumable queue of paired trainings.

Every job appends lines to ``results.jsonl`` when it is done; a killed run goes on with the next
job. The most important jobs come first, so the tables of ``spmat_report.py`` can be printed at any
time with the counts that there are. Fine-tunings run in a plain loop (`spmat_stack`), several arms
on the same rows and batches: production networks, target scales, losses and schedules, without the
start-up of a trainer. Pretraining is ``matmill.predict.pretrain`` itself.

Usage: python benchmarks/spmat_study.py [--data FOLDER] [--out work/spmat]
       [--only-large] [--jobs]
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

import spmat_stack
from matmill.errors import DataError
from matmill.predict.pretrain.encoder import load_encoder
from matmill.predict.pretrain.task import BalancedBatches
from matmill.predict.pretrain.train import PretrainSettings, pretrain
from matmill.randomness import child, child_seed
from spmat_data import LARGE_TARGET, MAIN, MODULUS, SLABS, TARGETS, Data
from spmat_stack import Schedule, Stack, fresh, predict, train

EPOCHS = 5  # of the main encoders; their pool has 61,000 crystals
ABLATION_CRYSTALS, ABLATION_EPOCHS = 15_000, 3
SCHEDULES = {
    500: Schedule(epochs=40),
    2_000: Schedule(epochs=15),
    20_000: Schedule(epochs=8, batch=128),
}
SLAB_SCHEDULE = Schedule(epochs=40)
MAIN_ENCODERS = {
    "simclr": {"objective": "simclr"},
    "barlow": {"objective": "barlow"},
    "supervised-simclr": {"objective": "supervised-simclr"},
    "supervised-barlow": {"objective": "supervised-barlow"},
}
CONTROL_ENCODERS = {
    "random labels": {"objective": "supervised-barlow", "random_labels": True},
    "multi-task": {
        "objective": "multi-task",
        "surrogates": ("metal", "magnetic", "gap-class", "crystal-system"),
    },
}
ABLATIONS = {
    "base": {},
    "no GNDN": {"delta": 0.0},
    "δ 0.1": {"delta": 0.1},
    "δ 0.25": {"delta": 0.25},
    "δ 1.0": {"delta": 1.0},
    "gap-class": {"surrogates": ("gap-class",)},
    "magnetic": {"surrogates": ("magnetic",)},
    "crystal-system": {"surrogates": ("crystal-system",)},
    "10 % wrong": {"wrong_labels": 0.1},
    "30 % wrong": {"wrong_labels": 0.3},
    "batch 128": {"batch": 128},
    "batch 64": {"batch": 64},
}
PILOT_RATES = (1e-3, 2e-3, 4e-3)
PILOT_PAIRS = ((4e-4, 2e-3), (1e-3, 2e-3), (2e-3, 2e-3))
# The best of the first three was at the edge.
PILOT_MORE = ((1e-3, 4e-3), (2e-3, 4e-3), (4e-3, 4e-3))
PILOT_SEEDS = (1000, 1001)
LARGE_SEEDS = 10
EQUAL = "scratch, equal compute"
N_SETTINGS = 12  # an encoder serves six targets at two sizes, which share its cost


class Study:
    """The data, the results so far, and how one job runs."""

    def __init__(self, data, out):
        self.data, self.out = data, out
        self.file = out / "results.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.lines = [json.loads(line) for line in lines if line.endswith("}")]
        self.done = {line["job"] for line in self.lines}
        self.began = 0.0

    def run(self, name, job):
        """Run a job that returns lines of results, unless it was done before."""
        if name in self.done:
            return
        wall, self.began = time.time(), time.process_time()
        found = job()
        used = {
            "cpu_seconds": round((time.process_time() - self.began) / len(found), 3),
            "job_wall_seconds": round(time.time() - wall, 1),
        }
        # One write a job: a kill leaves either all of its lines or none.
        text = "".join(json.dumps({"job": name, **line, **used}) + "\n" for line in found)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(text)
        self.lines += [{"job": name, **line, **used} for line in found]
        self.done.add(name)
        print(f"{time.strftime('%H:%M:%S')} {name}: {used}", flush=True)

    # ------------------------------------------------------------------ pretraining
    def encoder(self, name, changes, *, is_ablation=False):
        """Pretrain one encoder."""
        folder = self.out / "encoders" / name.replace(" ", "-").replace("%", "percent")
        table, graph = self.data.pool, self.data.pool_graph
        if is_ablation:
            rows = torch.randperm(len(table), generator=child(0, "ablation"))[:ABLATION_CRYSTALS]
            table, graph = table.select(rows), graph.select(rows)
        epochs = ABLATION_EPOCHS if is_ablation else EPOCHS
        settings = PretrainSettings(
            **{"epochs": epochs, "accelerator": "cpu", "precision": "fp32", **changes}
        )
        try:
            found = pretrain(table, settings=settings, folder=folder, seed=0, graph=graph)
        except DataError as error:  # a collapse is a result
            return [{"kind": "collapsed", "arm": name, "why": str(error)}]
        found.save(folder / "encoder")
        labels = torch.zeros(len(graph), 0).long()
        draws = BalancedBatches(graph, labels, size=settings.batch).draws
        passes = 2 * settings.epochs * float((draws * graph.n_atoms).sum())
        training = found.card["training"]
        return [{"kind": "pretraining", "arm": name, "node_passes": round(passes), **training}]

    def start(self, arm, seed):
        """Return the weights that an arm starts from; last layers are the same for all arms."""
        state = fresh(child_seed(seed, "initial weights"))
        if arm.startswith("scratch"):
            return state
        folder = self.out / "encoders" / arm.replace(" ", "-").replace("%", "percent")
        return {**state, **load_encoder(folder / "encoder")[0]}

    # ------------------------------------------------------------------ fine-tuning
    def tune(self, replicas, n, seed, schedule, *, rows=None, test=None):
        """Fine-tune (arm, target, encoder rate, head rate) side by side; return their lines."""
        group = self.data.group(replicas[0][1])
        train_rows = group.rows(n, seed) if rows is None else rows
        test_rows = group.test if test is None else test
        made = [group.labels(target, train_rows) for _, target, *_ in replicas]
        stack = Stack([self.start(arm, seed) for arm, *_ in replicas])
        rates = stack.rates([r[2] for r in replicas], [r[3] for r in replicas])
        labels = torch.stack([labels[train_rows] for _, labels in made], dim=1)
        rng = child(seed, "batches", n)
        steps = train(stack, group.graph.select(train_rows), labels, schedule, rates, rng)
        out = predict(stack, group.graph.select(test_rows)).double()
        lines = []
        for i, (arm, target, *rate) in enumerate(replicas):
            error = made[i][0].from_learned(out[:, i]) - group.values[target][test_rows]
            lines.append(
                {
                    "kind": "tuning",
                    "target": target,
                    "n": len(train_rows),
                    "seed": seed,
                    "arm": arm,
                    "mae": float(error.abs().mean()),
                    "median_error": float(error.abs().median()),
                    "median_predictor_mae": float(
                        (
                            group.values[target][test_rows]
                            - group.values[target][train_rows].median()
                        )
                        .abs()
                        .mean()
                    ),
                    "n_test": len(test_rows),
                    "steps": steps,
                    "rates": rate,
                }
            )
        return lines

    def rates(self):
        """Return the rates of scratch and of pretrained arms that did best in the pilot."""
        pilot = [line for line in self.lines if line["kind"] == "pilot"]
        best = {}
        for is_scratch in (True, False):
            sums = {}
            for line in pilot:
                if line["arm"].startswith("scratch") == is_scratch:
                    relative = line["mae"] / line["median_predictor_mae"]
                    sums.setdefault(tuple(line["rates"]), []).append(relative)
            best[is_scratch] = min(sums, key=lambda rate: sum(sums[rate]) / len(sums[rate]))
        return best

    def pilot(self, target, seed, pairs, rates=()):
        """Fine-tune with several rates, on seeds that the study does not use."""
        arms = [("scratch", target, rate, rate) for rate in rates]
        arms += [(arm, target, *pair) for arm in ("barlow", "supervised-barlow") for pair in pairs]
        return [{**line, "kind": "pilot"} for line in self.tune(arms, 500, seed, SCHEDULES[500])]

    def replicas(self, arms, targets):
        """Return arms and targets with the rates that the pilot chose."""
        best = self.rates()
        collapsed = {line["arm"] for line in self.lines if line["kind"] == "collapsed"}
        return [
            (arm, target, *best[arm.startswith("scratch")])
            for arm in arms
            for target in targets
            if arm not in collapsed
        ]

    def equal_schedule(self, n, share):
        """Return the schedule that gives scratch the passes of a pretraining, or a share of it."""
        passes = next(
            line["node_passes"]
            for line in self.lines
            if line["kind"] == "pretraining" and line["arm"] == "supervised-barlow"
        )
        nodes = float(self.data.main.graph.n_atoms.float().mean()) * n
        schedule = SCHEDULES[n]
        return replace(schedule, epochs=schedule.epochs + round(share * passes / nodes))

    # ------------------------------------------------------------------ the queue
    def large_jobs(self):
        """Yield only what the comparison at 20,000 rows needs."""
        yield from self._first_jobs(MAIN_ENCODERS)
        for seed in range(LARGE_SEEDS):
            yield from self._large_jobs(["scratch", *MAIN_ENCODERS], seed)

    def _first_jobs(self, encoders):
        for name, changes in encoders.items():
            yield f"pretrain {name}", lambda a=name, c=changes: self.encoder(a, c)
        for seed in PILOT_SEEDS:
            for target in ("formation energy", "band gap"):
                yield (
                    f"pilot {target} {seed}",
                    lambda t=target, s=seed: self.pilot(t, s, PILOT_PAIRS, PILOT_RATES),
                )
                yield (
                    f"pilot more {target} {seed}",
                    lambda t=target, s=seed: self.pilot(t, s, PILOT_MORE),
                )

    def jobs(self):
        """Yield (name, job), the most important first."""
        yield from self._first_jobs({**MAIN_ENCODERS, **CONTROL_ENCODERS})
        main = ["scratch", *MAIN_ENCODERS]
        for seed in range(5):
            for n in (500, 2_000):
                yield from self._main_jobs([*main, *CONTROL_ENCODERS], n, seed)
        for seed in range(5):
            yield from self._equal_jobs(seed)
        for seed in range(5, 10):
            for n in (500, 2_000):
                yield from self._main_jobs(main, n, seed)
        yield from self._slab_jobs([*main, *CONTROL_ENCODERS])
        yield from self._large_jobs(main, 0)
        for name, changes in ABLATIONS.items():
            yield (
                f"pretrain ablation {name}",
                lambda a=f"ablation {name}", c=changes: self.encoder(a, c, is_ablation=True),
            )
        arms = ["scratch", *(f"ablation {name}" for name in ABLATIONS)]
        for seed in range(5):
            for target in ("formation energy", "band gap"):
                yield (
                    f"ablation {target} {seed}",
                    lambda s=seed, t=target: [
                        {**line, "kind": "ablation"}
                        for line in self.tune(self.replicas(arms, [t]), 500, s, SCHEDULES[500])
                    ],
                )
        for seed in range(1, LARGE_SEEDS):
            yield from self._large_jobs(main, seed)

    def _large_jobs(self, arms, seed):
        for target in LARGE_TARGET:
            yield (
                f"tune {target} 20000 {seed}",
                lambda t=target: self.tune(
                    self.replicas(arms, [t]), 20_000, seed, SCHEDULES[20_000]
                ),
            )

    def _main_jobs(self, arms, n, seed):
        for target in TARGETS:
            yield (
                f"tune {target} {n} {seed}",
                lambda t=target: self.tune(self.replicas(arms, [t]), n, seed, SCHEDULES[n]),
            )

    def _equal_jobs(self, seed):
        def job(targets):
            replicas = [(EQUAL, *rest) for _, *rest in self.replicas(["scratch"], targets)]
            return self.tune(replicas, 500, seed, self.equal_schedule(500, 1.0 / N_SETTINGS))

        for targets in (list(MAIN), list(MODULUS)):
            yield f"equal compute {targets[0]} {seed}", lambda t=targets: job(t)

    def _slab_jobs(self, arms):
        for fold, test in enumerate(self.data.folds):
            is_train = torch.ones(len(self.data.slabs.graph), dtype=torch.bool)
            is_train[test] = False
            rows = torch.nonzero(is_train).flatten()
            yield (
                f"tune slabs fold {fold}",
                lambda r=rows, t=test, s=fold: self.tune(
                    self.replicas(arms, list(SLABS)), len(r), s, SLAB_SCHEDULE, rows=r, test=t
                ),
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("work/spmat"))
    parser.add_argument("--only-large", action="store_true", help="Only the 20,000 rows.")
    parser.add_argument("--jobs", action="store_true", help="List the jobs and stop.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    data = Data(options.data, options.out)
    print(data.counts, flush=True)
    study = Study(data, options.out)
    jobs = study.large_jobs() if options.only_large else study.jobs()
    if options.jobs:
        for name, _ in jobs:
            print("done" if name in study.done else "    ", name)
        return
    worst = spmat_stack.check(data.main.graph.select(range(64)))
    assert worst < 1e-4, f"the stack differs from single networks by {worst:g}"
    setting = {"kind": "setting", "counts": data.counts, "torch": torch.__version__}
    study.run("setting", lambda: [setting])
    for name, job in jobs:
        study.run(name, job)


if __name__ == "__main__":
    main()
