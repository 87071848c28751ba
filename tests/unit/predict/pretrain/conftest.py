import pytest
import torch

from matmill.crystals.batch import CrystalBatch


def make_salts(n=96, seed=0):
    """Return rock-salt cells of random elements and size."""
    rng = torch.Generator().manual_seed(seed)
    edge = 2.0 + 1.5 * torch.rand(n, generator=rng).double()
    numbers = torch.tensor([3, 8, 11, 17, 26, 30])[torch.randint(6, (n, 2), generator=rng)]
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    return CrystalBatch(
        lattice=edge[:, None, None] * cubic,
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=numbers.flatten(),
        n_atoms=torch.full((n,), 2),
    )


@pytest.fixture(scope="session")
def salts():
    """The function that makes rock-salt cells."""
    return make_salts
