"""Where the time of the flow goes: training and sampling steps, operation by operation.

    python benchmarks/generator_profile.py --size S --n-atoms 4 10 20 --out work/profile.json

Every operation of a step is timed in processor time of one thread, over several repeats of the
same step, and the fastest of each counts: the sum is what a step costs on a quiet machine, also
where the present one is not quiet. Whole steps are timed as well. Rates are given beside the
peak of bfloat16 products measured in the same run, since machines differ by more than programs.

The prototype of the design reached 743 training crystals and 22.1 sampled crystals (100 Euler
steps) of 10 atoms a second on one thread of another processor, whose bfloat16 products were
faster (1365 GFLOP/s on one core, 2048^3).
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from matmill.generate.conditions import SCALARS, ConditionEncoder, Conditions, ScalarSchema
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.process import add_noise, losses
from matmill.generate.state import DenseCrystals, LatticeScale

N_STEPS = 100
TOKENS = {"train": 1660, "sample": 1500}
PROTOTYPE = {"train": 743.0, "sample": 22.1}  # crystals of 10 atoms a second, one thread
KINDS = {
    "matrix products": ("mm", "addmm", "addmm_", "linear"),
    "small products": ("bmm", "baddbmm", "baddbmm_"),
    "casts and copies": ("_to_copy", "copy_", "clone", "cat", "stack", "constant_pad_nd"),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "silu": ("silu", "silu_backward"),
    "sums": ("sum", "mean", "amin", "amax"),
    "optimiser": ("_fused_adamw_", "_foreach_norm", "linalg_vector_norm", "_foreach_mul_"),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


class Stopwatch(TorchDispatchMode):
    """Times each operation of a step; a later run of the same step can only lower its times."""

    def __init__(self):
        super().__init__()
        self.fastest, self.flops = {}, {}
        self.position = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        began = time.thread_time_ns()
        result = func(*args, **(kwargs or {}))
        took = time.thread_time_ns() - began
        key = (self.position, func.overloadpacket.__name__)
        self.fastest[key] = min(took, self.fastest.get(key, took))
        self.flops[key] = flops_of(func.overloadpacket.__name__, args)
        self.position += 1
        return result

    def kinds(self):
        """Return seconds by kind of operation."""
        seconds = defaultdict(float)
        for (_, name), took in self.fastest.items():
            seconds[KIND_OF.get(name, "elementwise and the rest")] += took / 1e9
        return dict(seconds)

    def operations(self):
        """Return seconds and number of calls by operation."""
        table = defaultdict(lambda: [0.0, 0])
        for (_, name), took in self.fastest.items():
            table[name][0] += took / 1e9
            table[name][1] += 1
        return {name: tuple(row) for name, row in table.items()}


def flops_of(name, args):
    """Return the floating-point operations of a matrix product, 0 for anything else."""
    matrices = [a for a in args if isinstance(a, torch.Tensor)]
    if name in ("mm", "bmm"):
        left, right = matrices[:2]
    elif name in ("addmm", "addmm_", "baddbmm", "baddbmm_"):
        left, right = matrices[1:3]
    else:
        return 0
    return 2 * left.numel() * right.shape[-1]


def peak(dtype, size=512, rounds=40):
    """Return the floating-point operations a second of one square product."""
    a = torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        a @ a
        best = min(best, time.thread_time() - began)
    return 2 * size**3 / best


def random_batch(n, b, seed=0):
    """Return crystals and conditions of the right shape; speed does not depend on the values."""
    rng = torch.Generator().manual_seed(seed)
    crystals = DenseCrystals(
        z=torch.randint(1, 90, (b, n), generator=rng),
        f=torch.rand(b, n, 3, generator=rng),
        y=torch.randn(b, 6, generator=rng),
    )
    none = Conditions.none(b)
    scalars = 0.1 + torch.rand(b, len(SCALARS), generator=rng)
    groups = torch.randint(1, 231, (b,), generator=rng)
    return crystals, replace(none, scalars=scalars, space_group=groups)


def new_denoiser(size):
    """Return an untrained network."""
    plain = ScalarSchema(mean=0.0, std=1.0, low=0.0, high=1.0, count=1)
    scale = LatticeScale(mean=torch.zeros(6), std=0.2 * torch.ones(6))
    schema = dict.fromkeys(SCALARS, plain)
    return Denoiser(SIZES[size], scale, ConditionEncoder(SIZES[size].width, schema))


def training_step(denoiser, n, b, precision):
    """Return a function that does one step: forward, backward, clipping, optimiser."""
    crystals, conditions = random_batch(n, b)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-6, fused=True)

    def step():
        state, targets = add_noise(crystals, torch.Generator().manual_seed(1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = losses(denoiser(state, conditions), targets, state)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def sampling_step(denoiser, n, b, precision):
    """Return a function that evaluates the velocities of one Euler step."""
    crystals, conditions = random_batch(n, b)
    state, _ = add_noise(crystals, torch.Generator().manual_seed(1))

    @torch.no_grad()
    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            denoiser(state, conditions)

    return step


def measure(step, repeats):
    """Return the fastest whole step in seconds, and the stopwatch with all operations."""
    for _ in range(2):
        step()
    whole = float("inf")
    stopwatch = Stopwatch()
    for _ in range(repeats):
        began = time.thread_time()
        step()
        whole = min(whole, time.thread_time() - began)
        stopwatch.position = 0
        with stopwatch:
            step()
    return whole, stopwatch


def profile(size, n, mode, precision, repeats, peak_rate):
    """Return one row of the table."""
    torch.manual_seed(0)
    denoiser = new_denoiser(size)
    b = max(1, TOKENS[mode] // (n + 1))
    step = (training_step if mode == "train" else sampling_step)(denoiser, n, b, precision)
    whole, stopwatch = measure(step, repeats)
    kinds, flops = stopwatch.kinds(), sum(stopwatch.flops.values())
    quiet = sum(kinds.values())
    per_step = b if mode == "train" else b / N_STEPS
    return {
        "mode": mode,
        "n_atoms": n,
        "batch": b,
        "crystals_per_s": per_step / whole,
        "crystals_per_s_sum_of_fastest_operations": per_step / quiet,
        "seconds_a_step": whole,
        "gflop_a_step": flops / 1e9,
        "share_of_peak": flops / quiet / peak_rate,
        "bound_crystals_per_s": per_step * peak_rate / flops,
        "shares": {kind: s / quiet for kind, s in sorted(kinds.items(), key=lambda kv: -kv[1])},
        "operations": {
            name: {"seconds": s, "calls": k}
            for name, (s, k) in sorted(stopwatch.operations().items(), key=lambda kv: -kv[1][0])
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="S", choices=list(SIZES))
    parser.add_argument("--n-atoms", type=int, nargs="+", default=[4, 10, 20])
    parser.add_argument("--modes", nargs="+", default=["train", "sample"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--operations", action="store_true", help="print single operations")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    peak_rate = peak(dtype)
    print(f"{arguments.precision} products: {peak_rate / 1e9:.0f} GFLOP/s on {arguments.threads}")
    rows = []
    for mode in arguments.modes:
        for n in arguments.n_atoms:
            row = profile(
                arguments.size, n, mode, arguments.precision, arguments.repeats, peak_rate
            )
            rows.append(row)
            shares = ", ".join(
                f"{kind} {100 * share:.0f} %" for kind, share in row["shares"].items()
            )
            print(
                f"{mode} n={n} batch {row['batch']}: {row['crystals_per_s']:.1f} crystals/s "
                f"({row['crystals_per_s_sum_of_fastest_operations']:.1f} by operations), "
                f"{row['gflop_a_step']:.1f} GFLOP a step, {100 * row['share_of_peak']:.0f} % of "
                f"the peak (bound {row['bound_crystals_per_s']:.0f}): {shares}"
            )
            if arguments.operations:
                for name, o in list(row["operations"].items())[:24]:
                    print(f"    {name:32s} {1e3 * o['seconds']:8.2f} ms {o['calls']:5d} calls")
    at_10 = {row["mode"]: row["crystals_per_s"] for row in rows if row["n_atoms"] == 10}
    for mode, rate in at_10.items():
        print(f"{mode}: {rate / PROTOTYPE[mode]:.2f} of the prototype's rate on its own processor")
    if arguments.out:
        report = {
            "size": arguments.size,
            "precision": arguments.precision,
            "threads": arguments.threads,
            "peak_flops": peak_rate,
            "prototype": {"crystals_per_s": PROTOTYPE, "processor": "Xeon with AMX, one thread"},
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
