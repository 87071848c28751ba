"""Lattice maths against pymatgen, and cells that cannot exist."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.lattice import from_parameters, to_parameters
from matmill.crystals.reduction import niggli
from matmill.errors import InputError


def test_parameters_agree_with_pymatgen():
    from pymatgen.core import Lattice

    rows = [[3.0, 4.0, 5.0, 80.0, 95.0, 110.0], [2.5, 2.5, 9.0, 90.0, 90.0, 120.0]]
    cells = from_parameters(torch.tensor(rows, dtype=torch.float64))
    for row, cell in zip(rows, cells, strict=True):
        theirs = torch.from_numpy(Lattice.from_parameters(*row).matrix.copy())
        torch.testing.assert_close(cell, theirs, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(to_parameters(cells), torch.tensor(rows).double())


@pytest.mark.parametrize(
    "row",
    [
        [3, 4, 5, 190, 90, 90],
        [3, 4, 5, 30, 30, 90],
        [0, 4, 5, 90, 90, 90],
        [3, 4, float("nan"), 90, 90, 90],
        [3, 4, 5, 90, -90, 90],
    ],
)
def test_impossible_cells(row):
    with pytest.raises(InputError, match="cannot exist"):
        from_parameters(torch.tensor([row], dtype=torch.float64))


def test_niggli_agrees_with_an_independent_reduction():
    import moyopy

    from matmill.crystals.fingerprint import amd

    rng = torch.Generator().manual_seed(0)
    cells = torch.eye(3).double() * 4 + 3 * torch.rand(20, 3, 3, generator=rng).double()
    batch = CrystalBatch.from_lists(
        cells.tolist(),
        [[[0.1, 0.2, 0.3], [0.5, 0.9, 0.4]]] * 20,
        [[26, 8]] * 20,
        ids=[str(i) for i in range(20)],
    )
    reduced, succeeded = niggli(batch)
    assert bool(succeeded.all())
    for i in range(20):
        theirs = torch.tensor(moyopy.niggli_reduce(cells[i].tolist())[0]).double()
        torch.testing.assert_close(
            to_parameters(reduced.lattice[i : i + 1]),
            to_parameters(theirs[None]),
            atol=1e-5,
            rtol=0.0,
        )
    torch.testing.assert_close(amd(reduced, 20), amd(batch, 20), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(reduced.volume, batch.volume)
    assert reduced.ids == batch.ids
