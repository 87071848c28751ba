"""Speed of graphs, training steps, the fit loop and ``matmill predict``.

Usage: python benchmarks/predictor_speed.py [--out FILE.json] [--n-cifs 1000]

Times are CPU seconds of this process (one thread), so that a busy machine does not spoil them;
``predict`` on CIFs also gives the wall time of the whole command.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from matmill.crystals.files import write
from matmill.graphs.graph import build
from matmill.predict.cgcnn import Cgcnn
from matmill.predict.task import GraphBatches, PropertyTask
from matmill.training.fit import FitSettings, fit
from matmill.training.precision import bf16_speedup
from train_predictors import ROOT, load_table


def cpu_seconds(action, repeats=5):
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        action()
        best = min(best, time.process_time() - start)
    return best


def training_steps(batches, precision):
    task = PropertyTask(Cgcnn(5), batches.shares, torch.ones(5))
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    some = list(batches.epoch(0, torch.Generator().manual_seed(0)))[:20]
    rng = torch.Generator()

    def run():
        for batch in some:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = task.loss(batch, rng)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    seconds = cpu_seconds(run, 3)
    n_crystals = sum(len(batch.graph) for batch in some)
    n_atoms = sum(len(batch.graph.atomic_numbers) for batch in some)
    return {"crystals_per_second": n_crystals / seconds, "atoms_per_second": n_atoms / seconds}


class _Slow(torch.nn.Module):
    """A step of about 50 ms: square matrices, many parameters as in a real network."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(8)])

    def loss(self, batch, rng):  # noqa: ARG002
        return {"loss": self.layers(batch).square().mean()}


class _Batches:
    def epoch(self, number, rng):  # noqa: ARG002
        for _ in range(50):
            yield torch.randn(256, 512, generator=rng)


def fit_overhead(n_steps=100):
    """CPU seconds of n steps in a bare loop (AdamW, clipping, average) and in `fit`."""

    def bare():
        task = _Slow()
        average = {name: p.detach().clone() for name, p in task.named_parameters()}
        optimizer = torch.optim.AdamW(task.parameters(), fused=True)
        rng = torch.Generator().manual_seed(0)
        for _ in range(n_steps):
            loss = task.loss(torch.randn(256, 512, generator=rng), rng)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            current = [p.detach() for p in task.parameters()]
            torch._foreach_lerp_(list(average.values()), current, 0.001)

    def ours(steps):
        with tempfile.TemporaryDirectory() as folder:
            settings = FitSettings(max_steps=steps, precision="fp32", accelerator="cpu")
            fit(_Slow(), _Batches(), settings=settings, folder=Path(folder), seed=0)

    ours(1)  # Lightning's import
    bare_seconds = cpu_seconds(bare, 3)
    start_up = cpu_seconds(lambda: ours(1), 3)
    ours_seconds = cpu_seconds(lambda: ours(n_steps + 1), 3) - start_up
    return {
        "bare_ms_per_step": 1e3 * bare_seconds / n_steps,
        "fit_ms_per_step": 1e3 * ours_seconds / n_steps,
        "overhead_share": ours_seconds / bare_seconds - 1.0,
        "start_and_end_seconds": start_up,
    }


def command_on_cifs(table, n):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(table.crystals.select(torch.arange(n)), f"{folder}/cifs/")
        command = [sys.executable, "-m", "matmill.cli.main", "predict", str(folder / "cifs")]
        command += ["--out", str(folder / "table.csv"), "--quiet"]
        before, start = os.times(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        used = after.children_user + after.children_system
        return {
            "n_cifs": n,
            "wall_seconds": time.perf_counter() - start,
            "cpu_seconds": used - before.children_user - before.children_system,
            "load_average": os.getloadavg()[0],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--n-cifs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    table = load_table(args.data)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    table = table.select(order[: max(2000, args.n_cifs)])
    crystals = table.crystals.select(torch.arange(1000))
    graph = build(table.crystals)
    batches = GraphBatches(graph, torch.randn(len(table), 5), n_crystals=64)
    result = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "bf16_speedup_of_products": bf16_speedup(),
        "mean_atoms": float(crystals.n_atoms.double().mean()),
        "graph_ms_per_crystal": cpu_seconds(lambda: build(crystals), 3),
        "training": {p: training_steps(batches, p) for p in ("fp32", "bf16")},
        "fit_loop": fit_overhead(),
        "predict_command": command_on_cifs(table, args.n_cifs),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
