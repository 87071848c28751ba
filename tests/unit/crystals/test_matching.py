"""Test vectors T-1 to T-4, T-8 to T-12 and T-19 of the matcher, and what many pairs need."""

import subprocess
import sys

import numpy as np
import pytest

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import from_structures
from matmill.crystals.matching import (
    CSP_TOLERANCE,
    Matcher,
    MatchStatus,
    MatchTolerance,
    rms,
    same,
)


@pytest.fixture(autouse=True)
def _compiled():
    """A few pairs go to pymatgen while the search is not loaded: these tests are of the search."""
    import matmill.crystals.match_search  # noqa: F401


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
    [
        (1.05, (True, True)),
        (1.15, (True, True)),
        (1.2, (True, False)),
        (1.25, (True, False)),
        (1.3, (True, False)),
        (1.4, (False, False)),
    ],
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


def perovskite(shift=0.0):
    """SrTiO3 with Sr moved by (d, 0.3 d, 0.2 d) Å."""
    from pymatgen.core import Lattice, Structure

    sr = np.array([1.0, 0.3, 0.2]) * shift / 3.905
    sites = [sr, (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Structure(Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"], sites)


@pytest.mark.parametrize(
    ("shift", "sun", "csp", "sun_rms", "csp_rms"),
    [
        (0.3, True, True, 0.0559, 0.0559),
        (0.6, True, True, 0.1117, 0.1117),
        (0.9, False, True, 0.1676, 0.1676),
        (1.2, False, True, 0.2234, 0.2234),
        (1.5, False, False, None, 0.2793),
        (1.8, False, False, None, None),
    ],
)
def test_a_match_by_rms_is_not_a_match_by_the_largest_step(shift, sun, csp, sun_rms, csp_rms):
    batch = from_structures([perovskite(), perovskite(shift)])
    for tolerance, is_same, value in (
        (MatchTolerance(), sun, sun_rms),
        (CSP_TOLERANCE, csp, csp_rms),
    ):
        assert same(batch, 0, batch, 1, tolerance) is is_same
        found = rms(batch, 0, batch, 1, tolerance)
        assert found is None if value is None else found == pytest.approx(value, abs=1e-4)


def test_two_atoms_in_a_cell_match_whatever_lies_between_them():
    from pymatgen.core import Lattice, Structure

    shifts = [0.05 * k for k in range(11)]
    cells = [
        Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [(0, 0, 0), (0.5 + x, 0.5, 0.5)])
        for x in shifts
    ]
    matcher = Matcher(from_structures(cells))
    for i in range(9):
        assert [matcher.same(i, j) for j in range(9)] == [True] * 9
    assert matcher.same(9, 0)
    assert not matcher.same(10, 0)
    assert matcher.rms(0, 8) == pytest.approx(0.25198, abs=1e-5)


def test_mirror_images_match():
    cell = (4.91, 4.91, 5.4, 90, 90, 120)
    right = crystal("P3_121", cell, ["Si", "O"], [(0.47, 0, 1 / 3), (0.41, 0.27, 0.45)])
    left = right.copy()
    for i, site in enumerate(right):
        left[i] = site.specie, site.frac_coords * [1, 1, -1]
    assert len(right) == 9
    assert verdicts(right, left) == (True, True)
    batch = from_structures([right, left])
    assert rms(batch, 0, batch, 1) == pytest.approx(0.0, abs=1e-5)


def test_an_exchanged_pair_is_another_crystal():
    long = rock_salt(5.64) * (2, 1, 1)
    swapped = long.copy()
    swapped[0], swapped[-1] = long[-1].specie, long[0].specie
    assert {long[0].specie.symbol, long[-1].specie.symbol} == {"Na", "Cl"}
    assert verdicts(swapped, rock_salt(5.64)) == (False, False)
    assert verdicts(long, rock_salt(5.64)) == (True, True)


def test_oxidation_states_do_not_matter():
    charged = rock_salt(5.64).add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert verdicts(rock_salt(5.64), charged) == (True, True)


def test_pairs_come_back_in_order_with_threads_or_without():
    rng = np.random.default_rng(0)
    crystals = [rock_salt(5.64 + 0.01 * k) for k in range(4)]
    crystals += [perovskite(shift) for shift in (0.0, 0.3, 1.8, 1.9)]
    batch = from_structures(crystals)
    pairs = rng.integers(0, len(batch), (5000, 2))
    plain, threaded = Matcher(batch), Matcher(batch, n_threads=2)
    found = plain.statuses(pairs)
    assert found.tolist() == threaded.statuses(pairs).tolist()
    np.testing.assert_array_equal(plain.distances(pairs), threaded.distances(pairs))
    small = {(i, j): plain.same(i, j) for i in range(8) for j in range(8)}
    assert [small[i, j] for i, j in pairs.tolist()] == (found == MatchStatus.SAME).tolist()
    assert plain.groups() == threaded.groups() == [[0, 1, 2, 3], [4, 5], [6, 7]]


def test_groups_depend_on_the_order_and_components_do_not():
    crystals = [perovskite(0.0), perovskite(0.7), perovskite(1.4)]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        matcher = Matcher(from_structures([crystals[k] for k in order]))
        n_groups = 1 if order[0] == 1 else 2
        assert len(matcher.groups()) == n_groups
        assert matcher.components() == [[0, 1, 2]]
    apart = Matcher(from_structures([rock_salt(5.64), perovskite(), rock_salt(5.7)]))
    assert apart.components() == apart.groups() == [[0, 2], [1]]


def random_cell(n, seed):
    rng = np.random.default_rng(seed)
    edge = 2.3 * n ** (1 / 3)
    return np.eye(3) * edge + rng.normal(size=(3, 3)) * 0.1, rng.random((n, 3)), [6] * n


def test_large_cells_end_in_time():
    batch = CrystalBatch.from_lists(*zip(random_cell(200, 0), random_cell(200, 1), strict=True))
    limited = Matcher(batch, CSP_TOLERANCE, max_seconds=1e-4)
    assert limited.statuses([(0, 1)]).tolist() == [MatchStatus.TIMEOUT]
    assert limited.timeouts == [(0, 1)]
    assert limited.same(0, 1) is False
    assert limited.groups() == [[0], [1]]
    assert Matcher(batch).same(0, 0)
    capped = Matcher(batch, max_sites=199)
    assert capped.statuses([(0, 1)]).tolist() == [MatchStatus.TIMEOUT]
    assert capped.rms(0, 1) is None
    assert set(capped.problems()) == {0, 1}


def test_flat_cells_do_not_eat_the_memory():
    flat = (np.diag([150.0, 150.0, 0.02]), [[0, 0, 0]], [6])
    batch = CrystalBatch.from_lists(*zip(flat, flat, strict=True))
    assert Matcher(batch, CSP_TOLERANCE).statuses([(0, 1)]).tolist() == [MatchStatus.TIMEOUT]


def test_what_is_no_crystal_matches_nothing_and_says_so():
    lattice, frac, numbers = random_cell(3, 0)
    batch = CrystalBatch.from_lists(
        [lattice, lattice * np.nan, lattice * 0.0, lattice],
        [frac, frac, frac, frac * np.inf],
        [numbers] * 4,
    )
    matcher = Matcher(batch)
    assert [matcher.same(0, j) for j in range(4)] == [True, False, False, False]
    assert not matcher.same(1, 1)
    assert matcher.groups() == [[0], [1], [2], [3]]
    assert {i: status.name for i, status in matcher.problems().items()} == dict.fromkeys(
        (1, 2, 3), "BROKEN"
    )


def test_no_crystals_and_one_atom():
    empty = Matcher(CrystalBatch.empty())
    assert empty.groups() == empty.components() == []
    assert empty.statuses([]).shape == empty.distances([]).shape == (0,)
    one = CrystalBatch.from_lists([np.eye(3) * 3], [[[0.2, 0.1, 0.9]]], [[84]])
    assert Matcher(one).groups() == [[0]]
    assert same(one, 0, one, 0)


def test_a_few_pairs_are_pymatgens_until_the_search_is_loaded():
    code = """
import sys
import numpy as np
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import Matcher
salt = [[0, 0, 0], [0.5, 0.5, 0.5]]
cells = [np.eye(3) * 4, np.eye(3) * 5, np.diag([4.0, 4.0, 8.0]), np.full((3, 3), np.nan)]
batch = CrystalBatch.from_lists(cells, [salt] * 4, [[55, 17]] * 4)
assert Matcher(batch.select([0])).groups() == [[0]]
few = Matcher(batch.select([0, 1, 2]))
assert few.groups() == [[0, 1], [2]] and few.n_asked == 2
assert few.rms(0, 1) < 1e-8 and few.rms(0, 2) is None
assert "matmill.crystals.match_search" not in sys.modules
assert Matcher(batch).groups() == [[0, 1], [2], [3]]
assert "matmill.crystals.match_search" in sys.modules
again = Matcher(batch)
assert again.groups() == [[0, 1], [2], [3]] and again.n_asked == 0
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
