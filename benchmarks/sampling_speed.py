"""Sampling speed of the flow beside a 1000-step predictor-corrector sampler, in one run.

    python benchmarks/sampling_speed.py --threads 2

The reference is DiffCSP's decoder (Jiao et al., Crystal Structure Prediction by Joint Equivariant
Diffusion, 2023) written anew from its equations: hidden size 512, six layers, 128 frequencies,
fully connected edges with self loops, layer norm, two evaluations a step. Random weights, since
speed does not depend on them; a few steps are timed and scaled to 1000. Crystals of 10 atoms.
"""

import argparse
import json
import math
import time

import torch
from torch import nn

from matmill.generate.protocol import GenerationRequest, load_generator

HIDDEN, LAYERS, FREQUENCIES, STEPS = 512, 6, 128, 1000


class Layer(nn.Module):
    """One message-passing layer: edges see both ends, the metric and the displacement."""

    def __init__(self):
        super().__init__()
        n_in = 2 * HIDDEN + 9 + 6 * FREQUENCIES
        self.norm = nn.LayerNorm(HIDDEN)
        self.edge = nn.Sequential(
            nn.Linear(n_in, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()
        )
        self.node = nn.Sequential(
            nn.Linear(2 * HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()
        )

    def forward(self, h, metric, displacement):
        b, n, _ = h.shape
        x = self.norm(h)
        waves = 2 * math.pi * displacement[..., None] * torch.arange(FREQUENCIES)
        waves = torch.cat([waves.sin(), waves.cos()], dim=-1).flatten(3)
        edges = torch.cat(
            [
                x[:, :, None].expand(b, n, n, HIDDEN),
                x[:, None].expand(b, n, n, HIDDEN),
                metric[:, None, None].expand(b, n, n, 9),
                waves,
            ],
            dim=-1,
        )
        mean = self.edge(edges).mean(2)
        return h + self.node(torch.cat([x, mean], dim=-1))


class Decoder(nn.Module):
    """Scores of sites and lattice for a noisy crystal of known composition."""

    def __init__(self):
        super().__init__()
        self.element = nn.Embedding(101, HIDDEN)
        self.mix = nn.Linear(HIDDEN + 256, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(HIDDEN)
        self.sites = nn.Linear(HIDDEN, 3, bias=False)
        self.cell = nn.Linear(HIDDEN, 9, bias=False)

    def forward(self, z, f, lattice, time_code):
        b, n = z.shape
        h = self.mix(torch.cat([self.element(z), time_code.expand(b, n, 256)], dim=-1))
        metric = (lattice @ lattice.transpose(1, 2)).flatten(1)
        displacement = torch.remainder(f[:, None] - f[:, :, None], 1.0)
        for layer in self.layers:
            h = layer(h, metric, displacement)
        h = self.norm(h)
        return self.sites(h), self.cell(h.mean(1)).view(b, 3, 3) @ lattice


@torch.no_grad()
def reference_seconds_per_crystal(n_atoms, batch, timed_steps):
    """Time corrector and predictor of a few steps; return seconds a crystal for 1000 of them."""
    torch.manual_seed(0)
    net = Decoder().eval()
    z = torch.randint(1, 90, (batch, n_atoms))
    f, lattice = torch.rand(batch, n_atoms, 3), torch.randn(batch, 3, 3) + 4 * torch.eye(3)
    code = torch.randn(256)

    def step(f, lattice):
        score, _ = net(z, f, lattice, code)
        f = (f + 1e-5 * score + 4e-3 * torch.randn_like(f)) % 1.0
        score, cell = net(z, f, lattice, code)
        return (f + 1e-4 * score + 1e-3 * torch.randn_like(f)) % 1.0, lattice - 1e-3 * cell

    f, lattice = step(f, lattice)
    best = math.inf
    for _ in range(timed_steps):
        start = time.perf_counter()
        f, lattice = step(f, lattice)
        best = min(best, time.perf_counter() - start)
    n_parameters = sum(p.numel() for p in net.parameters())
    return best * STEPS / batch, n_parameters


def flow_seconds_per_crystal(generator, n_atoms, n, steps, repeats=3):
    """Return the best of a few whole runs of the product's own sampler."""
    request = GenerationRequest(n=n, n_atoms=(n_atoms, n_atoms), n_steps=steps)
    best = math.inf
    for repeat in range(repeats):
        start = time.perf_counter()
        generator.sample(request, torch.Generator().manual_seed(repeat))
        best = min(best, time.perf_counter() - start)
    return best / n


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-atoms", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-n", type=int, default=128, help="crystals a timed run of the flow")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reference, n_parameters = reference_seconds_per_crystal(arguments.n_atoms, arguments.batch, 3)
    generator = load_generator("flow")
    rows = {}
    for steps in (30, 50):
        own = flow_seconds_per_crystal(generator, arguments.n_atoms, arguments.n, steps)
        rows[steps] = own
        print(
            f"flow, {steps} steps: {1 / own:.1f} crystals/s; 1000-step predictor-corrector: "
            f"{1 / reference:.4f} crystals/s; ratio {reference / own:.0f}"
        )
    print(
        json.dumps(
            {
                "threads": arguments.threads,
                "n_atoms": arguments.n_atoms,
                "reference_seconds_per_crystal": reference,
                "reference_parameters": n_parameters,
                "flow_seconds_per_crystal": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
