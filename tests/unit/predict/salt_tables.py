"""A small labelled table that trains in a second."""

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals

SMALL = {"n_members": 2, "width": 16, "hidden": 16, "n_layers": 2, "precision": "fp32"}


def make_table(n=240):
    """Rock-salt cells whose labels follow from volume and elements."""
    rng = torch.Generator().manual_seed(0)
    edge = 2.0 + 1.5 * torch.rand(n, generator=rng).double()
    numbers = torch.tensor([3, 8, 11, 17, 26, 30])[torch.randint(6, (n, 2), generator=rng)]
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    energy = edge - 2.0 + 0.5 * (numbers == 8).any(1) + 0.02 * torch.randn(n, generator=rng)
    modulus = 300.0 / edge**3
    modulus[::2] = torch.nan
    batch = CrystalBatch(
        lattice=edge[:, None, None] * cubic,
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=numbers.flatten(),
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"c{i}" for i in range(n)),
        properties={"formation_energy_per_atom_ev": energy, "bulk_modulus_vrh_gpa": modulus},
    )
    quarter = n // 4
    notes = {"split": tuple(["train"] * 2 * quarter + ["val"] * quarter + ["test"] * quarter)}
    return LabelledCrystals(crystals=batch, notes=notes, source="salts.csv")
