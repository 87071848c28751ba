"""pymatgen's StructureMatcher is the judge: on made pairs, and on given crystals."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import from_structures, to_structure
from matmill.crystals.matching import CSP_TOLERANCE, Matcher, MatchTolerance, rms, same

SETTINGS = {"sun": MatchTolerance(), "csp": CSP_TOLERANCE}


@pytest.fixture(autouse=True)
def _compiled():
    """A few pairs go to pymatgen while the search is not loaded: these tests are of the search."""
    import matmill.crystals.match_search  # noqa: F401


def cells():
    """Return small cells by name: lattice, sites, and how many sites of each element."""
    cube = np.eye(3)
    fcc = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    bcc = np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]])
    hexagon = np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 1.63]])
    middle = [0.5, 0.5, 0.5]
    hcp = [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    wurtzite = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]]
    perovskite = [[0, 0, 0], middle, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    u = 0.305
    rutile = [[0, 0, 0], middle, [u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5]]
    rutile += [[0.5 - u, 0.5 + u, 0.5]]
    layered = [[0, 0, 0], middle, [0, 0, 0.35], middle + np.array([0, 0, 0.35])]
    return {
        "fcc": (3.6 * fcc, [[0, 0, 0]], [1]),
        "bcc": (3.0 * bcc, [[0, 0, 0]], [1]),
        "simple cubic": (2.5 * cube, [[0, 0, 0]], [1]),
        "hcp": (3.2 * hexagon, hcp, [2]),
        "diamond": (5.4 * fcc, [[0, 0, 0], [0.25] * 3], [2]),
        "rock salt": (5.6 * fcc, [[0, 0, 0], middle], [1, 1]),
        "CsCl": (4.0 * cube, [[0, 0, 0], middle], [1, 1]),
        "CsCl, shifted": (4.0 * cube, [[0, 0, 0], [0.0, 0.5, 0.5]], [1, 1]),
        "zincblende": (5.4 * fcc, [[0, 0, 0], [0.25] * 3], [1, 1]),
        "wurtzite": (3.8 * hexagon, wurtzite, [2, 2]),
        "layered": (4.0 * cube * [1, 1, 1.5], layered, [2, 2]),
        "rutile": (4.6 * cube * [1, 1, 0.65], rutile, [2, 4]),
        "fluorite": (5.4 * fcc, [[0, 0, 0], [0.25] * 3, [0.75] * 3], [1, 2]),
        "perovskite": (3.9 * cube, perovskite, [1, 1, 3]),
    }


CELLS = cells()
ELEMENTS = ([11, 17, 8], [22, 8, 38])


def dressed(rng, lattice, frac, counts, elements):
    """Return a cell strained, rattled and repeated at random, now and then of other elements."""
    if rng.random() < 0.1:
        elements = rng.permutation(ELEMENTS[int(rng.integers(2))])
    z = np.repeat(elements[: len(counts)], counts)
    frac = np.asarray(frac, dtype=float)
    strain = rng.normal(size=(3, 3)) * rng.choice([0.0, 0.01, 0.05, 0.1])
    lattice = np.asarray(lattice) @ (np.eye(3) + strain)
    if rng.random() < 0.15:
        axis = int(rng.integers(3))
        repeat = np.eye(3)
        repeat[axis, axis] = 2.0
        frac = np.concatenate([frac, frac + np.eye(3)[axis]]) / np.diag(repeat)
        lattice, z = repeat @ lattice, np.tile(z, 2)
    step = rng.normal(size=frac.shape) * rng.choice([0.0, 0.02, 0.08, 0.2])
    frac = frac + step @ np.linalg.inv(lattice) + rng.random(3)
    return lattice * rng.uniform(0.8, 1.3), frac, z


def made_crystals(seed, n_groups=7):
    """Return crystals, and pairs of them: of one composition, or of one that looks like it."""
    rng = np.random.default_rng(seed)
    crystals, owners = [], []
    by_counts = {}
    for name, cell in CELLS.items():
        by_counts.setdefault(tuple(cell[2]), []).append(name)
    for group in range(n_groups):
        counts = list(by_counts)[int(rng.integers(len(by_counts)))]
        elements = ELEMENTS[int(rng.integers(2))]
        for _ in range(6):
            if rng.random() < 0.25:
                n = int(rng.integers(1, 7 // sum(counts) + 1))
                frac = rng.random((n * sum(counts), 3))
                lattice = np.eye(3) * 2.4 * len(frac) ** (1 / 3) + rng.normal(size=(3, 3)) * 0.4
                crystals.append(dressed(rng, lattice, frac, [n * c for c in counts], elements))
            else:
                name = by_counts[counts][int(rng.integers(len(by_counts[counts])))]
                crystals.append(dressed(rng, *CELLS[name], elements))
            owners.append(group)
    n = len(crystals)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and owners[i] == owners[j]]
    return CrystalBatch.from_lists(*zip(*crystals, strict=True)), pairs


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_and_distances_are_pymatgens(seed, setting):
    from pymatgen.analysis.structure_matcher import StructureMatcher

    batch, pairs = made_crystals(seed)
    tolerance = SETTINGS[setting]
    judge = StructureMatcher(
        ltol=tolerance.ltol, stol=tolerance.stol, angle_tol=tolerance.angle_tol
    )
    matcher = Matcher(batch, tolerance)
    ours = matcher.statuses(pairs) == 1
    distances = matcher.distances(pairs)
    structures = [to_structure(batch, i) for i in range(len(batch))]
    theirs = np.array([judge.fit(structures[i], structures[j]) for i, j in pairs])
    wrong = [pair for pair, a, b in zip(pairs, ours, theirs, strict=True) if a != b]
    assert wrong == []
    # Both kinds must be there, and pymatgen must not be the one who decides.
    assert 10 < theirs.sum() < len(pairs) - 10
    assert matcher.n_asked < 0.1 * len(pairs)
    for (i, j), value in zip(pairs[::3], distances[::3], strict=True):
        found = None
        if batch.formula[i] == batch.formula[j]:
            found = judge.get_rms_dist(structures[i], structures[j])
        if found is None:
            assert np.isnan(value), (i, j)
        else:
            # Below 1e-5 pymatgen stops at the first it meets.
            assert value == pytest.approx(found[0], abs=1e-5 if found[0] < 1e-5 else 1e-6), (i, j)


@pytest.mark.parametrize("setting", SETTINGS)
def test_given_crystals_of_one_formula_agree(shared_data, setting):
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from matmill.crystals.files import read

    batch = read(shared_data / "mp_20.parquet").crystals
    rows: dict[str, list[int]] = {}
    for i, formula in enumerate(batch.formula):
        rows.setdefault(formula, []).append(i)
    rng = np.random.default_rng(0)
    several = [members for members in rows.values() if len(members) > 1]
    chosen = [several[k] for k in rng.choice(len(several), 120, replace=False)]
    pairs = [tuple(map(int, rng.choice(members, 2, replace=False))) for members in chosen]
    tolerance = SETTINGS[setting]
    judge = StructureMatcher(
        ltol=tolerance.ltol, stol=tolerance.stol, angle_tol=tolerance.angle_tol
    )
    matcher = Matcher(batch, tolerance)
    ours = (matcher.statuses(pairs) == 1).tolist()
    theirs = [judge.fit(to_structure(batch, i), to_structure(batch, j)) for i, j in pairs]
    assert ours == theirs
    assert 0 < sum(theirs) < len(pairs)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(sorted(CELLS)))
def test_a_crystal_is_found_in_any_clothes(seed, name):
    rng = np.random.default_rng(seed)
    lattice, frac, counts = CELLS[name]
    z = np.repeat([11, 17, 8][: len(counts)], counts)
    frac = np.asarray(frac, dtype=float)
    # Another basis, a rotation, a translation, another size, another order of the sites.
    change = np.eye(3)
    for _ in range(3):
        i, j = rng.choice(3, 2, replace=False)
        change[i] += rng.integers(-1, 2) * change[j]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(z))
    other = ((frac + rng.random(3)) @ np.linalg.inv(change))[order]
    batch = CrystalBatch.from_lists(
        [lattice, rng.uniform(0.5, 2.0) * change @ lattice @ rotation], [frac, other], [z, z[order]]
    )
    assert same(batch, 0, batch, 1)
    assert same(batch, 1, batch, 0)
    assert rms(batch, 0, batch, 1) == pytest.approx(0.0, abs=1e-5)


def test_close_calls_are_pymatgens():
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure

    def perovskite(d):
        sites = [(d / 3.905, 0, 0), (0.5,) * 3, (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
        return Structure(Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"], sites)

    batch = from_structures([perovskite(0.0), perovskite(0.5)])
    biggest = Matcher(batch, MatchTolerance(stol=1.0)).distances([(0, 1)])[0] * 2.0
    assert biggest > 0.1
    for stol in (biggest - 1e-8, biggest, biggest + 1e-8):
        matcher = Matcher(batch, MatchTolerance(stol=stol))
        judge = StructureMatcher(stol=stol)
        assert matcher.same(0, 1) == judge.fit(perovskite(0.0), perovskite(0.5))
        assert matcher.n_asked == 1
    clear = Matcher(batch, MatchTolerance(stol=biggest + 1e-4))
    assert clear.same(0, 1)
    assert clear.n_asked == 0


def test_assignments_are_scipys():
    from scipy.optimize import linear_sum_assignment

    from matmill.crystals.match_assignment import FORBIDDEN, cheapest, nearest_of_each

    rng = np.random.default_rng(0)
    outcomes = set()
    for trial in range(300):
        n = int(rng.integers(1, 9))
        cost = rng.integers(0, 4, (n, n)).astype(float) if trial % 2 else rng.random((n, n))
        cost[rng.random((n, n)) < 0.2] = FORBIDDEN
        column, price = np.zeros(n, dtype=np.int64), np.zeros((3, n))
        scratch = np.zeros((3, n), dtype=np.int64)
        outcome = cheapest(cost, 0, n, column, price[0], price[1], scratch, price[2])
        outcomes.add(outcome)
        rows, best = linear_sum_assignment(cost)
        total = cost[rows, best].sum()
        assert (outcome == 0) == (total >= FORBIDDEN)
        if outcome:
            assert sorted(column) == list(range(n))
            assert cost[rows, column].sum() == pytest.approx(total)
        if outcome == 1:
            assert column.tolist() == best.tolist()
            # No other assignment does as well: forbid each pair in turn.
            for row in rows.tolist():
                less = cost.copy()
                less[row, best[row]] = FORBIDDEN
                assert less[linear_sum_assignment(less)].sum() > total + 1e-9
        if nearest_of_each(cost, 0, n, column, scratch[0]):
            assert outcome == 1
            assert column.tolist() == best.tolist()
    assert outcomes == {0, 1, 2}


def test_importing_the_matcher_does_not_load_numba():
    code = "import sys, matmill.crystals.matching, matmill.verify.structure_index\n"
    code += "assert not {'numba', 'pymatgen'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
