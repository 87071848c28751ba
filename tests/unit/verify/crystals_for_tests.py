"""Crystals that several tests of this folder use: prototypes from cell facts, and given ones."""

import os
from pathlib import Path

import numpy as np
import torch

from matmill.crystals.batch import CrystalBatch

DATA = Path(os.environ.get("MATMILL_DATA", Path(__file__).parents[4] / "shared" / "data"))
MP_20 = DATA / "mp_20.parquet"

FCC = [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]


def _cube(a: float) -> list[list[float]]:
    return [[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]]


def _hexagon(a: float, c: float) -> list[list[float]]:
    return [[a, 0.0, 0.0], [-a / 2, a * 3**0.5 / 2, 0.0], [0.0, 0.0, c]]


def prototypes() -> CrystalBatch:
    """Return nine prototypes from cell facts, from NaCl to primitive Si."""
    shifted = [(x + 0.5, y, z) for x, y, z in FCC]
    diamond = FCC + [(x + 0.25, y + 0.25, z + 0.25) for x, y, z in FCC]
    u = 0.305
    rutile = [
        (0, 0, 0),
        (0.5, 0.5, 0.5),
        (u, u, 0),
        (-u, -u, 0),
        (0.5 + u, 0.5 - u, 0.5),
        (0.5 - u, 0.5 + u, 0.5),
    ]
    wurtzite = [
        (1 / 3, 2 / 3, 0),
        (2 / 3, 1 / 3, 0.5),
        (1 / 3, 2 / 3, 0.382),
        (2 / 3, 1 / 3, 0.882),
    ]
    cells = [
        (_cube(5.64), FCC + shifted, [11] * 4 + [17] * 4),
        (_cube(4.12), [(0, 0, 0), (0.5, 0.5, 0.5)], [55, 17]),
        (_cube(3.57), diamond, [6] * 8),
        (_cube(3.61), FCC, [29] * 4),
        (_cube(3.165), [(0, 0, 0), (0.5, 0.5, 0.5)], [74] * 2),
        (_hexagon(3.25, 5.2), wurtzite, [30, 30, 8, 8]),
        ([[4.594, 0, 0], [0, 4.594, 0], [0, 0, 2.959]], rutile, [22, 22, 8, 8, 8, 8]),
        (
            _cube(3.905),
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
            [38, 22, 8, 8, 8],
        ),
        (
            [[0, 2.715, 2.715], [2.715, 0, 2.715], [2.715, 2.715, 0]],
            [(0, 0, 0), (0.25, 0.25, 0.25)],
            [14, 14],
        ),
    ]
    lattices, coords, numbers = zip(*cells, strict=True)
    ids = ("NaCl", "CsCl", "diamond", "Cu", "W", "ZnO", "TiO2", "SrTiO3", "Si")
    return CrystalBatch.from_lists(lattices, coords, numbers, ids=ids)


def perturbed(
    batch: CrystalBatch, *, step: float, strain: float, rng: torch.Generator
) -> CrystalBatch:
    """Return the crystals with random displacements (Å, standard deviation) and random strain."""
    shape = batch.frac_coords.shape
    noise = torch.randn(shape, generator=rng, dtype=torch.float64) * step
    bend = torch.randn(len(batch), 3, 3, generator=rng, dtype=torch.float64) * strain
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


def given_crystals(n: int, seed: int) -> CrystalBatch:
    """Return a random choice of MP-20 crystals."""
    import pyarrow.parquet as pq

    columns = ["material_id", "atomic_numbers", "frac_coords", "lattice"]
    table = pq.read_table(MP_20, columns=columns)
    rows = np.random.default_rng(seed).choice(table.num_rows, size=n, replace=False)
    rows = table.take(np.sort(rows)).to_pylist()
    return CrystalBatch.from_lists(
        [np.reshape(row["lattice"], (3, 3)) for row in rows],
        [np.reshape(row["frac_coords"], (-1, 3)) for row in rows],
        [row["atomic_numbers"] for row in rows],
        ids=[row["material_id"] for row in rows],
    )
