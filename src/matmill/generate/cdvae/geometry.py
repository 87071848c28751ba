"""What the networks see of a crystal: pairs of atoms, in the frame of the symmetric cell.

A common shift of the sites changes no difference, a rotation of the cell changes no metric, and
the order of the atoms is the order of the rows: nothing else is looked at.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from matmill.generate.network import Block, pair_geometry
from matmill.generate.state import LatticeScale

_OFFSETS = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 0.0, 1.0])])
_N_GEOMETRY, _N_PAIR = 70, 64  # of `pair_geometry`, and as `Block` takes pairs
_NEVER = -1e4  # attention to an empty place; exp of it is 0 in every precision


def cells(scale: LatticeScale, y: Float[Tensor, "b 6"], n_atoms: Int[Tensor, " b"]) -> Tensor:
    """Return symmetric lattices in Å, ``(b, 3, 3)``, in a range where float32 is safe."""
    return scale.decode(y.detach().clamp(-8, 8), n_atoms).to(y.dtype)


def nearest_image(
    step: Float[Tensor, "b n 3"], lattice: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b n 3"]:
    """Return the shortest Cartesian vector, in Å, of fractional steps; exact in reduced cells."""
    step = step - torch.round(step)
    images = (step[:, :, None] + _OFFSETS.to(step)) @ lattice[:, None]
    best = images.square().sum(-1).argmin(-1)
    return images.gather(2, best[..., None, None].expand(-1, -1, 1, 3))[:, :, 0]


class Backbone(nn.Module):
    """Attention over atoms and one token for the cell: the flow's layers, with empty places.

    Args:
        width: Of the tokens.
        n_heads: Of the attention.
        n_blocks: Layers.
    """

    def __init__(self, width: int, n_heads: int, n_blocks: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.mix = nn.Sequential(nn.Linear(_N_GEOMETRY, _N_PAIR), nn.SiLU())
        self.bias = nn.Linear(_N_PAIR, n_blocks * n_heads, bias=False)
        self.cell = nn.Sequential(nn.Linear(7, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(n_blocks))

    def forward(
        self,
        atoms: Float[Tensor, "b n d"],
        f: Float[Tensor, "b n 3"],
        y: Float[Tensor, "b 6"],
        lattice: Float[Tensor, "b 3 3"],
        is_atom: Bool[Tensor, "b n"],
        shared: Float[Tensor, "b 6 d"],
    ) -> Float[Tensor, "b m d"]:
        """Return tokens of the atoms, then of the cell, normalised."""
        b, n, width = atoms.shape
        with torch.autocast(f.device.type, enabled=False):
            gram = lattice @ lattice.transpose(1, 2)
            geometry = pair_geometry(f, y, gram, is_atom.sum(1).clamp_min(1))
        pairs = self.mix(geometry)
        bias = self.bias(pairs).permute(0, 3, 1, 2)
        bias = F.pad(bias, (0, 1, 0, 1)).view(b, len(self.blocks), -1, n + 1, n + 1)
        bias = bias.masked_fill(~F.pad(is_atom, (0, 1), value=True)[:, None, None, None], _NEVER)
        log_n = is_atom.sum(1, keepdim=True).clamp_min(1).log().to(y.dtype)
        cell = self.cell(torch.cat([y.clamp(-6, 6), log_n], dim=1))
        x = torch.cat([atoms, cell[:, None].to(atoms.dtype)], dim=1)
        for i, block in enumerate(self.blocks):
            x = block(x, pairs, bias[:, i], shared)
        return F.layer_norm(x, (width,))
