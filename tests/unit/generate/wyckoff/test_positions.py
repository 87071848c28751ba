"""Wyckoff positions: the group acts on every one of them as the tables say."""

import pytest
import spglib
import torch

from matmill.crystals.wyckoff_letters import closure
from matmill.errors import InputError
from matmill.generate.wyckoff.derive import smith, wyckoff_pieces
from matmill.generate.wyckoff.positions import operations, positions, swaps
from matmill.generate.wyckoff.templates import Template


def images(space_group, draws):
    """Return the images of a point on each position, padded to three free directions."""
    rotations, shifts = operations(space_group)
    own = positions(space_group).values()
    points = torch.stack([p.anchor + draws[: p.n_free] @ p.basis.double() for p in own])
    moved = torch.einsum("gij,pj->pgi", rotations.double(), points) + shifts
    return points, moved


def test_there_are_1731_positions_in_230_groups():
    counts = {g: len(positions(g)) for g in range(1, 231)}
    assert sum(counts.values()) == 1731
    known = {1: 1, 2: 9, 14: 5, 47: 27, 62: 4, 194: 12, 221: 14, 225: 12, 227: 9, 230: 8}
    assert {g: counts[g] for g in known} == known


def test_letters_are_those_of_the_tables():
    # International Tables, multiplicities in the conventional cell over the centring.
    in_225 = {k: p.multiplicity * 4 for k, p in positions(225).items()}
    assert in_225 == dict(
        zip("abcdefghijkl", (4, 4, 8, 24, 24, 32, 48, 48, 48, 96, 96, 192), strict=True)
    )
    assert list(positions(47))[-1] == "A"
    assert positions(2)["h"].anchor.tolist() == [0.5, 0.5, 0.5]
    assert positions(227)["a"].anchor.tolist() == [0.125] * 3  # origin at the centre of inversion


@pytest.mark.parametrize("first", range(1, 231, 46))
def test_every_orbit_is_closed_and_as_large_as_stated(first):
    draws = torch.tensor([0.1371, 0.2719, 0.4143], dtype=torch.float64)
    for space_group in range(first, first + 46):
        rotations, shifts = operations(space_group)
        points, moved = images(space_group, draws)
        stays = moved - points[:, None]
        n_fixing = ((stays - stays.round()).abs() < 1e-6).all(-1).sum(1)
        expected = torch.tensor([p.multiplicity for p in positions(space_group).values()])
        assert torch.equal(n_fixing * expected, torch.full_like(expected, len(rotations)))
        # Moving the orbit by any operation gives the orbit again.
        twice = torch.einsum("hij,pgj->phgi", rotations.double(), moved) + shifts[:, None]
        some = twice[:, -1:, :, None] - moved[:, None, None]
        assert ((some - some.round()).abs() < 1e-6).all(-1).any(-1).all()


def test_the_operations_are_a_group():
    for space_group in (1, 5, 43, 122, 148, 167, 203, 220, 227, 230):
        rotations, shifts = operations(space_group)
        products = torch.einsum("aij,bjk->abik", rotations, rotations)
        moved = torch.einsum("aij,bj->abi", rotations.double(), shifts) + shifts[:, None]
        same = (products[:, :, None] == rotations).all((-1, -2))
        off = moved[:, :, None] - shifts
        assert (same & ((off - off.round()).abs() < 1e-9).all(-1)).sum(-1).eq(1).all()
        assert torch.equal(rotations[0], torch.eye(3, dtype=torch.int64))


@pytest.mark.parametrize("space_group", [5, 15, 62, 82, 122, 146, 167, 186, 216, 225, 227])
def test_spglib_finds_group_and_letter_of_a_crystal_on_each_position(
    space_group, build, monkeypatch
):
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)
    general = list(positions(space_group))[-1]
    names = list(positions(space_group))
    every = swaps(space_group).tolist()
    for index, letter in enumerate(names):
        crystal = build(
            Template(space_group=space_group, letters=(letter, general), elements=(8, 26)), seed=3
        )
        cell = (
            crystal.lattice[0].numpy(),
            crystal.frac_coords.numpy(),
            crystal.atomic_numbers.numpy(),
        )
        data = spglib.get_symmetry_dataset(cell, symprec=1e-4)
        assert data is not None
        assert data.number == space_group
        at = crystal.atomic_numbers.tolist().index(8)
        # spglib may choose another of the equivalent origins.
        assert data.wyckoffs[at] in {names[row[index]] for row in every}


def test_the_table_is_what_the_operations_give():
    for space_group in (2, 12, 62, 146, 227):
        rotations, shifts = operations(space_group)
        classes = wyckoff_pieces(rotations.numpy(), shifts.numpy())
        ours = sorted((p.multiplicity, p.n_free) for p in positions(space_group).values())
        sizes = [(len(rotations) // int(c[0].stabiliser.sum()), len(c[0].basis)) for c in classes]
        assert sorted(sizes) == ours


def test_swaps_are_groups_that_keep_multiplicities():
    # P-1: the eight centres of inversion are the points of an affine space over two elements.
    assert len(swaps(2)) == 1344
    assert len(swaps(225)) == 2
    assert len(swaps(230)) == 1
    for space_group in range(1, 231):
        rows = swaps(space_group)
        own = list(positions(space_group).values())
        sizes = torch.tensor([10 * p.multiplicity + p.n_free for p in own])
        assert torch.equal(rows[0], torch.arange(len(own)))
        assert torch.equal(sizes[rows], sizes.expand_as(rows))
    assert closure([(1, 2, 0)], 3) == {(0, 1, 2), (1, 2, 0), (2, 0, 1)}


def test_smith_form():
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        matrix = torch.randint(-3, 4, (6, 3), generator=rng).numpy()
        left, diagonal, right = smith(matrix)
        product = torch.tensor(left @ matrix @ right)
        assert torch.equal(product[:3], torch.diag(torch.tensor(diagonal)))
        assert not product[3:].any()
        for change in (left, right):
            assert abs(round(float(torch.linalg.det(torch.tensor(change).double())))) == 1


def test_an_unknown_group_is_refused():
    with pytest.raises(InputError, match="from 1 to 230"):
        positions(231)
    with pytest.raises(InputError, match="from 1 to 230"):
        operations(0)
