"""Seconds per structure and final energies: batched relaxation against CHGNet's own optimizer.

    OMP_NUM_THREADS=1 python benchmarks/relax.py [-n 20]

The same perturbed MP-20 crystals (0.1 Å, 3 % strain), the same fmax and step limit, one thread
each, in one run. Needs the given crystals (MATMILL_DATA).
"""

import argparse
import contextlib
import io
import json
import sys
import time
import warnings

import numpy as np
import torch

from hull_common import DATA, read_structures
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_atoms
from matmill.verify.potentials import load_chgnet
from matmill.verify.relax import RelaxSettings, relax


def chosen(n: int, max_atoms: int, step: float, strain: float) -> CrystalBatch:
    """Return n random MP-20 validation-size crystals, perturbed."""
    rng = torch.Generator().manual_seed(0)
    whole = read_structures(DATA / "mp_20.parquet")
    small = torch.nonzero(whole.n_atoms <= max_atoms).flatten()
    batch = whole.select(small[torch.randperm(len(small), generator=rng)[:n]])
    noise = torch.randn(batch.frac_coords.shape, generator=rng, dtype=torch.float64) * step
    bend = torch.randn(n, 3, 3, generator=rng, dtype=torch.float64) * strain
    lattice = batch.lattice @ (torch.eye(3, dtype=torch.float64) + 0.5 * (bend + bend.mT))
    inverse = torch.linalg.inv(lattice)[batch.crystal_index]
    frac = batch.frac_coords + torch.einsum("ai,aij->aj", noise, inverse)
    return CrystalBatch(
        lattice=lattice,
        frac_coords=frac - frac.floor(),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
        ids=batch.ids,
    )


def by_package(batch: CrystalBatch, fmax: float, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return total energies and steps of CHGNet's StructOptimizer (ASE's FIRE)."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from chgnet.model import CHGNet, StructOptimizer

        optimizer = StructOptimizer(model=CHGNet.load(use_device="cpu", verbose=False))
        energies, steps = [], []
        for i in range(len(batch)):
            run = optimizer.relax(to_atoms(batch, i), fmax=fmax, steps=max_steps, verbose=False)
            energies.append(float(run["trajectory"].energies[-1]))
            steps.append(len(run["trajectory"].energies) - 1)
    return np.array(energies), np.array(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20)
    parser.add_argument("--max-atoms", type=int, default=20)
    parser.add_argument("--fmax", type=float, default=0.1)
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--strain", type=float, default=0.03)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch = chosen(arguments.n, arguments.max_atoms, arguments.step, arguments.strain)
    potential = load_chgnet()
    settings = RelaxSettings(fmax=arguments.fmax, max_steps=500)
    potential.compute(batch.select([0]))  # loading is not relaxing
    wall, cpu = time.perf_counter(), time.process_time()
    mine = relax(batch, potential, settings)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    wall_2, cpu_2 = time.perf_counter(), time.process_time()
    energies, steps = by_package(batch, arguments.fmax, 500)
    wall_2, cpu_2 = time.perf_counter() - wall_2, time.process_time() - cpu_2
    difference = (mine.energy_ev.numpy() - energies) / batch.n_atoms.numpy()
    report = {
        "crystals": len(batch),
        "mean_atoms": float(batch.n_atoms.double().mean()),
        "matmill": {
            "wall_s_each": wall / len(batch),
            "cpu_s_each": cpu / len(batch),
            "steps": float(mine.steps.double().mean()),
            "converged": int(mine.converged.sum()),
        },
        "chgnet_ase": {
            "wall_s_each": wall_2 / len(batch),
            "cpu_s_each": cpu_2 / len(batch),
            "steps": float(steps.mean()),
        },
        "ratio_wall": wall_2 / wall,
        "ratio_cpu": cpu_2 / cpu,
        "energy_difference_mev_per_atom": {
            "median_abs": float(np.median(np.abs(difference)) * 1000),
            "max_above": float(difference.max() * 1000),
            "max_below": float(-difference.min() * 1000),
            "within_2": int((np.abs(difference) < 2e-3).sum()),
        },
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
