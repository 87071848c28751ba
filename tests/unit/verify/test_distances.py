"""Distances by name against T-16, their own definitions and crystals that have no embedding."""

import numpy as np
import pytest
import torch
from crystals_for_tests import prototypes
from hypothesis import given, settings

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures, to_structure
from matmill.errors import UnknownNameError
from matmill.testing.strategies import batches
from matmill.verify.distances import KINDS, distances, embed, normalised, pairwise


@pytest.fixture(scope="module")
def four():
    """ZnO wurtzite and rock salt, GaN wurtzite, Bi2Te3: conventional cells of T-16."""
    from pymatgen.core import Lattice, Structure

    def hexagonal(a, c, species, z):
        sites = [(1 / 3, 2 / 3, height) for height in z]
        return Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), species, sites)

    return from_structures(
        [
            hexagonal(3.23735102, 5.22206130, ["Zn", "O"], (0.00059170, 0.37971830)),
            Structure.from_spacegroup(
                "Fm-3m", Lattice.cubic(4.338884), ["Zn", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)]
            ),
            hexagonal(3.18893040, 5.19235725, ["Ga", "N"], (0.99908371, 0.37591629)),
            Structure.from_spacegroup(
                "R-3m",
                Lattice.hexagonal(4.41813045, 32.25729904),
                ["Bi", "Te", "Te"],
                [(0, 0, 0.39682977), (0, 0, 0.21680774), (0, 0, 0)],
            ),
        ]
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("smat", [0, 1, 1, 1]),
        ("comp", [0, 0, 1, 1]),
        ("wyckoff", [0, 1, 0, 1]),
        ("magpie", [0, 0, 629.78, 1069.57]),
        ("amd", [0, 1.04163, 0.0968412, 3.23986]),
        ("pdd", [0, 1.04163, 0.0968412, 3.27607]),
        ("elmd", [0, 0, 7.0, 10.7]),
    ],
)
def test_published_distances(four, kind, expected):
    found = pairwise(four, kind=kind)[0]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_blend_is_made_of_its_two_parts(four):
    blend = pairwise(four, kind="elmd+amd")
    first, second = (pairwise(four, kind=kind, scaled=True) for kind in ("elmd", "amd"))
    torch.testing.assert_close(blend, 0.7763 * first + 0.2236 * second, atol=2e-4, rtol=0.0)
    # GaN: 0.7763 * 7/8 + 0.2236 * 0.0968412/1.0968412, by hand.
    assert float(blend[0, 2]) == pytest.approx(0.7763 * 0.875 + 0.2236 * 0.0882911, abs=2e-4)


def test_scaled_distances_lie_between_0_and_1(four):
    for kind in KINDS:
        found = pairwise(four, kind=kind, scaled=True)
        assert float(found.min()) >= 0.0
        assert float(found.max()) <= 1.0
        assert float(found.diagonal().max()) < 1e-9
        torch.testing.assert_close(found, found.T, atol=1e-9, rtol=0.0)
    assert normalised(torch.tensor([0.0, 1.0, 3.0])).tolist() == [0.0, 0.5, 0.75]


@settings(max_examples=15)
@given(batches(max_crystals=3, max_atoms=4, min_distance=0.7))
def test_a_supercell_is_the_same_crystal(batch):
    larger = from_structures([to_structure(batch, i) * (2, 1, 1) for i in range(len(batch))])
    for kind in ("amd", "elmd", "elmd+amd", "magpie", "comp"):
        found = pairwise(batch, larger, kind=kind, scaled=True, k=30)
        assert float(found.diagonal().max()) < 1e-9, kind
    assert float(pairwise(batch, larger, kind="pdd", k=30).diagonal().max()) < 1e-4


def test_pieces_are_rows_of_the_whole():
    batch = prototypes()
    for kind in KINDS:
        embedding = embed(batch, kind, k=20)
        whole = distances(embedding, embedding)
        part = distances(embedding, embedding, rows=slice(2, 5))
        torch.testing.assert_close(part, whole[2:5])


def broken_ones():
    """Not a number, a masked atom, no cell, an element beyond every scale."""
    return CrystalBatch.from_lists(
        [np.full((3, 3), np.nan), 4 * np.eye(3), 1e-4 * np.eye(3), 4 * np.eye(3)],
        [[[0, 0, 0]]] * 4,
        [[11], [0], [11], [110]],
    )


def test_what_cannot_be_embedded_has_no_distance():
    salt = prototypes().select([0])
    batch = concatenate([salt, broken_ones(), salt])
    for kind in KINDS:
        embedding = embed(batch, kind, k=10)
        expected = [True, False, False, False, kind not in ("elmd", "elmd+amd", "magpie"), True]
        assert embedding.ok.tolist() == expected, kind
        found = distances(embedding, embedding)
        ok = embedding.ok
        assert torch.isfinite(found[ok][:, ok]).all()
        assert torch.isnan(found[~ok]).all()
        assert torch.isnan(found[:, ~ok]).all()
        assert float(found[0, 5]) < 1e-9


def test_cells_that_would_be_searched_for_ever_are_left_out():
    """Flat as a sheet, long as a thread, and a cell that is only skewed, which is fine."""
    sheet = np.diag([400.0, 400.0, 1e-5])
    thread = np.diag([2.0, 2.0, 600.0])
    skewed = np.array([[4.0, 0, 0], [80.0, 4.0, 0], [0, 0, 4.0]])
    batch = CrystalBatch.from_lists([sheet, thread, skewed], [[[0, 0, 0]]] * 3, [[26]] * 3)
    assert embed(batch, "amd", k=10).ok.tolist() == [False, False, True]
    cube = CrystalBatch.from_lists([4.0 * np.eye(3)], [[[0, 0, 0]]], [[26]])
    assert float(pairwise(batch.select([2]), cube, kind="pdd", k=30)) < 1e-9


def test_no_crystals_and_unknown_names():
    empty = CrystalBatch.empty()
    for kind in KINDS:
        assert pairwise(empty, kind=kind).shape == (0, 0)
        assert pairwise(prototypes(), empty, kind=kind, k=5).shape == (9, 0)
    with pytest.raises(UnknownNameError, match="soap"):
        embed(empty, "soap")
    with pytest.raises(UnknownNameError, match="other set"):
        distances(embed(empty, "amd"), embed(empty, "pdd"))
