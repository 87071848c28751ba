"""The decoder: a noisy crystal and its latent in, the way to the clean sites and the elements out.

It stands in for GemNet: attention over all pairs of atoms, in the frame of the symmetric cell,
which no rotation of the crystal changes. The layers are those of the flow, whose velocity is the
same quantity: the way from noise to the sites. So a trained flow can lend them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from matmill.errors import DataError
from matmill.generate.cdvae.geometry import Backbone
from matmill.generate.cdvae.noise import centred, lost_share, reach
from matmill.generate.cdvae.settings import CdvaeSize
from matmill.generate.conditions import Conditions
from matmill.generate.network import Denoiser
from matmill.generate.state import N_ELEMENTS, time_features

_MOST_ATOMS = 64
# Names of the flow's parts where the decoder's differ.
_PLACES = {
    "pairs.mix.": "backbone.mix.",
    "bias.": "backbone.bias.",
    "lattice_in.": "backbone.cell.",
    "blocks.": "backbone.blocks.",
}


class Decoder(nn.Module):
    """Steps to the clean sites and element logits of noisy crystals.

    Args:
        size: Widths and depth.
    """

    def __init__(self, size: CdvaeSize) -> None:
        super().__init__()
        d = size.decoder_width
        self.element = nn.Embedding(N_ELEMENTS + 1, d)
        self.clock = nn.Sequential(nn.Linear(66, d), nn.SiLU(), nn.Linear(d, d))
        self.global_clock = nn.Sequential(nn.Linear(96, d), nn.SiLU(), nn.Linear(d, d))
        self.count = nn.Embedding(_MOST_ATOMS + 1, d)
        self.latent = nn.Linear(size.latent, d)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.backbone = Backbone(d, size.decoder_heads, size.decoder_blocks)
        self.last_modulation = nn.Linear(d, 2 * d)
        self.sites_out = nn.Linear(d, 3, bias=False)
        self.types_out = nn.Linear(d, N_ELEMENTS)
        for layer in (self.modulate[1], self.last_modulation):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # In a long cell a fractional step is long: begin near none.
        nn.init.normal_(self.sites_out.weight, std=1e-3)

    def forward(
        self,
        latent: Float[Tensor, "b k"],
        z: Int[Tensor, "b n"],
        f: Float[Tensor, "b n 3"],
        y: Float[Tensor, "b 6"],
        lattice: Float[Tensor, "b 3 3"],
        is_atom: Bool[Tensor, "b n"],
        level: Float[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n e"]]:
        """Return the way to the clean sites in Å over its expected size, and element logits.

        Both are float32; see `displacement` for the way in Å.

        Args:
            latent: With the conditions in it.
            z: Noisy elements.
            f: Noisy sites.
            y: Lattice numbers.
            lattice: The cells that they stand for, in Å.
            is_atom: Places that hold an atom.
            level: Noise of the sites in Å.
        """
        b, n = z.shape
        time = 1 - lost_share(level, lattice)  # the flow's clock at as much noise
        one = torch.ones_like(time)
        flags = torch.stack([0 * one, one], dim=1)  # elements given, sites free
        clocks = torch.cat([time_features(one), time_features(time), flags], dim=1)
        atoms = self.element(z) + self.clock(clocks)[:, None].expand(b, n, -1)
        clock = time_features(torch.stack([one, time, time], dim=1)).flatten(1)
        c = self.global_clock(clock) + self.count(is_atom.sum(1)) + self.latent(latent)
        shared = self.modulate(c).view(b, 6, -1)
        tokens = self.backbone(atoms, f, y, lattice, is_atom, shared)[:, :-1]
        scale, shift = self.last_modulation(F.silu(c))[:, None].chunk(2, dim=-1)
        x = tokens * (1 + scale) + shift
        steps = self.sites_out(x).float() @ (lattice / reach(lattice)[:, None, None])
        return centred(steps, is_atom), self.types_out(x).float()

    def displacement(
        self,
        steps: Float[Tensor, "b n 3"],
        level: Float[Tensor, " b"],
        lattice: Float[Tensor, "b 3 3"],
    ) -> Float[Tensor, "b n 3"]:
        """Return the way to the clean sites in Å."""
        return steps * (lost_share(level, lattice) * reach(lattice))[:, None, None]

    @torch.no_grad()
    def take_from(self, flow: Denoiser) -> None:
        """Begin with the layers of a trained flow, so that it answers as that does at first.

        Raises:
            DataError: If its width or depth is another.
        """
        own = self.state_dict()
        for name, tensor in flow.state_dict().items():
            head = next((old for old in _PLACES if name.startswith(old)), "")
            place = _PLACES.get(head, "") + name.removeprefix(head)
            if place not in own:
                continue  # conditions, and the flow's own lattice
            if own[place].shape != tensor.shape:
                raise DataError(
                    f"The flow's '{name}' has shape {tuple(tensor.shape)}, the decoder's "
                    f"{tuple(own[place].shape)}: give the decoder its width, heads and blocks."
                )
            own[place] = tensor
        self.load_state_dict(own)
        # Nothing is asked of the flow; the latent adds nothing until it has learnt to.
        nothing = flow.encoder(Conditions.none(1))[0]
        last = self.global_clock[2]
        assert isinstance(last, nn.Linear)
        last.bias += nothing
        nn.init.zeros_(self.latent.weight)
        nn.init.zeros_(self.latent.bias)
