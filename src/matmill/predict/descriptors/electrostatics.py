"""Columns from guessed charges: the electrostatic potential at every atom, by Ewald summation."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.predict.descriptors.bonds import Bonds
from matmill.predict.descriptors.pooling import group_mean, group_sum, pooled
from matmill.predict.descriptors.properties import element_property

_COULOMB = 14.399645  # e²/(4π ε0), eV Å (CODATA 2018)
_ACCURACY = 3.2  # erfc and exp(-x²) of it are below 1e-5: what either sum leaves out


def charge_columns(edges: Bonds, cutoff: float) -> dict[str, Float[Tensor, " n_crystals"]]:
    """Return guessed charges, the potentials that they feel, and the energy of the lattice.

    Args:
        edges: All edges up to the cutoff.
        cutoff: In Å.
    """
    batch = edges.batch
    charge = guessed_charges(batch)
    potential = site_potentials(edges, charge, cutoff)
    owner, n = batch.crystal_index, len(batch)
    columns = pooled(charge, owner, n, "charge", ("std", "min", "max"))
    columns |= pooled(potential, owner, n, "site_potential_volt", ("std", "min", "max"))
    columns["madelung_energy_ev_per_atom"] = group_mean(0.5 * charge * potential, owner, n)
    return columns


def guessed_charges(batch: CrystalBatch) -> Float[Tensor, " n_atoms_total"]:
    """Return charges in e that equalise the electronegativity of free atoms; each crystal neutral.

    An atom's electronegativity falls by its hardness for each electron that it gains. All atoms of
    an element are alike, and elements whose energies are unknown stay neutral.

    Source:
        Parr and Pearson, Absolute hardness (1983).
    """
    ionisation = element_property("first_ionization_energy")[batch.atomic_numbers]
    affinity = element_property("electron_affinity")[batch.atomic_numbers]
    softness = (1 / (ionisation - affinity)).nan_to_num(0.0)
    negativity = (0.5 * (ionisation + affinity)).nan_to_num(0.0)
    owner, n = batch.crystal_index, len(batch)
    total = group_sum(softness, owner, n).clamp_min(1e-12)
    common = group_sum(negativity * softness, owner, n) / total
    return (common[owner] - negativity) * softness


def site_potentials(
    edges: Bonds, charge: Float[Tensor, " n_atoms_total"], cutoff: float
) -> Float[Tensor, " n_atoms_total"]:
    """Return the potential of all other charges and images at each atom, in volt.

    Args:
        edges: All edges up to the cutoff.
        charge: In e, each crystal neutral.
        cutoff: Of the sum in real space, in Å.

    Source:
        Ewald, Die Berechnung optischer und elektrostatischer Gitterpotentiale (1921).
    """
    width = _ACCURACY / cutoff
    near = torch.erfc(width * edges.distance) / edges.distance * charge[edges.target]
    potential = group_sum(near, edges.source, len(charge))
    potential = potential + _far(edges.batch, charge, width)
    return _COULOMB * (potential - 2 * width / math.sqrt(math.pi) * charge)


def _far(batch: CrystalBatch, charge: Tensor, width: float) -> Tensor:
    """Return the sum in reciprocal space at each atom, in e/Å."""
    crystal, index, square = _reciprocal_vectors(batch, 2 * _ACCURACY * width)
    strength = torch.exp(-square / (4 * width**2)) / square
    # Each vector stands for its opposite too.
    strength = strength * 8 * torch.pi / batch.volume.double()[crystal]
    n_atoms = batch.n_atoms[crystal]
    vector = torch.repeat_interleave(torch.arange(len(crystal)), n_atoms)
    begin = torch.repeat_interleave(n_atoms.cumsum(0) - n_atoms, n_atoms)
    atom = batch.offsets[crystal][vector] + torch.arange(len(vector)) - begin
    phase = 2 * torch.pi * (index[vector] * batch.frac_coords.double()[atom]).sum(1)
    cosine, sine = torch.cos(phase), torch.sin(phase)
    even = group_sum(cosine * charge[atom], vector, len(crystal)) * strength
    odd = group_sum(sine * charge[atom], vector, len(crystal)) * strength
    return group_sum(cosine * even[vector] + sine * odd[vector], atom, len(charge))


def _reciprocal_vectors(
    batch: CrystalBatch, cutoff: float
) -> tuple[Int[Tensor, " n_vectors"], Float[Tensor, "n_vectors 3"], Float[Tensor, " n_vectors"]]:
    """Return crystal, indices and squared length (1/Å²) of half the vectors up to a cutoff."""
    lattice = batch.lattice.double()
    most = (cutoff * lattice.norm(dim=2) / (2 * torch.pi)).floor().long()
    size = 2 * most + 1
    count = size.prod(1)
    crystal = torch.repeat_interleave(torch.arange(len(batch)), count)
    number = torch.arange(len(crystal)) - torch.repeat_interleave(count.cumsum(0) - count, count)
    # Numbers above the middle one: the opposite of each lies below.
    upper = number > count[crystal] // 2
    crystal, number = crystal[upper], number[upper]
    side = size[crystal]
    last = number % side[:, 2]
    rest = torch.div(number, side[:, 2], rounding_mode="floor")
    middle = rest % side[:, 1]
    first = torch.div(rest, side[:, 1], rounding_mode="floor")
    index = (torch.stack([first, middle, last], dim=1) - most[crystal]).double()
    reciprocal = 2 * torch.pi * torch.linalg.inv(lattice).mT
    square = (index[:, None, :] @ reciprocal[crystal])[:, 0].square().sum(1)
    inside = square <= cutoff**2
    return crystal[inside], index[inside], square[inside]
