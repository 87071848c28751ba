"""Lattice maths for whole batches: parameters, symmetric log form, reduction, shortest vectors."""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.errors import InputError

_SHIFTS = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), dtype=torch.float64)

# Basis of symmetric matrices: xy, xz, yz, orthorhombic, tetragonal, volume.
_BASIS = torch.zeros(6, 3, 3, dtype=torch.float64)
_BASIS[0, 0, 1] = _BASIS[0, 1, 0] = 1.0
_BASIS[1, 0, 2] = _BASIS[1, 2, 0] = 1.0
_BASIS[2, 1, 2] = _BASIS[2, 2, 1] = 1.0
_BASIS[3] = torch.diag(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
_BASIS[4] = torch.diag(torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64))
_BASIS[5] = torch.eye(3, dtype=torch.float64)
_BASIS_NORMS = (_BASIS * _BASIS).sum((1, 2))


def metric_tensor(lattice: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Return the Gram matrix of the row vectors, in Å²: ``|x|² = f G fᵀ``."""
    return lattice @ lattice.transpose(-1, -2)


def to_parameters(lattice: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 6"]:
    """Return a, b, c in Å and alpha, beta, gamma in degrees."""
    lengths = lattice.norm(dim=-1)
    gram = metric_tensor(lattice)
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = [gram[:, i, j] / (lengths[:, i] * lengths[:, j]) for i, j in pairs]
    angles = torch.rad2deg(torch.arccos(torch.stack(cosines, dim=-1).clamp(-1.0, 1.0)))
    return torch.cat([lengths, angles], dim=-1)


def from_parameters(parameters: Float[Tensor, "n 6"]) -> Float[Tensor, "n 3 3"]:
    """Return row vectors in Å from a, b, c (Å) and alpha, beta, gamma (degrees).

    The frame is that of pymatgen's ``Lattice.from_parameters``: c along z, a in the xz plane.

    Raises:
        InputError: If a cell cannot exist.
    """
    a, b, c = parameters[:, :3].unbind(-1)
    cosines = torch.cos(torch.deg2rad(parameters[:, 3:]))
    sines = torch.sin(torch.deg2rad(parameters[:, 3:]))
    root = 1 - (cosines**2).sum(-1) + 2 * cosines.prod(-1)
    bad = (root <= 0) | (parameters <= 0).any(-1) | ~torch.isfinite(parameters).all(-1)
    bad |= (parameters[:, 3:] >= 180).any(-1)
    if bool(bad.any()):
        row = int(torch.nonzero(bad)[0])
        raise InputError(
            f"Cell {row} cannot exist: a, b, c, alpha, beta, gamma = {parameters[row].tolist()}."
        )
    (cos_a, cos_b, cos_g), (sin_a, sin_b, _) = cosines.unbind(-1), sines.unbind(-1)
    gamma_star = torch.arccos(((cos_a * cos_b - cos_g) / (sin_a * sin_b)).clamp(-1.0, 1.0))
    zero = torch.zeros_like(a)
    rows = [
        torch.stack([a * sin_b, zero, a * cos_b], dim=-1),
        torch.stack(
            [-b * sin_a * torch.cos(gamma_star), b * sin_a * torch.sin(gamma_star), b * cos_a],
            dim=-1,
        ),
        torch.stack([zero, zero, c], dim=-1),
    ]
    return torch.stack(rows, dim=1)


def to_symmetric_log(lattice: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 6"]:
    """Return the six coefficients k of ``S = ½ log(L Lᵀ)`` in the symmetric basis.

    Free of rotation, unconstrained, and ``volume = exp(3 k₆)`` with k₆ the last of them.

    Source:
        CrystalFlow (2024); DiffCSP++ (2024), lattice in the logarithmic space.
    """
    gram = metric_tensor(lattice.double())
    values, vectors = torch.linalg.eigh(gram)
    logs = 0.5 * torch.log(values.clamp_min(1e-12))
    symmetric = vectors @ torch.diag_embed(logs) @ vectors.transpose(-1, -2)
    basis = _BASIS.to(lattice.device)
    k = torch.einsum("nij,kij->nk", symmetric, basis) / _BASIS_NORMS.to(lattice.device)
    return k.to(lattice.dtype)


def from_symmetric_log(k: Float[Tensor, "n 6"]) -> Float[Tensor, "n 3 3"]:
    """Return the symmetric lattice ``exp(Σ kᵢ Bᵢ)``: the same Gram matrix, so the same crystal."""
    symmetric = torch.einsum("nk,kij->nij", k.double(), _BASIS.to(k.device))
    if k.requires_grad:
        # Slower; but eigenvectors have no gradient where eigenvalues are equal, as in cubic cells.
        return torch.linalg.matrix_exp(symmetric).to(k.dtype)
    values, vectors = torch.linalg.eigh(symmetric)
    grown = torch.exp(values.clamp(-3.0, 5.0))
    return (vectors @ torch.diag_embed(grown) @ vectors.transpose(-1, -2)).to(k.dtype)


def minkowski_reduce(
    lattice: Float[Tensor, "n 3 3"], *, max_rounds: int = 100
) -> tuple[Float[Tensor, "n 3 3"], Int[Tensor, "n 3 3"]]:
    """Return lattices with the shortest possible vectors, and the integer change of basis.

    ``reduced = change @ lattice``. The shortest row is then the shortest lattice vector.

    Source:
        Semaev, A 3-dimensional lattice reduction algorithm (2001).
    """
    reduced = lattice.double().clone()
    change = torch.eye(3, dtype=torch.float64, device=lattice.device).repeat(len(lattice), 1, 1)
    steps = torch.tensor(
        [[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)],
        dtype=torch.float64,
        device=lattice.device,
    )
    everyone = torch.arange(len(lattice), device=lattice.device)
    for _ in range(max_rounds):
        before = reduced.norm(dim=-1)
        order = before.argsort(dim=-1, stable=True)
        reduced = reduced.gather(1, order[:, :, None].expand(-1, -1, 3))
        change = change.gather(1, order[:, :, None].expand(-1, -1, 3))
        a, b, c = reduced.unbind(1)
        # Gauss step on the two short vectors, then the closest point for the long one.
        m = torch.round((a * b).sum(-1) / (a * a).sum(-1))
        b = b - m[:, None] * a
        change_b = change[:, 1] - m[:, None] * change[:, 0]
        gram = torch.stack([a, b], 1) @ torch.stack([a, b], 1).transpose(1, 2)
        target = torch.stack([(a * c).sum(-1), (b * c).sum(-1)], dim=-1)
        nearest = torch.round(torch.linalg.solve(gram, target[:, :, None])[:, :, 0])
        trial = nearest[:, None, :] + steps
        moved = c[:, None] - trial[:, :, :1] * a[:, None] - trial[:, :, 1:] * b[:, None]
        # Keep c where no trial is strictly shorter: ties would loop for ever.
        lengths = moved.norm(dim=-1)
        best = lengths.argmin(dim=-1)
        better = lengths[everyone, best] < c.norm(dim=-1) - 1e-9
        chosen = torch.where(better[:, None], trial[everyone, best], torch.zeros_like(nearest))
        c = c - chosen[:, :1] * a - chosen[:, 1:] * b
        change_c = change[:, 2] - chosen[:, :1] * change[:, 0] - chosen[:, 1:] * change_b
        reduced = torch.stack([a, b, c], dim=1)
        change = torch.stack([change[:, 0], change_b, change_c], dim=1)
        after = reduced.norm(dim=-1).sort(dim=-1).values
        if bool((before.sort(dim=-1).values - after <= 1e-9).all()):
            break
    return reduced.to(lattice.dtype), change.round().long()


def shortest_vector(lattice: Float[Tensor, "n 3 3"]) -> Float[Tensor, " n"]:
    """Return the length of the shortest non-zero lattice vector in Å (distance to own image)."""
    return minkowski_reduce(lattice)[0].norm(dim=-1).amin(dim=-1)


def minimum_image_distances(
    steps: Float[Tensor, "n 3"], lattice: Float[Tensor, "n 3 3"]
) -> Float[Tensor, " n"]:
    """Return the shortest distance in Å over all periodic images, exact for any cell.

    Args:
        steps: Fractional difference between two atoms, ``(n, 3)``.
        lattice: Row vectors in Å of the cell of each pair, ``(n, 3, 3)``.
    """
    reduced, change = minkowski_reduce(lattice)
    # frac @ L = (frac @ change⁻¹) @ (change @ L)
    frac = torch.linalg.solve(change.double().transpose(-1, -2), steps.double()[:, :, None])
    frac = frac[:, :, 0] - torch.round(frac[:, :, 0])
    # In a Minkowski-reduced cell the nearest image is among the 27 around the origin.
    images = (frac[:, None] + _SHIFTS.to(steps.device)) @ reduced.double()
    return images.norm(dim=-1).amin(dim=-1).to(steps.dtype)
