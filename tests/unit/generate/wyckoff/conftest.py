"""Crystals of known templates, and a small model that was never trained."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.generate.wyckoff.memory import TemplateMemory
from matmill.generate.wyckoff.network import WyckoffNetwork, WyckoffSettings
from matmill.generate.wyckoff.positions import operations, positions
from matmill.generate.wyckoff.sampler import WyckoffModel
from matmill.generate.wyckoff.templates import Template
from matmill.randomness import child


def crystal_of(template, seed=0):
    """Return a crystal of a template with random free coordinates in a random lattice."""
    rng = child(seed, "crystal", template.space_group, *template.letters)
    rotations, shifts = operations(template.space_group)
    metric = torch.randn(3, 3, generator=rng, dtype=torch.float64) * 0.25 + torch.eye(3)
    metric = metric @ metric.T
    turns = rotations.double()
    metric = (turns.transpose(1, 2) @ metric @ turns).mean(0)
    lattice = torch.linalg.cholesky(metric)
    lattice = lattice * (5000.0 / torch.linalg.det(lattice).abs()) ** (1 / 3)
    sites, numbers = [], []
    for letter, z in zip(template.letters, template.elements, strict=True):
        position = positions(template.space_group)[letter]
        draw = torch.rand(position.n_free, generator=rng, dtype=torch.float64)
        point = position.anchor + draw @ position.basis.double()
        images = ((turns @ point + shifts) * 1e6).round().remainder(1e6) / 1e6
        images = images.unique(dim=0)
        assert len(images) == position.multiplicity
        sites.append(images)
        numbers += [z] * len(images)
    return CrystalBatch(
        lattice=lattice[None],
        frac_coords=torch.cat(sites),
        atomic_numbers=torch.tensor(numbers),
        n_atoms=torch.tensor([len(numbers)]),
    )


ROCK_SALT = Template(space_group=225, letters=("a", "b"), elements=(11, 17))
PEROVSKITE = Template(space_group=221, letters=("a", "b", "c"), elements=(38, 22, 8))
FLUORITE = Template(space_group=225, letters=("a", "c"), elements=(20, 9))
WURTZITE = Template(space_group=186, letters=("b", "b"), elements=(30, 16))
RUTILE = Template(space_group=136, letters=("a", "f"), elements=(22, 8))


@pytest.fixture(scope="session")
def build():
    """The function that makes a crystal of a template."""
    return crystal_of


@pytest.fixture(scope="session")
def known():
    """Five well-known templates."""
    return [ROCK_SALT, PEROVSKITE, FLUORITE, WURTZITE, RUTILE]


@pytest.fixture(scope="session")
def untrained(known):
    """A small model with random weights and a memory of five crystals."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = WyckoffNetwork(WyckoffSettings(width=16, depth=1, heads=2))
        memory = TemplateMemory.of(known, torch.zeros(len(known)))
    return WyckoffModel(network, memory, {"recalled_share": 0.5, "network_power": 0.1})
