"""Distances as smooth features: Gaussians on a grid, and a lookup table of their products."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Gaussians below this are 0: subnormal numbers slow matrix products on CPUs 6-8 times.
SMALLEST = 1e-6
GRID_STEP = 0.01
"""Å between the rows of a `DistanceTable`."""


def gaussians(
    distance: Float[Tensor, "*shape"], *, cutoff: float = 8.0, width: float = 0.2
) -> Float[Tensor, "*shape n_centers"]:
    """Expand distances in Gaussians centred at 0, width, 2 width, … cutoff.

    Args:
        distance: In Å, any shape.
        cutoff: Last centre in Å.
        width: Spacing and width in Å.

    Returns:
        Values in [0, 1], exactly 0 below 1e-6; a new last axis.

    Source:
        Xie and Grossman, CGCNN (2018): exp(-(d - μ)²/σ²), without ½ in the exponent.
    """
    n_centers = round(cutoff / width) + 1
    centers = torch.linspace(0.0, cutoff, n_centers, dtype=distance.dtype, device=distance.device)
    values = torch.exp(-(((distance[..., None] - centers) / width) ** 2))
    return torch.where(values < SMALLEST, torch.zeros_like(values), values)


class DistanceTable(nn.Module):
    """A linear map of the Gaussian features of a distance, tabulated on a fine grid.

    Multiplying a few thousand grid rows by the weights and looking rows up costs far less than
    multiplying the features of every edge.

    Args:
        n_out: Width of the output.
        cutoff: Largest distance in Å.
        step: Spacing of the grid in Å.
    """

    grid: Tensor

    def __init__(self, n_out: int, *, cutoff: float = 8.0, step: float = GRID_STEP) -> None:
        super().__init__()
        self.cutoff, self.step = cutoff, step
        points = torch.arange(round(cutoff / step) + 2, dtype=torch.float64) * step
        self.register_buffer("grid", gaussians(points, cutoff=cutoff).float(), persistent=False)
        self.weight = nn.Parameter(torch.empty(n_out, self.grid.shape[1]))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def table(self) -> Float[Tensor, "n_rows n_out"]:
        """Return the features at each point of the grid times the weights."""
        return self.grid @ self.weight.T

    def forward(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape n_out"]:
        """Return the features of each distance (Å) times the weights.

        In training the nearest grid row is taken (an error of at most half a step, below the
        noise of the structures); otherwise rows are interpolated linearly.
        """
        table = self.table()
        place = distance.clamp(0.0, self.cutoff) / self.step
        if self.training:
            return nn.functional.embedding(torch.round(place).long(), table)
        row = place.floor()
        share = (place - row)[..., None].to(table.dtype)
        lower = nn.functional.embedding(row.long(), table)
        return torch.lerp(lower, nn.functional.embedding(row.long() + 1, table), share)

    def exact(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape n_out"]:
        """Return the same without the table; slow, for comparison."""
        return gaussians(distance, cutoff=self.cutoff) @ self.weight.T
