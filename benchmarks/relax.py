"""Relaxation of generated crystals: ours against ASE and CHGNet one by one, in one run.

    python benchmarks/relax.py --folder runs/relax [-n 200] [--only speed|same|memory]

Crystals of the shipped generator, half with soft and half with hard symmetry, drawn beforehand:
here, or by ``matmill generate -n 200 --symmetry soft --seed 0 --out soft.extxyz``, the same with
hard, and ``--crystals soft.extxyz hard.extxyz``.

Both sides have two cores: ours two processes of one thread, the peer (CHGNet's own StructOptimizer:
FIRE and the Frechet cell filter) two threads. They take turns, chunk by chunk, each first in every
second chunk, so that whatever else the machine does hits both alike; processor seconds are counted
too, and are what to trust on a busy machine (with ``--peer-threads 1``: two threads that wait for
each other burn processor time). What is done is kept in the folder: the same command continues.

``same`` relaxes small crystals to tight forces by both and compares energies where both end in the
same minimum; ``memory`` measures the peak of a process that relaxes more and more crystals.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from generator_common import sampled
from matmill.campaign.workers import LocalWorkers
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import to_atoms
from matmill.crystals.files import read
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.verify.metrics import relaxation_rmsd
from matmill.verify.potentials import load_chgnet
from matmill.verify.relax import Relaxed, RelaxSettings, relax
from matmill.verify.relax_workers import RelaxTask, relax_in_workers

N_WORKERS = 2
SAME_MEV = 1.0


def generated(n: int, folder: Path, files: Sequence[Path] = (), seed: int = 0) -> CrystalBatch:
    """Return n crystals of the shipped generator, soft and hard symmetry in turn."""
    halves = [read([file]).crystals for file in files] or sampled_halves(n, folder, seed)
    half = min(len(part) for part in halves)
    # By turns, and no longer in order of size: every chunk is like every other.
    order = torch.randperm(half, generator=torch.Generator().manual_seed(seed))
    both = concatenate([part.select(order) for part in halves]).to(dtype=torch.float64)
    return both.select(torch.arange(2 * half).reshape(2, half).T.flatten()[:n])


def sampled_halves(n: int, folder: Path, seed: int) -> list[CrystalBatch]:
    """Return crystals with soft and with hard symmetry; kept in the folder."""
    generator = load_generator("flow")
    return [
        sampled(
            generator,
            lambda _, m, symmetry=symmetry: GenerationRequest(n=m, symmetry=symmetry),
            (n + 1) // 2,
            folder,
            symmetry,
            seed=seed,
        )
        for symmetry in ("soft", "hard")
    ]


class Peer:
    """CHGNet's own optimizer, one crystal after another."""

    def __init__(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            from chgnet.model import CHGNet, StructOptimizer

            self.optimizer = StructOptimizer(model=CHGNet.load(use_device="cpu", verbose=False))

    def relax(self, batch: CrystalBatch, fmax: float, max_steps: int) -> dict[str, list]:
        """Return energies (eV), steps, largest forces (atoms, cell) and final crystals."""
        found = {"energy": [], "steps": [], "force": [], "cells": [], "frac": []}
        for i in range(len(batch)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    run = self.optimizer.relax(
                        to_atoms(batch, i), fmax=fmax, steps=max_steps, verbose=False
                    )
                except Exception as error:  # an exploded crystal: CHGNet raises
                    print(f"the peer lost crystal {i}: {error}", flush=True)
                    found["energy"].append(float("nan"))
                    found["steps"].append(0)
                    found["force"].append(float("nan"))
                    found["cells"].append(batch.lattice[i].tolist())
                    found["frac"].append(batch.frac_coords[batch.atoms_of(i)].tolist())
                    continue
            path, last = run["trajectory"], run["final_structure"]
            virial = path.stresses[-1] * last.volume / len(last)
            voigt = np.array([virial[[0, 5, 4]], virial[[5, 1, 3]], virial[[4, 3, 2]]])
            on_atoms = np.linalg.norm(path.forces[-1], axis=1).max()
            found["energy"].append(float(path.energies[-1]))
            found["steps"].append(len(path.energies) - 1)
            found["force"].append(float(max(on_atoms, np.linalg.norm(voigt, axis=1).max())))
            found["cells"].append(last.lattice.matrix.tolist())
            found["frac"].append(last.frac_coords.tolist())
        return found


def speed(arguments: argparse.Namespace, batch: CrystalBatch) -> dict:
    """Time both sides, chunk by chunk."""
    settings = RelaxSettings(fmax=arguments.fmax, max_steps=arguments.max_steps)
    file = arguments.folder / "speed.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    chunks = list(batch_chunks(batch, arguments.chunk))
    if len(done) < len(chunks):
        peer = Peer(n_threads=arguments.peer_threads)
        peer.relax(batch.select([0]), fmax=100.0, max_steps=0)  # loading is not relaxing
        workers = LocalWorkers(N_WORKERS, timeout_s=86_400.0)
        warm = batch.select(torch.arange(4))
        ours = partial(
            relax_in_workers,
            make_potential=load_chgnet,
            settings=settings,
            workers=workers,
            n_workers=N_WORKERS,
        )
        workers.prepare(RelaxTask(load_chgnet, settings))
        ours(warm)
        with file.open("a") as out:
            for k in range(len(done), len(chunks)):
                row: dict = {"chunk": k, "n_atoms": chunks[k].n_atoms.tolist()}
                for side in ("ours", "peer") if k % 2 == 0 else ("peer", "ours"):
                    begin, cpu = time.perf_counter(), cpu_seconds()
                    if side == "ours":
                        result: Relaxed = ours(chunks[k])
                        row["ours"] = {
                            "energy": result.energy_ev.tolist(),
                            "steps": result.steps.tolist(),
                            "force": result.max_force.tolist(),
                            "converged": result.converged.tolist(),
                            "status": [None if s is None else s.value for s in result.status],
                        }
                    else:
                        row["peer"] = peer.relax(chunks[k], arguments.fmax, arguments.max_steps)
                        del row["peer"]["cells"], row["peer"]["frac"]
                    row[side]["wall_s"] = time.perf_counter() - begin
                    row[side]["cpu_s"] = cpu_seconds() - cpu
                out.write(json.dumps(row) + "\n")
                out.flush()
                done.append(row)
                ratios = [row["peer"][key] / row["ours"][key] for key in ("wall_s", "cpu_s")]
                print("chunk {}: wall {:.1f}, cpu {:.1f}".format(k, *ratios), flush=True)
        workers.close()
    return summary(done, arguments.fmax)


def summary(rows: list[dict], fmax: float) -> dict:
    """Return the ratio of wall times and the comparison of energies over all chunks."""
    n_atoms = np.concatenate([row["n_atoms"] for row in rows])

    def all_of(side: str, key: str) -> np.ndarray:
        return np.array([value for row in rows for value in row[side][key]])

    difference = 1000 * (all_of("ours", "energy") - all_of("peer", "energy")) / n_atoms
    converged = all_of("ours", "converged"), all_of("peer", "force") < fmax
    both = converged[0] & converged[1]
    wall = {side: [row[side]["wall_s"] for row in rows] for side in ("ours", "peer")}
    cpu = {side: sum(row[side]["cpu_s"] for row in rows) for side in ("ours", "peer")}
    ratios = np.array(wall["peer"]) / np.array(wall["ours"])
    fates = [s for row in rows for s in row["ours"]["status"] if s]
    return {
        "crystals": len(n_atoms),
        "mean_atoms": float(n_atoms.mean()),
        "wall_s": {side: sum(values) for side, values in wall.items()},
        "cpu_s": cpu,
        "ratio_cpu": cpu["peer"] / cpu["ours"],
        "ratio_wall": sum(wall["peer"]) / sum(wall["ours"]),
        "ratio_by_chunk": {
            "lowest": float(ratios.min()),
            "median": float(np.median(ratios)),
            "highest": float(ratios.max()),
        },
        "mean_steps": {side: float(all_of(side, "steps").mean()) for side in ("ours", "peer")},
        "converged": {"ours": int(converged[0].sum()), "peer": int(converged[1].sum())},
        "ours_not_converged": {fate: fates.count(fate) for fate in sorted(set(fates))},
        "energies_of_both_converged": {
            "crystals": int(both.sum()),
            "ours_equal_within_1_mev": int((np.abs(difference[both]) <= SAME_MEV).sum()),
            "ours_lower": int((difference[both] < -SAME_MEV).sum()),
            "ours_higher": int((difference[both] > SAME_MEV).sum()),
            "median_difference_mev_per_atom": float(np.median(difference[both])),
            "mean_difference_mev_per_atom": float(difference[both].mean()),
            "p05_mev_per_atom": float(np.quantile(difference[both], 0.05)),
            "p95_mev_per_atom": float(np.quantile(difference[both], 0.95)),
        },
    }


def same(arguments: argparse.Namespace, batch: CrystalBatch) -> dict:
    """Compare energies at tight forces where both sides end in the same minimum."""
    small = batch.select(torch.nonzero(batch.n_atoms <= 6).flatten()[: arguments.n_same])
    mine = relax(small, load_chgnet(), RelaxSettings(fmax=0.01, max_steps=500))
    peer = Peer(n_threads=arguments.peer_threads).relax(small, fmax=0.01, max_steps=500)
    theirs = CrystalBatch.from_lists(
        peer["cells"],
        peer["frac"],
        [small.atomic_numbers[small.atoms_of(i)].tolist() for i in range(len(small))],
    )
    apart = relaxation_rmsd(mine.batch, theirs)
    stretch = (theirs.volume.double() / mine.batch.volume).log().abs()
    alike = mine.converged & (torch.tensor(peer["force"]) < 0.011)
    minimum = alike & (apart < 0.05) & (stretch < 0.02)
    difference = 1000 * (mine.energy_ev - torch.tensor(peer["energy"])) / small.n_atoms
    return {
        "crystals": len(small),
        "both_converged": int(alike.sum()),
        "same_minimum": int(minimum.sum()),
        "largest_difference_mev_per_atom": float(difference[minimum].abs().max()),
        "mean_difference_mev_per_atom": float(difference[minimum].mean()),
        "lower_elsewhere": int((difference[alike & ~minimum] < -SAME_MEV).sum()),
        "higher_elsewhere": int((difference[alike & ~minimum] > SAME_MEV).sum()),
        "steps": {
            "ours": float(mine.steps.double().mean()),
            "peer": float(np.mean(peer["steps"])),
        },
    }


def memory(arguments: argparse.Namespace) -> dict:
    """Return the peak of resident memory, MB, by the number of crystals."""
    peaks = {}
    for n in (100, 400, 1600):
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--crystals"]
        command += [str(file) for file in arguments.crystals]
        command += ["-n", str(arguments.n), "--only", "peak", "--copies-to", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[n] = json.loads(done.stdout.splitlines()[-1])["peak_mb"]
    return {"peak_mb": peaks}


def peak(arguments: argparse.Namespace, batch: CrystalBatch) -> dict:
    """Relax so many crystals for a few steps here, and return the peak of this process."""
    torch.set_num_threads(1)
    rows = torch.arange(arguments.copies_to) % len(batch)
    relax(batch.select(rows), load_chgnet(), RelaxSettings(max_steps=1))
    # Not ru_maxrss: a process inherits that of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"peak_mb": int(peak_kb) / 1000}


def cpu_seconds() -> float:
    """Return the processor seconds of this process and of its workers, so far."""
    tick = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / tick
    return total


def batch_chunks(batch: CrystalBatch, size: int) -> list[CrystalBatch]:
    return [
        batch.select(torch.arange(start, min(start + size, len(batch))))
        for start in range(0, len(batch), size)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("runs/relax"))
    parser.add_argument("--crystals", type=Path, nargs="*", default=[])
    parser.add_argument("--fmax", type=float, default=0.1)
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--peer-threads", type=int, default=2)
    parser.add_argument("--n-same", type=int, default=20)
    parser.add_argument("--copies-to", type=int, default=100)
    parser.add_argument("--only", choices=("speed", "same", "memory", "peak"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    batch = generated(arguments.n, arguments.folder, arguments.crystals)
    report = {}
    if arguments.only in (None, "speed"):
        report["speed"] = speed(arguments, batch)
    if arguments.only in (None, "same"):
        report["same"] = same(arguments, batch)
    if arguments.only in (None, "memory"):
        report["memory"] = memory(arguments)
    if arguments.only == "peak":
        report = peak(arguments, batch)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
