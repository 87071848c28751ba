"""Crystals of different sizes side by side: dense tensors, filled up with places that are empty.

Numbers of atoms, lattices and compositions are learnt from the latent, so a batch should hold
crystals of every size; sorted and cut into a few runs, little of it is padding.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.generate.state import LatticeScale


@dataclass(frozen=True, kw_only=True)
class PaddedCrystals:
    """Crystals of at most ``n`` atoms.

    Attributes:
        z: Atomic numbers, 0 where there is no atom, ``(b, n)``; atoms come first.
        f: Fractional coordinates in [0, 1), ``(b, n, 3)``, float32.
        y: Standardised lattice numbers (see `LatticeScale`), ``(b, 6)``, float32.
        n_atoms: ``(b,)``.
    """

    z: Int[Tensor, "b n"]
    f: Float[Tensor, "b n 3"]
    y: Float[Tensor, "b 6"]
    n_atoms: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.z)

    @property
    def is_atom(self) -> Bool[Tensor, "b n"]:
        """Places that hold an atom."""
        return places(self.n_atoms, self.z.shape[1])

    def select(self, index: Int[Tensor, " k"]) -> "PaddedCrystals":
        """Return these crystals, with no more places than the largest of them needs."""
        n_atoms = self.n_atoms[index]
        n = int(n_atoms.max()) if len(index) else 0
        return PaddedCrystals(
            z=self.z[index, :n], f=self.f[index, :n], y=self.y[index], n_atoms=n_atoms
        )

    def to(self, device: str | torch.device) -> "PaddedCrystals":
        """Return a copy on another device."""
        return PaddedCrystals(**{name: t.to(device) for name, t in vars(self).items()})


def places(n_atoms: Int[Tensor, " b"], n: int) -> Bool[Tensor, "b n"]:
    """Return which of ``n`` places of each crystal hold an atom."""
    return torch.arange(n, device=n_atoms.device) < n_atoms[:, None]


def pad(batch: CrystalBatch, scale: LatticeScale) -> PaddedCrystals:
    """Return crystals side by side, in the order of the batch."""
    n = int(batch.n_atoms.max()) if len(batch) else 0
    mask = places(batch.n_atoms, n)
    z = torch.zeros(len(batch), n, dtype=torch.int64)
    f = torch.zeros(len(batch), n, 3)
    z[mask] = batch.atomic_numbers.long()
    f[mask] = batch.frac_coords.float()
    y = scale.encode(batch.lattice, batch.n_atoms).float()
    return PaddedCrystals(z=z, f=f, y=y, n_atoms=batch.n_atoms)


def atom_mean(values: Float[Tensor, "b n"], is_atom: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Return the mean over the atoms of each crystal."""
    return (values * is_atom).sum(1) / is_atom.sum(1).clamp_min(1)
