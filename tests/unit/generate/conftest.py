"""A small untrained network and a handful of named prototypes to feed it."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.generate.conditions import SCALARS, ConditionEncoder
from matmill.generate.dataset import TrainingSet, usable
from matmill.generate.flow import FlowGenerator
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.train import vars_of


def prototypes() -> CrystalBatch:
    """Rock salt, caesium chloride, zinc blende, fcc, perovskite and rutile, as facts."""
    half = 0.5

    def fcc(a):
        return [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]

    def box(a, c=None):
        return [[a, 0, 0], [0, a, 0], [0, 0, c or a]]

    u = 0.305
    return CrystalBatch.from_lists(
        [fcc(5.64), box(4.12), fcc(5.41), fcc(3.61), box(3.905), box(4.594, 2.959)],
        [
            [[0, 0, 0], [half] * 3],
            [[0, 0, 0], [half] * 3],
            [[0, 0, 0], [0.25] * 3],
            [[0, 0, 0]],
            [[0, 0, 0], [half] * 3, [half, half, 0], [half, 0, half], [0, half, half]],
            [
                [0, 0, 0],
                [half] * 3,
                [u, u, 0],
                [1 - u, 1 - u, 0],
                [half + u, half - u, half],
                [half - u, half + u, half],
            ],
        ],
        [[11, 17], [55, 17], [30, 16], [29], [38, 22, 8, 8, 8], [22, 22, 8, 8, 8, 8]],
        ids=["NaCl", "CsCl", "ZnS", "Cu", "SrTiO3", "TiO2"],
        properties={"band_gap_ev": [5.0, 5.0, 2.1, 0.0, 1.8, 1.8]},
    )


@pytest.fixture(scope="session")
def space_groups() -> torch.Tensor:
    return torch.tensor([225, 221, 216, 225, 221, 136])


@pytest.fixture(scope="session")
def crystals() -> CrystalBatch:
    return usable(prototypes(), max_atoms=20)


@pytest.fixture(scope="session")
def training_set(crystals, space_groups) -> TrainingSet:
    return TrainingSet(crystals, space_groups)


@pytest.fixture
def denoiser(training_set) -> Denoiser:
    """A network whose zero-initialised layers are stirred, so that every input can matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = SIZES["tiny"]
        net = Denoiser(size, training_set.scale, ConditionEncoder(size.width, training_set.schema))
        for parameter in net.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval()


@pytest.fixture
def generator(denoiser, training_set) -> FlowGenerator:
    shapes = torch.cat([training_set.shapes, training_set.shape_counts[:, None]], dim=1)
    card = {
        "shapes": shapes.tolist(),
        "elements": training_set.elements.tolist(),
        "conditions": {name: vars_of(training_set.schema[name]) for name in SCALARS},
        "max_atoms": 20,
    }
    return FlowGenerator(denoiser, card, precision="fp32")
