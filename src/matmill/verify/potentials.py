"""Potentials: energy, forces and stress of whole batches of crystals."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import MissingExtraError
from matmill.verify.chgnet import MAX_ATOMIC_NUMBER, BatchedCHGNet, BondGraph, bond_graph

MP2020_CORRECTED = "mp2020-corrected"
MP_RAW = "mp-raw"
OTHER = "other"
SCHEMES = {
    MP2020_CORRECTED: "Learned from Materials Project energies with the corrections of 2020 "
    "inside: never correct them again.",
    MP_RAW: "Learned from PBE and PBE+U energies by the Materials Project's settings, as computed: "
    "they need the corrections of 2020 before they meet its entries.",
    OTHER: "Learned from, or fitted to, something else: comparable with energies of this very "
    "potential only.",
}
"""What a potential's energies are, and what that means for hulls (see docs/potentials.md)."""


@dataclass(frozen=True)
class PotentialOutput:
    """What a potential says about a batch; NaN for a crystal that it cannot treat.

    Attributes:
        energy_ev: Total energy of each cell, float64, ``(n_crystals,)``.
        forces_ev_per_a: Force on each atom, float64, ``(n_atoms_total, 3)``; None if not asked.
        stress_ev_per_a3: Stress ``(1/V) dE/d(strain)`` of each cell, float64, symmetric,
            positive when the cell wants to shrink, ``(n_crystals, 3, 3)``; None if not asked.
    """

    energy_ev: Float[Tensor, " n_crystals"]
    forces_ev_per_a: Float[Tensor, "n_atoms_total 3"] | None = None
    stress_ev_per_a3: Float[Tensor, "n_crystals 3 3"] | None = None


@dataclass(frozen=True)
class SiteDescription:
    """What CHGNet knows of every atom of a batch; NaN in a crystal that it cannot treat.

    Attributes:
        before: Features before the last layer, those that carry the moments, float32,
            ``(n_atoms_total, 64)``.
        after: Features after the last layer, those that the energy is read from, float32,
            ``(n_atoms_total, 64)``.
        energy_ev: Energy of each atom without its element's reference, float64,
            ``(n_atoms_total,)``.
        moment_bohr_magneton: Size of the magnetic moment, float64, ``(n_atoms_total,)``.
        forces_ev_per_a: Force on each atom, float64, ``(n_atoms_total, 3)``.
        stress_ev_per_a3: Stress of each cell, float64, ``(n_crystals, 3, 3)``.
    """

    before: Float[Tensor, "n_atoms_total 64"]
    after: Float[Tensor, "n_atoms_total 64"]
    energy_ev: Float[Tensor, " n_atoms_total"]
    moment_bohr_magneton: Float[Tensor, " n_atoms_total"]
    forces_ev_per_a: Float[Tensor, "n_atoms_total 3"]
    stress_ev_per_a3: Float[Tensor, "n_crystals 3 3"]


@runtime_checkable
class Potential(Protocol):
    """Anything that gives energies of crystals. A plug-in need not import matmill to be one.

    Attributes:
        name: Short name with version, e.g. ``"chgnet-0.3.0"``.
        hash: Content hash of its weights: part of the key of every cached result.
        scheme: Which corrections its energies carry: one of `SCHEMES`. Energies of two schemes
            never meet in one hull.
    """

    @property
    def name(self) -> str:
        """Short name with version."""
        ...

    @property
    def hash(self) -> str:
        """Content hash of the weights."""
        ...

    @property
    def scheme(self) -> str:
        """Which corrections the energies carry."""
        ...

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        """Return energies in eV, and forces (eV/Å) and stress (eV/Å³) if asked."""
        ...


