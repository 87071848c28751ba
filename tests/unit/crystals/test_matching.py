"""Test vectors T-1 to T-4 and T-8 of the matcher."""

import numpy as np
import pytest

from matmill.crystals.convert import from_structures
from matmill.crystals.matching import CSP_TOLERANCE, Matcher, MatchTolerance, rms, same


def crystal(group, cell, species, sites):
    from pymatgen.core import Lattice, Structure

    lengths, angles = cell[:3], cell[3:] or (90, 90, 90)
    lattice = Lattice.from_parameters(*lengths, *angles)
    return Structure.from_spacegroup(group, lattice, species, sites)


def cubic(group, a, species, sites):
    return crystal(group, (a, a, a), species, sites)


def rock_salt(a, species=("Na", "Cl")):
    return cubic("Fm-3m", a, list(species), [(0, 0, 0), (0.5, 0.5, 0.5)])


def wurtzite(a, c, u, species):
    sites = [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, u)]
    return crystal("P6_3mc", (a, a, c, 90, 90, 120), species, sites)


def verdicts(a, b, tolerance=None):
    pair = Matcher(from_structures([a, b]), tolerance)
    return pair.same(0, 1), pair.same(1, 0)


@pytest.mark.parametrize("change", ["primitive", "supercell", "translated", "scaled"])
def test_the_same_crystal_in_other_clothes(change):
    salt = rock_salt(5.64)
    other = {
        "primitive": salt.get_primitive_structure,
        "supercell": lambda: salt * (2, 2, 2),
        "translated": lambda: salt.copy().translate_sites(range(8), [0.13, 0.27, 0.41]),
        "scaled": lambda: rock_salt(5.64 * 1.3),
    }[change]()
    batch = from_structures([salt, other])
    assert same(batch, 0, batch, 1)
    assert same(batch, 1, batch, 0)
    assert rms(batch, 0, batch, 1) == pytest.approx(0.0, abs=1e-8)


TWO = {
    "NaCl, KCl": (rock_salt, (5.64,), rock_salt, (6.29, ("K", "Cl"))),
    "NaCl, CsCl type": (
        rock_salt,
        (5.64,),
        cubic,
        ("Pm-3m", 3.4, ["Na", "Cl"], [(0, 0, 0), (0.5,) * 3]),
    ),
    "ZnO wurtzite, rock salt": (
        wurtzite,
        (3.25, 5.2, 0.382, ["Zn", "O"]),
        rock_salt,
        (4.28, ("Zn", "O")),
    ),
    "ZnS zincblende, wurtzite": (
        cubic,
        ("F-43m", 5.41, ["Zn", "S"], [(0, 0, 0), (0.25,) * 3]),
        wurtzite,
        (3.82, 6.26, 0.375, ["Zn", "S"]),
    ),
    "Fe fcc, bcc": (
        cubic,
        ("Fm-3m", 3.45, ["Fe"], [(0, 0, 0)]),
        cubic,
        ("Im-3m", 2.866, ["Fe"], [(0, 0, 0)]),
    ),
    "Mg fcc, hcp": (
        cubic,
        ("Fm-3m", 4.5, ["Mg"], [(0, 0, 0)]),
        crystal,
        ("P6_3/mmc", (3.209, 3.209, 5.211, 90, 90, 120), ["Mg"], [(1 / 3, 2 / 3, 0.25)]),
    ),
    "TiO2 rutile, anatase": (
        crystal,
        ("P4_2/mnm", (4.594, 4.594, 2.959), ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)]),
        crystal,
        ("I4_1/amd", (3.785, 3.785, 9.514), ["Ti", "O"], [(0, 0, 0), (0, 0, 0.208)]),
    ),
}


@pytest.mark.parametrize("tolerance", [MatchTolerance(), CSP_TOLERANCE], ids=["sun", "csp"])
@pytest.mark.parametrize("pair", TWO)
def test_different_crystals(pair, tolerance):
    make_a, a, make_b, b = TWO[pair]
    first, second = make_a(*a), make_b(*b)
    assert verdicts(first, second, tolerance) == (False, False)
    batch = from_structures([first, second])
    assert rms(batch, 0, batch, 1, tolerance) is None


@pytest.mark.parametrize(("shift", "expected"), [(0.1, True), (0.25, False)])
def test_a_rattled_supercell_matches_while_its_primitive_cell_is_found(shift, expected):
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions *= shift / np.linalg.norm(directions, axis=1, keepdims=True)
    rattled = rock_salt(5.64) * (2, 2, 2)
    for i, step in enumerate(directions):
        rattled.translate_sites([i], step, frac_coords=False)
    assert verdicts(rock_salt(5.64), rattled) == (expected, expected)


@pytest.mark.parametrize(
    ("factor", "both"),
    [(1.05, (True, True)), (1.15, (True, True)), (1.25, (True, False)), (1.4, (False, False))],
)
def test_strain_is_judged_from_the_first_cell(factor, both):
    strained = rock_salt(5.64)
    strained.lattice = strained.lattice.from_parameters(5.64, 5.64, 5.64 * factor, 90, 90, 90)
    assert verdicts(rock_salt(5.64), strained) == both
    pair = Matcher(from_structures([rock_salt(5.64), strained]))
    assert pair.same(0, 1, symmetric=True) is all(both)


def test_groups_join_the_first_that_they_match():
    crystals = [rock_salt(5.64), rock_salt(6.29, ("K", "Cl")), rock_salt(5.7), rock_salt(5.64) * 2]
    matcher = Matcher(from_structures(crystals))
    assert matcher.groups() == [[0, 2, 3], [1]]
    assert matcher.candidates("NaCl") == [0, 2, 3]
    assert matcher.candidates("LiF") == []
    assert matcher.structure(1) is matcher.structure(1)
