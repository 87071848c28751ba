"""Which parts of a training crystal are noisy, and how much: the law of the clocks.

One network learns every task, because the elements, the sites and the lattice have clocks of
their own: at clock 1 a part is given, so "composition known" or "these atoms fixed" are just
corners of the same cube.
"""

import torch
from torch import Tensor

# Shares of de novo, independent clocks, known composition, known geometry; the rest is inpainting.
TASK_SHARES = (0.40, 0.25, 0.20, 0.05)


def draw_clocks(
    b: int,
    n: int,
    rng: torch.Generator,
    *,
    shares: tuple[float, ...] = TASK_SHARES,
    power: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw clocks for training.

    Args:
        b: Number of crystals.
        n: Atoms in each.
        rng: Source of randomness; the clocks are made on its device.
        shares: Of the tasks, as `TASK_SHARES`.
        power: Clocks are ``1 - u**power`` of a uniform u: above 1 more of them are near the end.

    Returns:
        Clocks of types ``(b, n)``, sites ``(b, n)`` and lattices ``(b,)``, in [0, 1].

    Source:
        MCFlow (2026), independent times for types and geometry; the shares are ours.
    """
    u = torch.rand(6, b, generator=rng, device=rng.device)
    if power != 1.0:
        u[1:3] = 1.0 - u[1:3] ** power
    edges = torch.tensor(shares, device=rng.device).cumsum(0)
    task = torch.bucketize(u[0], edges)  # 0 de novo, 1 independent, 2 CSP, 3 decoration, 4 inpaint
    structure = u[1]
    types = torch.where(task == 1, u[2], structure)
    types = torch.where(task == 2, 1.0, types)
    structure = torch.where(task == 3, 1.0, structure)
    type_clock = types[:, None].repeat(1, n)
    site_clock = structure[:, None].repeat(1, n)
    lattice_clock = structure.clone()
    inpaint = task == 4
    share = 0.2 + 0.6 * u[3]
    fixed = torch.rand(b, n, generator=rng, device=rng.device) < share[:, None]
    fixed &= inpaint[:, None] & (n > 1)
    # An inpainting crystal with every atom fixed has nothing to learn from: free its first atom.
    all_fixed = fixed.all(1)
    fixed[:, 0] &= ~all_fixed
    type_clock = torch.where(fixed, 1.0, type_clock)
    site_clock = torch.where(fixed, 1.0, site_clock)
    lattice_clock = torch.where(inpaint & (u[4] < 0.5), 1.0, lattice_clock)
    return type_clock, site_clock, lattice_clock
