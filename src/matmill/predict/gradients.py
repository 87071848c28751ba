"""Predictions that can be differentiated by the geometry, for guidance towards a property."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density, volume_per_atom
from matmill.crystals.neighbors import nearest
from matmill.errors import InputError
from matmill.graphs.graph import build
from matmill.predict.ensemble import EnsemblePredictor
from matmill.predict.exact import ExactPredictor
from matmill.predict.networks import degree_read, reads_compositions
from matmill.predict.protocol import Predictor

_FORMULAS = {"density_g_cm3": density, "volume_per_atom_a3": volume_per_atom}
_SMALLEST_VOLUME = 2.0  # Å³/atom; below it there are more neighbours than anybody wants to list

Property = Callable[
    [Float[Tensor, "b 3 3"], Float[Tensor, "b n 3"], Int[Tensor, "b n"]], Float[Tensor, " b"]
]


def differentiable(predictor: Predictor) -> Property:
    """Return the property of crystals of one size as a function of lattices, sites and elements.

    Gradients flow to lattices (Å, rows) and fractional sites, both float64; the list of neighbours
    is that of the geometry given, as in a relaxation. Values below a predictor's floor, such as
    negative band gaps, are let through, since a floor has no slope. Crystals that are too dense
    to have neighbours listed are NaN.

    Args:
        predictor: A computed property of the geometry, or an ensemble of networks that read
            distances only.

    Raises:
        InputError: If it has no gradient by the geometry.
    """
    if isinstance(predictor, ExactPredictor) and predictor.column in _FORMULAS:
        formula = _FORMULAS[predictor.column]
        return lambda lattice, frac, z: formula(_batch(lattice, frac, z))
    if not isinstance(predictor, EnsemblePredictor):
        raise _no_gradient(predictor, "only networks and formulas of the geometry have one")
    kind = predictor.model.card["network"]
    if reads_compositions(kind):
        raise _no_gradient(predictor, f"the network {kind} reads compositions, not geometry")
    if degree_read(kind) is not None:
        raise _no_gradient(predictor, f"the network {kind} reads directions, not distances alone")
    return lambda lattice, frac, z: _ensemble_value(predictor, lattice, frac, z)


def _ensemble_value(
    predictor: EnsemblePredictor, lattice: Tensor, frac: Tensor, z: Tensor
) -> Float[Tensor, " b"]:
    model = predictor.model
    b, n = z.shape
    device, lattice, frac, z = lattice.device, lattice.cpu(), frac.cpu(), z.cpu()
    volume = torch.linalg.det(lattice.detach()).abs() / n
    good = torch.isfinite(volume) & (volume > _SMALLEST_VOLUME)
    good &= torch.isfinite(frac.detach()).all((1, 2))
    value = torch.full((b,), torch.nan, dtype=torch.float64)
    if not bool(good.any()):
        return value
    batch = _batch(lattice[good], frac[good], z[good])
    still = replace(batch, lattice=batch.lattice.detach(), frac_coords=batch.frac_coords.detach())
    k, cutoff = model.card["n_neighbors"], model.card["cutoff_angstrom"]
    edges = nearest(still, k, cutoff=cutoff)
    graph = build(still, k, cutoff)
    f, cells = batch.frac_coords, batch.lattice[batch.crystal_index[edges.source]]
    steps = f[edges.target] - f[edges.source] + edges.image
    length = torch.einsum("ei,eij->ej", steps, cells).norm(dim=1).float()
    graph = replace(graph, distance=graph.distance.masked_scatter(graph.mask, length))
    graph = graph.to(model.device)
    target = model.columns.index(predictor.column)
    outputs = [member.out(member.embedding(graph))[:, target] for member in model.members]  # pyright: ignore[reportCallIssue]
    scale = model.scales[target]
    mean = torch.stack(outputs).double().mean(0).cpu() * scale.spread + scale.center
    return value.masked_scatter(good, 10.0**mean if scale.is_log else mean).to(device)


def _batch(lattice: Tensor, frac: Tensor, z: Tensor) -> CrystalBatch:
    b, n = z.shape
    return CrystalBatch(
        lattice=lattice,
        frac_coords=frac.reshape(-1, 3),
        atomic_numbers=z.reshape(-1),
        n_atoms=torch.full((b,), n),
    )


def _no_gradient(predictor: Predictor, reason: str) -> InputError:
    return InputError(
        f"This predictor of {predictor.column} cannot guide, since it has no gradient by the "
        f"geometry: {reason}. Use it to choose instead: --best-of 4 --judge."
    )
