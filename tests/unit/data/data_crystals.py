"""Small crystals for the tests of this folder."""

import torch
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch

POOL = (1, 3, 6, 8, 11, 12, 17, 22)


def rocksalt(a: float = 4.2) -> tuple[list, list, list]:
    half = a / 2
    lattice = [[0, half, half], [half, 0, half], [half, half, 0]]
    return lattice, [[0, 0, 0], [0.5, 0.5, 0.5]], [12, 8]


def many(n: int, seed: int = 0) -> CrystalBatch:
    """Return crystals of 1 to 8 atoms with few elements, so that formulas repeat."""
    rng = torch.Generator().manual_seed(seed)
    lattices, coords, numbers = [], [], []
    for _ in range(n):
        size = int(torch.randint(1, 9, (), generator=rng))
        lattices.append((torch.eye(3) * (4 + 3 * torch.rand(3, generator=rng))).tolist())
        # On a grid, so that no two atoms overlap.
        spots = torch.randperm(27, generator=rng)[:size]
        grid = torch.stack([spots // 9, spots // 3 % 3, spots % 3], dim=1) / 3.0
        coords.append((grid + 0.02 * torch.rand(size, 3, generator=rng)).tolist())
        picks = torch.randint(0, len(POOL), (size,), generator=rng).clamp(max=3)
        numbers.append([POOL[i] for i in picks.tolist()])
    return CrystalBatch.from_lists(
        lattices,
        coords,
        numbers,
        ids=[f"x-{i}" for i in range(n)],
        properties={"band_gap_ev": torch.rand(n, generator=rng).tolist()},
    )


def batches(min_size: int = 6, max_size: int = 60) -> st.SearchStrategy[CrystalBatch]:
    return st.builds(many, st.integers(min_size, max_size), st.integers(0, 10_000))
