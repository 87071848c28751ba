"""AMD of lattices whose distances are known in closed form (T-15, T-16)."""

import math

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.fingerprint import amd
from matmill.errors import InputError


def cubic(a, points, numbers=None):
    return CrystalBatch.from_lists(
        [[[a, 0, 0], [0, a, 0], [0, 0, a]]], [points], [numbers or [26] * len(points)]
    )


FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
ROCK_SALT = FCC + [[x + 0.5, y, z] for x, y, z in FCC]


def expect(values, spans):
    for (start, end), value in spans.items():
        torch.testing.assert_close(
            values[start - 1 : end], torch.full((end - start + 1,), value), rtol=1e-6, atol=1e-6
        )


def test_simple_cubic():
    root2, root3 = math.sqrt(2), math.sqrt(3)
    expect(
        amd(cubic(1.0, [[0, 0, 0]]), 27)[0],
        {(1, 6): 1.0, (7, 18): root2, (19, 26): root3, (27, 27): 2.0},
    )


def test_fcc_and_bcc():
    expect(amd(cubic(4.0, FCC))[0], {(1, 12): 8**0.5, (13, 18): 4.0, (19, 42): 24**0.5})
    bcc = amd(cubic(3.0, [[0, 0, 0], [0.5, 0.5, 0.5]]))[0]
    expect(bcc, {(1, 8): 6.75**0.5, (9, 14): 3.0, (15, 26): 18**0.5})


def test_rock_salt():
    values = amd(cubic(5.64, ROCK_SALT, [11] * 4 + [17] * 4))[0]
    expect(values, {(1, 6): 2.82, (7, 18): 2.82 * 2**0.5, (100, 100): 8.46})


def test_it_knows_nothing_of_elements():
    salt, oxide = (cubic(5.64, ROCK_SALT, [z] * 4 + [y] * 4) for z, y in ((11, 17), (12, 8)))
    torch.testing.assert_close(amd(salt), amd(oxide))


def test_published_distances():
    from pymatgen.core import Lattice, Structure

    from matmill.crystals.convert import from_structures

    def hexagonal(a, c, species, z):
        sites = [(1 / 3, 2 / 3, height) for height in z]
        return Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), species, sites)

    oxide = hexagonal(3.23735102, 5.22206130, ["Zn", "O"], (0.00059170, 0.37971830))
    nitride = hexagonal(3.18893040, 5.19235725, ["Ga", "N"], (0.99908371, 0.37591629))
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.338884), ["Zn", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)]
    )
    telluride = Structure.from_spacegroup(
        "R-3m",
        Lattice.hexagonal(4.41813045, 32.25729904),
        ["Bi", "Te", "Te"],
        [(0, 0, 0.39682977), (0, 0, 0.21680774), (0, 0, 0)],
    )
    values = amd(from_structures([oxide, salt, nitride, telluride]))
    distances = (values - values[0]).abs().amax(dim=1)
    expected = torch.tensor([0.0, 1.04163, 0.0968412, 3.23986])
    torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-5)


def test_no_crystals_and_bad_k():
    assert amd(CrystalBatch.empty(), 10).shape == (0, 10)
    with pytest.raises(InputError, match="at least 1"):
        amd(cubic(3.0, FCC), 0)
