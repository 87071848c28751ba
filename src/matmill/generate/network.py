"""The denoiser: a transformer over atom tokens and one lattice token.

Geometry enters only through pairs of atoms (minimum-image distances and the sines and cosines of
fractional differences), as attention bias and as pair values, so a common shift of all atoms
changes nothing and a rotation of the lattice is never seen.
"""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from matmill.errors import InputError
from matmill.generate.conditions import ConditionEncoder, Conditions
from matmill.generate.process import Velocity, centred
from matmill.generate.state import N_ELEMENTS, LatticeScale, NoisyState, time_features

_N_PAIR_FREQUENCIES = 8
_N_RBF = 16
_RBF_REACH = 3.0  # in units of (volume per atom)^(1/3)
_N_PAIR = 64
_OFFSETS = torch.tensor(
    [[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=torch.float32
)
_HOME = 13  # row of _OFFSETS that is (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Width, depth and heads; `SIZES` has the presets."""

    width: int
    n_blocks: int
    n_heads: int
    max_atoms: int = 64


SIZES = {
    "tiny": NetworkSize(width=96, n_blocks=4, n_heads=4),
    "S": NetworkSize(width=192, n_blocks=6, n_heads=6),
    "M": NetworkSize(width=256, n_blocks=8, n_heads=8),
    "L": NetworkSize(width=384, n_blocks=12, n_heads=12),
}


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What adapters add inside the network, from a condition vector; zero where nothing is asked.

    Attributes:
        vector: To the condition vector, ``(b, width)``.
        modulation: To the shared modulation of each block, ``(b, n_blocks, 6, width)``.
    """

    vector: Float[Tensor, "b d"]
    modulation: Float[Tensor, "b k 6 d"]

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(
            vector=self.vector + other.vector, modulation=self.modulation + other.modulation
        )


# From the condition vector ``(b, width)`` and the conditions; None changes nothing.
Adapt = Callable[[Tensor, Conditions], Changes | None]


class PairFeatures(nn.Module):
    """Pair embeddings of a noisy state, ``(b, n, n, 64)``, in float32 geometry."""

    def __init__(self) -> None:
        super().__init__()
        n_in = 6 * _N_PAIR_FREQUENCIES + _N_RBF + 6
        self.mix = nn.Sequential(nn.Linear(n_in, _N_PAIR), nn.SiLU())

    def forward(self, f: Tensor, y: Tensor, gram: Tensor) -> Tensor:
        """Args: sites ``(b, n, 3)``, lattice numbers ``(b, 6)``, metric in Å² ``(b, 3, 3)``."""
        return self.mix(pair_geometry(f, y, gram))


def pair_geometry(
    f: Float[Tensor, "b n 3"],
    y: Float[Tensor, "b 6"],
    gram: Float[Tensor, "b 3 3"],
    n_atoms: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b n n 70"]:
    """Return Fourier features of differences, radial features of distances, and the lattice.

    The diagonal holds the distance to the nearest image of the atom itself.

    Args:
        f: Sites.
        y: Lattice numbers.
        gram: Metric in Å².
        n_atoms: Atoms of each crystal, where some of the n places are empty.
    """
    b, n, _ = f.shape
    k = torch.arange(1, _N_PAIR_FREQUENCIES + 1, device=f.device, dtype=f.dtype)
    angles = (2 * math.pi * f[..., None] * k).flatten(2)
    sin, cos = angles.sin(), angles.cos()
    # Angle addition: n sines instead of n².
    sines = sin[:, :, None] * cos[:, None] - cos[:, :, None] * sin[:, None]
    cosines = cos[:, :, None] * cos[:, None] + sin[:, :, None] * sin[:, None]

    step = f[:, :, None] - f[:, None]
    step = step - torch.round(step)
    offsets = _OFFSETS.to(gram)
    og = offsets @ gram  # (b, 27, 3)
    oo = (og * offsets).sum(-1)
    dg = torch.einsum("bijx,bxy->bijy", step, gram)
    dd = (dg * step).sum(-1)
    square = dd[..., None] + 2 * torch.einsum("bijx,box->bijo", step, og) + oo[:, None, None]
    square = square.amin(-1)
    own = torch.cat([oo[:, :_HOME], oo[:, _HOME + 1 :]], dim=1).amin(1)
    eye = torch.eye(n, dtype=torch.bool, device=f.device)
    square = torch.where(eye, own[:, None, None], square).clamp_min(1e-8)
    count = n if n_atoms is None else n_atoms.to(gram)
    size = (gram.det().clamp_min(1e-6).sqrt() / count).pow(1 / 3)
    distance = square.sqrt() / size[:, None, None]
    centres = torch.linspace(0.0, _RBF_REACH, _N_RBF, device=f.device, dtype=f.dtype)
    width = _RBF_REACH / (_N_RBF - 1)
    radial = torch.exp(-0.5 * ((distance[..., None] - centres) / width).square())
    shape = y.clamp(-4, 4)[:, None, None].expand(b, n, n, 6)
    return torch.cat([sines, cosines, radial, shape], dim=-1)


class Block(nn.Module):
    """Attention with geometric bias and pair values, then a feed-forward layer; adaLN-single."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.pair_gate = nn.Linear(width, _N_PAIR)
        self.pair_out = nn.Linear(n_heads * _N_PAIR, width, bias=False)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        nn.init.zeros_(self.pair_gate.weight)
        nn.init.zeros_(self.pair_gate.bias)

    def forward(self, x: Tensor, pairs: Tensor, bias: Tensor, shared: Tensor) -> Tensor:
        """Args: tokens ``(b, n+1, d)``, pairs, bias per head, shared modulation ``(b, 6, d)``."""
        b, n_tokens, width = x.shape
        n = n_tokens - 1
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = (shared + self.modulation)[
            :, :, None
        ].unbind(1)
        h = F.layer_norm(x, (width,)) * (1 + scale_a) + shift_a
        q, k, v = (
            self.qkv(h).view(b, n_tokens, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + bias
        attention = scores.softmax(-1).to(v.dtype)
        mixed = (attention @ v).transpose(1, 2).reshape(b, n_tokens, width)
        # Values that depend on the pair tell a token in which direction its neighbours are.
        sent = pairs * (1 + self.pair_gate(h[:, :n]))[:, None]
        weights = attention[:, :, :n, :n].transpose(1, 2).reshape(b * n, self.n_heads, n)
        seen = (weights @ sent.reshape(b * n, n, _N_PAIR)).view(b, n, -1)
        mixed = mixed + F.pad(self.pair_out(seen), (0, 0, 0, 1))
        x = x + gate_a * self.out(mixed)
        h = F.layer_norm(x, (width,)) * (1 + scale_m) + shift_m
        return x + gate_m * self.down(F.silu(self.up(h)))


class Denoiser(nn.Module):
    """Maps a noisy state and its conditions to a `Velocity`.

    Args:
        size: Width, depth and heads.
        scale: Standardisation of the lattice numbers; saved with the weights.
        encoder: Turns conditions into a vector.
    """

    def __init__(self, size: NetworkSize, scale: LatticeScale, encoder: ConditionEncoder) -> None:
        super().__init__()
        d = size.width
        self.size = size
        self.is_centred = True  # False keeps the common drift of the sites, for comparisons
        self.register_buffer("scale_mean", scale.mean.clone())
        self.register_buffer("scale_std", scale.std.clone())
        self.encoder = encoder
        self.element = nn.Embedding(N_ELEMENTS + 1, d)
        self.clock = nn.Sequential(nn.Linear(66, d), nn.SiLU(), nn.Linear(d, d))
        self.lattice_in = nn.Sequential(nn.Linear(7, d), nn.SiLU(), nn.Linear(d, d))
        self.global_clock = nn.Sequential(nn.Linear(96, d), nn.SiLU(), nn.Linear(d, d))
        self.count = nn.Embedding(size.max_atoms + 1, d)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.pairs = PairFeatures()
        self.bias = nn.Linear(_N_PAIR, size.n_blocks * size.n_heads, bias=False)
        self.blocks = nn.ModuleList(Block(d, size.n_heads) for _ in range(size.n_blocks))
        self.last_modulation = nn.Linear(d, 2 * d)
        self.types_out = nn.Linear(d, N_ELEMENTS)
        self.sites_out = nn.Linear(d, 3, bias=False)
        self.lattice_out = nn.Linear(d, 6)
        for layer in (self.modulate[1], self.bias, self.last_modulation, self.lattice_out):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def scale(self) -> LatticeScale:
        """Standardisation of the lattice numbers."""
        mean, std = self.scale_mean, self.scale_std
        assert isinstance(mean, Tensor)
        assert isinstance(std, Tensor)
        return LatticeScale(mean=mean.double().cpu(), std=std.double().cpu())

    def compile_blocks(self, *, backend: str = "inductor") -> None:
        """Let torch fuse what lies between the matrix products of a block; names stay the same.

        Pays in long trainings only: the first step then takes about a minute of compiling, and so
        do the first evaluation without gradients and the first in another precision. One
        compilation serves crystals of every size.

        Raises:
            InputError: If there is no C++ compiler.
        """
        is_cpu = self.element.weight.device.type == "cpu"
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        if backend == "inductor" and is_cpu and compiler is None:
            raise InputError("Compiling needs a C++ compiler: install g++, or train without it.")
        for block in self.blocks:
            block.compile(dynamic=True, backend=backend)

    def gram(self, y: Float[Tensor, "b 6"], n: int) -> Float[Tensor, "b 3 3"]:
        """Return the metric tensor in Å², with lattices kept in a range where float32 is safe."""
        n_atoms = torch.full((len(y),), n, device=y.device)
        lattice = self.scale.decode(y.detach().clamp(-8, 8), n_atoms)
        return (lattice @ lattice.transpose(1, 2)).to(y.dtype)

    def forward(
        self, state: NoisyState, conditions: Conditions, adapt: Adapt | None = None
    ) -> Velocity:
        """Return velocities and element logits in float32."""
        z, f, y = state.crystals.z, state.crystals.f, state.crystals.y
        b, n = z.shape
        with torch.autocast(z.device.type, enabled=False):
            geometry = pair_geometry(f, y, self.gram(y, n))
        pairs = self.pairs.mix(geometry)
        bias = self.bias(pairs).permute(0, 3, 1, 2)
        bias = F.pad(bias, (0, 1, 0, 1)).view(b, len(self.blocks), -1, n + 1, n + 1)

        clocks = torch.cat(
            [
                time_features(state.type_clock),
                time_features(state.site_clock),
                state.free_types[..., None].to(y.dtype),
                state.free_sites[..., None].to(y.dtype),
            ],
            dim=-1,
        )
        atoms = self.element(z) + self.clock(clocks)
        log_n = torch.full((b, 1), math.log(n), device=y.device)
        cell = self.lattice_in(torch.cat([y.clamp(-6, 6), log_n], dim=1))
        x = torch.cat([atoms, cell[:, None].to(atoms.dtype)], dim=1)

        global_clocks = torch.stack(
            [state.type_clock.mean(1), state.site_clock.mean(1), state.lattice_clock], dim=1
        )
        c = self.global_clock(time_features(global_clocks).flatten(1))
        c = c + self.encoder(conditions) + self.count.weight[n]
        if state.keeps_symmetry:
            c = c + self.count.weight[0]  # no crystal has 0 atoms: the row tells the mode
        changes = adapt(c, conditions) if adapt is not None else None
        if changes is not None:
            c = c + changes.vector
        shared = self.modulate(c).view(b, 6, -1)
        for i, block in enumerate(self.blocks):
            own = shared if changes is None else shared + changes.modulation[:, i]
            x = block(x, pairs, bias[:, i], own)
        scale, shift = self.last_modulation(F.silu(c))[:, None].chunk(2, dim=-1)
        x = F.layer_norm(x, (x.shape[-1],)) * (1 + scale) + shift
        sites = self.sites_out(x[:, :n]).to(y.dtype)
        return Velocity(
            sites=centred(sites, state) if self.is_centred else sites,
            lattice=self.lattice_out(x[:, n]).to(y.dtype),
            logits=self.types_out(x[:, :n]).to(y.dtype),
        )