class CHGNetPotential:
    """CHGNet 0.3.0 in batches, with the weights of the installed ``chgnet`` package.

    Its energies carry the Materials Project's 2020 corrections already: never correct them again.

    Args:
        max_atoms: Atoms a pass through the network; small passes stay in the processor's cache.
        dtype: What the network computes in.
    """

    name = "chgnet-0.3.0"
    scheme = MP2020_CORRECTED

    def __init__(self, *, max_atoms: int = 128, dtype: torch.dtype = torch.float32) -> None:
        self.max_atoms = max_atoms
        self.network = _load_network(dtype)

    @property
    def hash(self) -> str:
        """SHA-256 of the weights file of the package, first 16 hex digits."""
        return _weights_hash()

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        """Return energies, and forces and stress if asked.

        A crystal with an element beyond plutonium (Z > 94), which the network never saw, or with
        coordinates that are not finite gets NaN.
        """
        return compute_in_chunks(
            batch,
            self._evaluate,
            forces=forces,
            max_atoms=self.max_atoms,
            elements=range(1, MAX_ATOMIC_NUMBER + 1),
        )

    def describe(self, batch: CrystalBatch) -> SiteDescription:
        """Return the learned features of every atom, with energies, moments, forces and stress."""
        n = len(batch.atomic_numbers)
        found = SiteDescription(
            before=torch.full((n, 64), torch.nan),
            after=torch.full((n, 64), torch.nan),
            energy_ev=torch.full((n,), torch.nan, dtype=torch.float64),
            moment_bohr_magneton=torch.full((n,), torch.nan, dtype=torch.float64),
            forces_ev_per_a=torch.full((n, 3), torch.nan, dtype=torch.float64),
            stress_ev_per_a3=torch.full((len(batch), 3, 3), torch.nan, dtype=torch.float64),
        )
        known = torch.nonzero(treatable(batch, range(1, MAX_ATOMIC_NUMBER + 1))).flatten()
        done = 0
        for chunk in batch.select(known).chunks(self.max_atoms):
            crystals = known[done : done + len(chunk)]
            done += len(chunk)
            mine = torch.zeros(len(batch), dtype=torch.bool)
            mine[crystals] = True
            atoms = mine[batch.crystal_index]
            graph = bond_graph(chunk)
            vector = graph.vector.clone().requires_grad_(True)
            before, after = self.network.convolve(chunk.atomic_numbers, graph, vector)
            site = self.network.read_out(after)
            force, stress = _forces_and_stress(chunk, graph, site, vector)
            found.before[atoms] = before.detach().float()
            found.after[atoms] = after.detach().float()
            found.energy_ev[atoms] = site.detach().double()
            moment = self.network.magnetic_moments(before.detach())
            found.moment_bohr_magneton[atoms] = moment.double()
            found.forces_ev_per_a[atoms] = force
            found.stress_ev_per_a3[crystals] = stress
        return found

    def _evaluate(self, batch: CrystalBatch, forces: bool) -> tuple[Tensor, Tensor, Tensor]:
        graph = bond_graph(batch)
        numbers = batch.atomic_numbers
        vector = graph.vector.clone()
        empty = torch.zeros(0, dtype=torch.float64)
        if forces:
            vector.requires_grad_(True)
            site = self.network.site_energies(numbers, graph, vector)
            force, stress = _forces_and_stress(batch, graph, site, vector)
            site = site.detach()
        else:
            with torch.inference_mode():
                site = self.network.site_energies(numbers, graph, vector)
            force = stress = empty
        site = site.double() + self.network.composition_energy(numbers)
        energy = torch.zeros(len(batch), dtype=torch.float64)
        return energy.index_add(0, batch.crystal_index, site), force, stress


def _forces_and_stress(
    batch: CrystalBatch, graph: BondGraph, site: Tensor, vector: Tensor
) -> tuple[Tensor, Tensor]:
    """Return forces and stress from one backward pass of the energies to the bond vectors."""
    (slope,) = torch.autograd.grad(site.sum(), vector, allow_unused=True)
    slope = torch.zeros_like(vector) if slope is None else slope
    force = torch.zeros(len(batch.atomic_numbers), 3, dtype=torch.float64)
    force = force.index_add(0, graph.first, slope).index_add(0, graph.second, -slope)
    virial = graph.vector[:, :, None] * slope[:, None, :]
    stress = torch.zeros(len(batch), 3, 3, dtype=torch.float64)
    stress = stress.index_add(0, batch.crystal_index[graph.first], virial)
    stress = 0.5 * (stress + stress.transpose(1, 2)) / batch.volume.double()[:, None, None]
    return force, stress


