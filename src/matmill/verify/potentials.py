"""Potentials: energy, forces and stress of whole batches of crystals."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import MissingExtraError
from matmill.verify.chgnet import MAX_ATOMIC_NUMBER, BatchedCHGNet, BondGraph, bond_graph

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


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
    """

    @property
    def name(self) -> str:
        """Short name with version."""
        ...

    @property
    def hash(self) -> str:
        """Content hash of the weights."""
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
        parts = [self._pass(chunk, forces) for chunk in batch.chunks(self.max_atoms)]
        if not parts:
            empty = torch.zeros(0, dtype=torch.float64)
            return PotentialOutput(
                energy_ev=empty,
                forces_ev_per_a=empty.reshape(0, 3) if forces else None,
                stress_ev_per_a3=empty.reshape(0, 3, 3) if forces else None,
            )
        energy, force, stress = zip(*parts, strict=True)
        return PotentialOutput(
            energy_ev=torch.cat(energy),
            forces_ev_per_a=torch.cat(force) if forces else None,
            stress_ev_per_a3=torch.cat(stress) if forces else None,
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
        known = torch.nonzero(_treatable(batch)).flatten()
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

    def _pass(self, batch: CrystalBatch, forces: bool) -> tuple[Tensor, Tensor, Tensor]:
        known = _treatable(batch)
        if bool(known.all()):
            return self._evaluate(batch, forces)
        energy = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        force = torch.full((len(batch.frac_coords), 3), torch.nan, dtype=torch.float64)
        stress = torch.full((len(batch), 3, 3), torch.nan, dtype=torch.float64)
        if bool(known.any()):
            good = self._evaluate(batch.select(known), forces)
            energy[known] = good[0]
            if forces:
                force[known[batch.crystal_index]] = good[1]
                stress[known] = good[2]
        return energy, force, stress

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


class AsePotential:
    """Any ASE calculator as a potential, one crystal after another.

    Args:
        make_calculator: Returns a fresh calculator with energy, forces and stress.
        name: Name with version, for tables and caches.
        hash: Content hash of its weights or settings.
    """

    def __init__(
        self, make_calculator: "Callable[[], Calculator]", *, name: str, hash: str
    ) -> None:
        self.name = name
        self.hash = hash
        self._calculator = make_calculator()

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        """Return energies, and forces and stress if asked."""
        from ase import Atoms

        energy, force, stress = [], [], []
        for crystal in range(len(batch)):
            rows = batch.atoms_of(crystal)
            atoms = Atoms(
                numbers=batch.atomic_numbers[rows].numpy(),
                scaled_positions=batch.frac_coords[rows].double().numpy(),
                cell=batch.lattice[crystal].double().numpy(),
                pbc=True,
            )
            atoms.calc = self._calculator
            energy.append(float(atoms.get_potential_energy()))
            if forces:
                force.append(torch.as_tensor(atoms.get_forces()))
                stress.append(torch.as_tensor(atoms.get_stress(voigt=False)))
        empty = torch.zeros(0, 3, dtype=torch.float64)
        return PotentialOutput(
            energy_ev=torch.tensor(energy, dtype=torch.float64),
            forces_ev_per_a=torch.cat([empty, *force]).double() if forces else None,
            stress_ev_per_a3=(
                torch.stack(stress).double() if stress else torch.zeros(0, 3, 3).double()
            )
            if forces
            else None,
        )


def load_chgnet(*, max_atoms: int = 128) -> CHGNetPotential:
    """Return CHGNet 0.3.0 with the weights that the ``chgnet`` package brings (no download)."""
    return CHGNetPotential(max_atoms=max_atoms)


def _treatable(batch: CrystalBatch) -> Tensor:
    bad_atom = (batch.atomic_numbers < 1) | (batch.atomic_numbers > MAX_ATOMIC_NUMBER)
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
