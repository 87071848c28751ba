"""The network can hold what it sees: most samples of a composition are its one crystal."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import MatchTolerance, same
from matmill.generate.dataset import usable
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.generate.train import GeneratorSettings, train
from matmill.training.fit import FitSettings

HALF = 0.5


def fcc(a):
    return [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]


def box(a, c=None):
    return [[a, 0, 0], [0, a, 0], [0, 0, c or a]]


def hexagonal(a, c):
    return [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]


def rutile(u):
    first = [[0, 0, 0], [HALF] * 3, [u, u, 0], [1 - u, 1 - u, 0]]
    return [*first, [HALF + u, HALF - u, HALF], [HALF - u, HALF + u, HALF]]


def wurtzite(u):
    low, high = [1 / 3, 2 / 3], [2 / 3, 1 / 3]
    return [[*low, 0], [*high, HALF], [*low, u], [*high, HALF + u]]


ROCK_SALT = [[0, 0, 0], [HALF] * 3]
BLENDE = [[0, 0, 0], [0.25] * 3]
FLUORITE = [[0, 0, 0], [0.25] * 3, [0.75] * 3]
FACES = [[0, 0, 0], [HALF, HALF, 0], [HALF, 0, HALF], [0, HALF, HALF]]
PEROVSKITE = [[0, 0, 0], [HALF] * 3, *FACES[1:]]
NICKEL_ARSENIDE = [[0, 0, 0], [0, 0, HALF], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
# Lattice, sites, elements; the numbers are textbook facts in Å.
SIXTEEN = [
    (fcc(5.64), ROCK_SALT, [11, 17]),
    (fcc(4.21), ROCK_SALT, [12, 8]),
    (box(4.12), ROCK_SALT, [55, 17]),
    (box(2.88), ROCK_SALT, [28, 13]),
    (fcc(5.41), BLENDE, [30, 16]),
    (fcc(5.65), BLENDE, [31, 33]),
    (fcc(5.46), FLUORITE, [20, 9, 9]),
    (fcc(4.62), FLUORITE, [8, 3, 3]),
    (box(3.905), PEROVSKITE, [38, 22, 8, 8, 8]),
    (box(4.19), PEROVSKITE, [56, 40, 8, 8, 8]),
    (box(4.594, 2.959), rutile(0.305), [22, 22, 8, 8, 8, 8]),
    (box(4.737, 3.186), rutile(0.307), [50, 50, 8, 8, 8, 8]),
    (hexagonal(3.25, 5.207), wurtzite(0.382), [30, 30, 8, 8]),
    (hexagonal(3.189, 5.185), wurtzite(0.377), [31, 31, 7, 7]),
    (hexagonal(3.602, 5.009), NICKEL_ARSENIDE, [28, 28, 33, 33]),
    (box(3.75), FACES, [79, 29, 29, 29]),
]


@pytest.mark.slow
def test_overfitting_sixteen_small_crystals_finds_most_of_them_again(tmp_path):
    lattices, sites, elements = zip(*SIXTEEN, strict=True)
    few = usable(CrystalBatch.from_lists(list(lattices), list(sites), list(elements)), max_atoms=8)
    assert len(few) == 16
    many = few.select(torch.arange(16).repeat(24))
    settings = GeneratorSettings(
        size="tiny",
        n_tokens=400,
        fit=FitSettings(
            max_steps=3000,
            learning_rate=2e-3,
            warmup_steps=50,
            ema_decay=0.995,
            log_every_steps=100,
            precision="fp32",
            accelerator="cpu",
        ),
    )
    groups = torch.zeros(len(many), dtype=torch.int64)
    train(many, groups, settings=settings, folder=tmp_path, seed=0)
    generator = FlowGenerator.load(tmp_path / "generator.safetensors", precision="fp32")
    tolerance = MatchTolerance(ltol=0.3, stol=0.5, angle_tol=10.0)
    request = GenerationRequest(
        n=4 * 16, seeds=few, strength=1.0, screen=False, n_steps=30, guidance=1.0
    )
    made = generator.sample(request, torch.Generator().manual_seed(0))
    found = sum(same(made, k, few, k % 16, tolerance) for k in range(len(made)))
    assert found > 0.6 * len(made)
