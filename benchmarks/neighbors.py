"""Neighbour lists: ours beside vesin, pymatgen, matscipy and a batched torch form, in one run.

Run: OMP_NUM_THREADS=1 python benchmarks/neighbors.py [TABLE.parquet]

Every method gives source, target, image, distance and vector of all edges up to 8 Å, for real
crystals of four sizes. Printed are CPU milliseconds per crystal, best of three, each method's edge
count per crystal (they must agree), and our speed as a multiple of each peer's.
"""

import argparse
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch

from matmill.crystals.convert import to_atoms
from matmill.crystals.files import read
from matmill.crystals.neighbors import nearest, within

SIZES = ((1, 4), (10, 12), (28, 32), (60, 64))
CUTOFF = 8.0
DATA = Path(os.environ.get("MATMILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def ours(batch):
    return len(within(batch, CUTOFF))


def n_edges(parts):
    """Join the arrays of all crystals, as `within` does, and count the edges."""
    joined = [np.concatenate(x) for x in zip(*parts, strict=True)]
    return len(joined[0])


def vesin(batch):
    from vesin import NeighborList

    search = NeighborList(cutoff=CUTOFF, full_list=True, n_threads=1)
    cart, lattice = batch.cart_coords.numpy(), batch.lattice.numpy()
    parts = []
    for i in range(len(batch)):
        points = cart[batch.atoms_of(i)]
        parts.append(
            search.compute(points=points, box=lattice[i], periodic=True, quantities="ijSdD")
        )
    return n_edges(parts)


def pymatgen(batch):
    from pymatgen.optimization.neighbors import find_points_in_spheres

    cart, lattice = batch.cart_coords.numpy(), batch.lattice.numpy()
    parts, pbc = [], np.ones(3, dtype=np.int64)
    for i in range(len(batch)):
        points = cart[batch.atoms_of(i)]
        source, target, image, distance = find_points_in_spheres(
            points, points, r=CUTOFF, pbc=pbc, lattice=lattice[i], tol=1e-8
        )
        vector = points[target] - points[source] + image @ lattice[i]
        kept = distance > 1e-8
        parts.append([x[kept] for x in (source, target, image, distance, vector)])
    return n_edges(parts)


def matscipy(batch):
    from matscipy.neighbours import neighbour_list

    parts = [neighbour_list("ijSdD", to_atoms(batch, i), CUTOFF) for i in range(len(batch))]
    return n_edges(parts)


def torch_images(batch):
    """All pairs times all images that can matter, one crystal after another, in torch."""
    total = 0
    for i in range(len(batch)):
        lattice, frac = batch.lattice[i], batch.frac_coords[batch.atoms_of(i)]
        spacing = 1 / torch.linalg.inv(lattice).norm(dim=0)
        reach = (torch.floor(CUTOFF / spacing) + 1).long().tolist()
        images = torch.tensor(list(itertools.product(*(range(-n, n + 1) for n in reach))))
        steps = (frac[None, :] - frac[:, None])[:, :, None] + images
        distance = (steps @ lattice).norm(dim=-1)
        total += int(((distance <= CUTOFF) & (distance > 1e-8)).sum())
    return total


def pymatgen_objects(batch):
    """What CGCNN's data loader calls."""
    from matmill.crystals.convert import to_structure

    some = min(len(batch), 10)
    structures = [to_structure(batch, i) for i in range(some)]
    return sum(len(near) for s in structures for near in s.get_all_neighbors(CUTOFF)) / some


def cpu_ms(method, batch, repeats=3):
    """Return CPU milliseconds per call, best of the repeats, and the answer."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        answer = method(batch)
        best = min(best, time.process_time() - start)
    return 1000 * best, answer


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", default=DATA / "mp_union.parquet")
    parser.add_argument("-n", type=int, default=100, help="crystals of each size")
    arguments = parser.parse_args()
    crystals = read(arguments.table).crystals
    print(f"{'atoms':>8} {'method':>18} {'ms':>8} {'edges':>8} {'ours is':>9}")
    for low, high in SIZES:
        fitting = (crystals.n_atoms >= low) & (crystals.n_atoms <= high)
        batch = crystals.select(torch.nonzero(fitting).flatten()[: arguments.n])
        reference, edges = cpu_ms(ours, batch)
        row(low, high, "ours", reference / len(batch), edges / len(batch), 1.0)
        for method in (vesin, pymatgen, matscipy, torch_images):
            spent, edges = cpu_ms(method, batch)
            name = method.__name__
            row(low, high, name, spent / len(batch), edges / len(batch), spent / reference)
        spent, edges = cpu_ms(pymatgen_objects, batch, repeats=2)
        each = spent / min(len(batch), 10)
        row(low, high, "pymatgen_objects", each, edges, each * len(batch) / reference)
        spent, found = cpu_ms(lambda b: len(nearest(b, 12, cutoff=CUTOFF)), batch)
        row(low, high, "ours, 12 nearest", spent / len(batch), found / len(batch), None)


def row(low, high, name, ms, edges, ratio):
    shown = f"{ratio:8.1f}x" if ratio is not None else ""
    print(f"{low:>4}-{high:<3} {name:>18} {ms:8.3f} {edges:8.1f} {shown}")


if __name__ == "__main__":
    main()
