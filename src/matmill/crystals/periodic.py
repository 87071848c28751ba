"""Arithmetic on the torus of fractional coordinates."""

import torch
from jaxtyping import Float
from torch import Tensor


def wrap(frac_coords: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """Move fractional coordinates into [0, 1)."""
    wrapped = frac_coords - torch.floor(frac_coords)
    return torch.where(wrapped >= 1.0, torch.zeros_like(wrapped), wrapped)  # -1e-20 rounds to 1.0


def shortest_step(
    start: Float[Tensor, "*#shape 3"], end: Float[Tensor, "*#shape 3"]
) -> Float[Tensor, "*#shape 3"]:
    """Return the step along the torus from ``start`` to ``end``, per axis.

    This is the geodesic of the flat torus, used as the flow target for fractional coordinates.
    It is not the shortest Cartesian vector in a skewed cell; `matmill.crystals.lattice` has that.

    Args:
        start: Fractional coordinates, dimensionless.
        end: Fractional coordinates, dimensionless; the shapes broadcast.

    Returns:
        Step with each component in [-0.5, 0.5).

    Source:
        FlowMM (2024), Riemannian flow matching on the torus, logarithm map.
    """
    return torch.remainder(end - start + 0.5, 1.0) - 0.5