def load_chgnet(*, max_atoms: int = 128) -> CHGNetPotential:
    """Return CHGNet 0.3.0 with the weights that the ``chgnet`` package brings (no download)."""
    return CHGNetPotential(max_atoms=max_atoms)


def scheme_of(potential: object) -> str:
    """Return which corrections a potential's energies carry; a plug-in that is silent is other."""
    return str(getattr(potential, "scheme", OTHER))


Evaluate = Callable[[CrystalBatch, bool], tuple[Tensor, Tensor, Tensor]]
"""Energies, forces and stresses of crystals that can be treated; the last two only if asked."""


def compute_in_chunks(
    batch: CrystalBatch,
    evaluate: Evaluate,
    *,
    forces: bool,
    max_atoms: int,
    elements: Collection[int],
) -> PotentialOutput:
    """Return the output for a batch from passes of limited size, NaN for what cannot be treated.

    Args:
        batch: The crystals.
        evaluate: One pass.
        forces: Whether forces and stress are wanted.
        max_atoms: Atoms a pass.
        elements: Atomic numbers that the potential knows.
    """
    good = treatable(batch, elements)
    energy = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    if not forces:
        chunks = batch.select(good).chunks(max_atoms)
        parts = [evaluate(chunk, False)[0] for chunk in chunks]
        energy[good] = torch.cat([energy[:0], *parts])
        return PotentialOutput(energy_ev=energy)
    force = torch.full((len(batch.frac_coords), 3), torch.nan, dtype=torch.float64)
    stress = torch.full((len(batch), 3, 3), torch.nan, dtype=torch.float64)
    found = [evaluate(chunk, True) for chunk in batch.select(good).chunks(max_atoms)]
    energy[good] = torch.cat([energy[:0], *(part[0] for part in found)])
    force[good[batch.crystal_index]] = torch.cat([force[:0], *(part[1] for part in found)])
    stress[good] = torch.cat([stress[:0], *(part[2] for part in found)])
    return PotentialOutput(energy_ev=energy, forces_ev_per_a=force, stress_ev_per_a3=stress)


def treatable(batch: CrystalBatch, elements: Collection[int]) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals have known elements, finite numbers and a volume."""
    known = torch.tensor(sorted(elements), dtype=batch.atomic_numbers.dtype)
    bad_atom = ~torch.isin(batch.atomic_numbers, known)
    bad_atom |= ~torch.isfinite(batch.frac_coords).all(1)
    n_bad = torch.zeros(len(batch), dtype=torch.int64)
    n_bad = n_bad.index_add(0, batch.crystal_index, bad_atom.long())
    finite = torch.isfinite(batch.lattice).flatten(1).all(1) & (batch.volume > 1e-3)
    return (n_bad == 0) & finite


@cache
def _weights_hash() -> str:
    return hashlib.sha256(_weights_file().read_bytes()).hexdigest()[:16]


def _weights_file() -> Path:
    folder = Path(str(import_module("chgnet").__file__)).parent / "pretrained" / "0.3.0"
    return next(folder.glob("*.pth.tar"))


def _load_network(dtype: torch.dtype) -> BatchedCHGNet:
    import contextlib
    import io
    import warnings

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # pymatgen and chgnet warn about each other's versions
            from chgnet.model import CHGNet

            model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    except ImportError as error:
        raise MissingExtraError(
            "CHGNet could not be imported; install it with `pip install chgnet`."
        ) from error
    if model.version != "0.3.0":
        raise MissingExtraError(
            f"chgnet {metadata.version('chgnet')} loads weights {model.version}, not 0.3.0."
        )
    return BatchedCHGNet(model, dtype)
