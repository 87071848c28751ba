"""Hypothesis strategies for crystals, for our own tests and those of plug-in authors."""

import itertools

import numpy as np
import torch
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate

# Two cells each way hold the nearest image for the shears drawn here.
_IMAGES = np.array(list(itertools.product(range(-2, 3), repeat=3)), dtype=float)
_COORDINATE = st.integers(0, 9_999).map(lambda n: n / 10_000)


@st.composite
def lattices(
    draw: st.DrawFn, *, shortest: float = 2.0, longest: float = 9.0, max_shear: float = 0.6
) -> torch.Tensor:
    """Draw row vectors in Å, ``(3, 3)`` float64: any orientation, skewed up to ``max_shear``."""
    lengths = [draw(st.floats(shortest, longest)) for _ in range(3)]
    shears = [draw(st.floats(-max_shear, max_shear)) for _ in range(3)]
    cell = torch.diag(torch.tensor(lengths, dtype=torch.float64))
    cell[1, 0] = shears[0] * lengths[0]
    cell[2, 0] = shears[1] * lengths[0]
    cell[2, 1] = shears[2] * lengths[1]
    return cell @ draw(rotations())


@st.composite
def rotations(draw: st.DrawFn) -> torch.Tensor:
    """Draw a proper rotation matrix, ``(3, 3)`` float64."""
    axis = torch.tensor([draw(st.floats(-1, 1)) for _ in range(3)], dtype=torch.float64)
    axis = (
        axis / axis.norm() if float(axis.norm()) > 0.1 else torch.tensor([0.0, 0.0, 1.0]).double()
    )
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.matrix_exp(draw(st.floats(-3.0, 3.0)) * cross)


@st.composite
def crystals(
    draw: st.DrawFn, *, max_atoms: int = 8, max_number: int = 94, min_distance: float = 0.0
) -> CrystalBatch:
    """Draw a batch of one crystal.

    Args:
        draw: Given by hypothesis.
        max_atoms: Most atoms in the cell.
        max_number: Highest atomic number.
        min_distance: Atoms closer than this, in Å, are left out.
    """
    cell = draw(lattices())
    n = draw(st.integers(1, max_atoms))
    kept: list[list[float]] = []
    for _ in range(n):
        point = [draw(_COORDINATE) for _ in range(3)]
        if min_distance > 0 and kept:
            steps = np.array(kept)[:, None] - np.array(point) + _IMAGES
            if np.linalg.norm(steps @ cell.numpy(), axis=-1).min() < min_distance:
                continue
        kept.append(point)
    numbers = [draw(st.integers(1, max_number)) for _ in kept]
    return CrystalBatch.from_lists([cell.tolist()], [kept], [numbers])


@st.composite
def batches(
    draw: st.DrawFn,
    *,
    max_crystals: int = 4,
    max_atoms: int = 6,
    max_number: int = 94,
    min_distance: float = 0.0,
) -> CrystalBatch:
    """Draw a batch of crystals with ids and one property that is sometimes unknown."""
    kind = crystals(max_atoms=max_atoms, max_number=max_number, min_distance=min_distance)
    several = concatenate(draw(st.lists(kind, min_size=1, max_size=max_crystals)))
    value = st.one_of(st.floats(-100, 100, width=32), st.just(float("nan")))
    values = torch.tensor([draw(value) for _ in range(len(several))], dtype=torch.float64)
    return several.with_ids([f"c{i}" for i in range(len(several))]).with_properties(
        band_gap_ev=values
    )
