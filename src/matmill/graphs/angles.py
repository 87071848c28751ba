"""Directions as real spherical harmonics: sums of them over neighbours know the angles.

For directions u and v, ``Σ_m Y_lm(u) Y_lm(v) = P_l(u·v)``. The square of a sum over an atom's
neighbours therefore holds the cosine of every angle between two of them, at the cost of one pass
over the neighbours instead of one over their pairs.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_DEGREE = 4
_SMALLEST_LENGTH = 1e-6  # Å; atoms on the same spot have no direction


def harmonics(
    vector: Float[Tensor, "*shape 3"], degree: int
) -> Float[Tensor, "*shape n_components"]:
    """Return the harmonics of degree 0 to ``degree`` of the directions of vectors.

    Args:
        vector: Any length, in Å. A vector of length 0 has the harmonics 0, but for degree 0.
        degree: At most `LARGEST_DEGREE`.

    Returns:
        ``(degree + 1)²`` values by degree: 1 of degree 0, 3 of degree 1, and so on. Those of one
        degree l are scaled such that their squares add up to 1.

    Source:
        Schlegel and Frisch, Transformation between Cartesian and pure spherical harmonic
        Gaussians (1995); here divided by the square root of (2l + 1)/4π.
    """
    if not 0 <= degree <= LARGEST_DEGREE:
        raise ValueError(f"degree is {degree}, but must be 0 to {LARGEST_DEGREE}")
    length = vector.norm(dim=-1, keepdim=True).clamp_min(_SMALLEST_LENGTH)
    x, y, z = (vector / length).unbind(-1)
    # On the unit sphere 1 is x² + y² + z²; for the zero vector all of degree 1 and above vanish.
    norm = x * x + y * y + z * z
    parts = [torch.ones_like(x)]
    if degree >= 1:
        parts += [y, z, x]
    if degree >= 2:
        root = 3.0**0.5
        parts += [
            root * x * y,
            root * y * z,
            0.5 * (3.0 * z * z - norm),
            root * x * z,
            0.5 * root * (x * x - y * y),
        ]
    if degree >= 3:
        a, b, c = 0.625**0.5, 15.0**0.5, 0.375**0.5
        parts += [
            a * y * (3.0 * x * x - y * y),
            b * x * y * z,
            c * y * (5.0 * z * z - norm),
            0.5 * z * (5.0 * z * z - 3.0 * norm),
            c * x * (5.0 * z * z - norm),
            0.5 * b * z * (x * x - y * y),
            a * x * (x * x - 3.0 * y * y),
        ]
    if degree >= 4:
        a, b, c, d = 35.0**0.5, 17.5**0.5, 5.0**0.5, 2.5**0.5
        parts += [
            0.5 * a * x * y * (x * x - y * y),
            0.5 * b * y * z * (3.0 * x * x - y * y),
            0.5 * c * x * y * (7.0 * z * z - norm),
            0.5 * d * y * z * (7.0 * z * z - 3.0 * norm),
            0.125 * (35.0 * z**4 - 30.0 * z * z * norm + 3.0 * norm * norm),
            0.5 * d * x * z * (7.0 * z * z - 3.0 * norm),
            0.25 * c * (x * x - y * y) * (7.0 * z * z - norm),
            0.5 * b * x * z * (x * x - 3.0 * y * y),
            0.125 * a * (x * x * (x * x - 3.0 * y * y) - y * y * (3.0 * x * x - y * y)),
        ]
    return torch.stack(parts, dim=-1)
