"""What the flow moves: dense tensors of crystals with the same number of atoms.

Inside the model everything is dense and equal in size (no padding, no masks); outside it is a
`CrystalBatch`. The lattice is six standardised numbers, of which the volume is one.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.lattice import from_symmetric_log, to_symmetric_log
from matmill.crystals.periodic import wrap

MASK = 0
N_ELEMENTS = 100  # the network's vocabulary is Z = 1..100, and 0 for "masked"


@dataclass(frozen=True, kw_only=True)
class LatticeScale:
    """Mean and spread of the lattice numbers over the training set.

    Attributes:
        mean: ``(6,)``, of the symmetric log coefficients after the size is taken out.
        std: ``(6,)``.
    """

    mean: Float[Tensor, "6"]
    std: Float[Tensor, "6"]

    @classmethod
    def fit(cls, batch: CrystalBatch) -> "LatticeScale":
        """Measure the scale on training crystals."""
        k = _without_size(to_symmetric_log(batch.lattice.double()), batch.n_atoms)
        return cls(mean=k.mean(0), std=k.std(0).clamp_min(1e-3))

    def encode(self, lattice: Tensor, n_atoms: Tensor) -> Float[Tensor, "n 6"]:
        """Return standardised numbers for lattices in Å."""
        k = _without_size(to_symmetric_log(lattice.double()), n_atoms)
        return (k - self.mean) / self.std

    def decode(self, y: Float[Tensor, "n 6"], n_atoms: Tensor) -> Float[Tensor, "n 3 3"]:
        """Return symmetric lattice matrices in Å for standardised numbers."""
        k = y.double() * self.std.to(y.device) + self.mean.to(y.device)
        k = torch.cat([k[:, :5], k[:, 5:] + torch.log(n_atoms.double())[:, None] / 3], dim=1)
        return from_symmetric_log(k)


def _without_size(k: Tensor, n_atoms: Tensor) -> Tensor:
    # The last coefficient is ln(volume)/3; taking out ln(n)/3 leaves the volume per atom.
    return torch.cat([k[:, :5], k[:, 5:] - torch.log(n_atoms.double())[:, None] / 3], dim=1)


@dataclass(frozen=True, kw_only=True)
class DenseCrystals:
    """Crystals of one size.

    Attributes:
        z: Atomic numbers, ``(n_crystals, n)``; 0 is masked.
        f: Fractional coordinates in [0, 1), ``(n_crystals, n, 3)``, float32.
        y: Standardised lattice numbers, ``(n_crystals, 6)``, float32.
    """

    z: Int[Tensor, "b n"]
    f: Float[Tensor, "b n 3"]
    y: Float[Tensor, "b 6"]

    def __len__(self) -> int:
        return len(self.z)

    @property
    def n(self) -> int:
        """Atoms in each crystal."""
        return self.z.shape[1]

    def to(self, device: str | torch.device) -> "DenseCrystals":
        """Return a copy on another device."""
        return DenseCrystals(z=self.z.to(device), f=self.f.to(device), y=self.y.to(device))


@dataclass(frozen=True, kw_only=True)
class NoisyState:
    """A point on the way from noise (clock 0) to crystal (clock 1), as the network sees it.

    Attributes:
        crystals: Noisy contents.
        type_clock: Clock of each atom's element, ``(n_crystals, n)``; 1 means known.
        site_clock: Clock of each atom's position, ``(n_crystals, n)``; 1 means fixed.
        lattice_clock: Clock of each lattice, ``(n_crystals,)``; 1 means fixed.
        keeps_symmetry: The states are symmetric standard primitive cells (see `orbits`), not
            general Niggli cells.
    """

    crystals: DenseCrystals
    type_clock: Float[Tensor, "b n"]
    site_clock: Float[Tensor, "b n"]
    lattice_clock: Float[Tensor, " b"]
    keeps_symmetry: bool = False

    @property
    def free_types(self) -> Bool[Tensor, "b n"]:
        """Atoms whose element is still to be found."""
        return self.type_clock < 1.0

    @property
    def free_sites(self) -> Bool[Tensor, "b n"]:
        """Atoms that may move."""
        return self.site_clock < 1.0

    @property
    def is_anchored(self) -> Bool[Tensor, " b"]:
        """Crystals in which a fixed atom fixes the origin."""
        return (~self.free_sites).any(1) & self.free_sites.any(1)

    def repeated(self, times: int) -> "NoisyState":
        """Return the state stacked ``times`` times, for guidance."""
        c = self.crystals
        return replace(
            self,
            crystals=DenseCrystals(
                z=c.z.repeat(times, 1), f=c.f.repeat(times, 1, 1), y=c.y.repeat(times, 1)
            ),
            type_clock=self.type_clock.repeat(times, 1),
            site_clock=self.site_clock.repeat(times, 1),
            lattice_clock=self.lattice_clock.repeat(times),
        )


def to_dense(batch: CrystalBatch, scale: LatticeScale) -> dict[int, tuple[Tensor, DenseCrystals]]:
    """Return ``{n: (positions in the batch, crystals)}`` for every size that occurs."""
    groups = {}
    y = scale.encode(batch.lattice, batch.n_atoms).float()
    for n in sorted(set(batch.n_atoms.tolist())):
        index = torch.nonzero(batch.n_atoms == n).flatten()
        rows = batch.offsets[index][:, None] + torch.arange(n)
        groups[n] = (
            index,
            DenseCrystals(
                z=batch.atomic_numbers[rows].long(), f=batch.frac_coords[rows].float(), y=y[index]
            ),
        )
    return groups


def from_dense(crystals: DenseCrystals, scale: LatticeScale) -> CrystalBatch:
    """Return a float64 `CrystalBatch` on the CPU."""
    b, n = crystals.z.shape
    n_atoms = torch.full((b,), n)
    return CrystalBatch(
        lattice=scale.decode(crystals.y.cpu(), n_atoms),
        frac_coords=wrap(crystals.f.cpu().double().reshape(-1, 3)),
        atomic_numbers=crystals.z.cpu().reshape(-1),
        n_atoms=n_atoms,
    )


def time_features(t: Tensor, n_frequencies: int = 16) -> Tensor:
    """Return sines and cosines of a clock in [0, 1], ``(*shape, 2 * n_frequencies)``."""
    k = torch.arange(1, n_frequencies + 1, device=t.device, dtype=t.dtype)
    angles = math.pi * t[..., None] * k
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
