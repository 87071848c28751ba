"""Test vectors of the specification under their own names: T-16, T-18 and T-26 as a whole."""

import pytest
import torch
from crystals_for_tests import prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures, to_structure
from matmill.verify.continuous import novelty_scores, uniqueness_scores
from matmill.verify.distances import embed, pairwise
from matmill.verify.evaluation import Against, evaluate
from matmill.verify.known_prints import KnownPrints
from matmill.verify.novelty import KnownIndex

pytestmark = pytest.mark.filterwarnings("ignore")
INDEX = KnownIndex.load(structures=[])

T16 = {
    "smat": [0, 1, 1, 1],
    "comp": [0, 0, 1, 1],
    "wyckoff": [0, 1, 0, 1],
    "magpie": [0, 0, 629.78, 1069.57],
    "amd": [0, 1.04163, 0.0968412, 3.23986],
    "pdd": [0, 1.04163, 0.0968412, 3.27607],
    "elmd": [0, 0, 7.0, 10.7],
}


def four():
    """Return ZnO wurtzite and rock salt, GaN wurtzite and Bi2Te3, in conventional cells."""
    from pymatgen.core import Lattice, Structure

    def hexagonal(a, c, species, z):
        sites = [(1 / 3, 2 / 3, height) for height in z]
        return Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), species, sites)

    salt = [(0, 0, 0), (0.5, 0.5, 0.5)]
    layers = [(0, 0, 0.39682977), (0, 0, 0.21680774), (0, 0, 0)]
    r3m = Lattice.hexagonal(4.41813045, 32.25729904)
    return [
        hexagonal(3.23735102, 5.22206130, ["Zn", "O"], (0.00059170, 0.37971830)),
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.338884), ["Zn", "O"], salt),
        hexagonal(3.18893040, 5.19235725, ["Ga", "N"], (0.99908371, 0.37591629)),
        Structure.from_spacegroup("R-3m", r3m, ["Bi", "Te", "Te"], layers),
    ]


@pytest.mark.parametrize("cell", ["conventional", "primitive", "supercell"])
@pytest.mark.parametrize("kind", list(T16))
def test_t16_distances_in_any_cell(kind, cell):
    """The published values depend on the crystals alone: each cell of them gives the same."""
    structures = four()
    if cell == "primitive":
        structures = [structure.get_primitive_structure() for structure in structures]
        assert [len(structure) for structure in structures] == [4, 2, 4, 5]
    if cell == "supercell":
        structures = [structure * (1, 2, 1) for structure in structures]
    found = pairwise(from_structures(structures), kind=kind)[0]
    expected = torch.tensor(T16[kind], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def t18():
    """Return A, a supercell of A, and B."""
    a, b = (prototypes().select([i]).with_ids(()) for i in (3, 4))
    double = from_structures([to_structure(a, 0) * (2, 1, 1)])
    return a, double, b


def test_t18_uniqueness_of_a_crystal_its_supercell_and_another():
    a, double, b = t18()
    card = evaluate(concatenate([a, double, b]), Against(index=INDEX))
    assert [row["is_unique"] for row in card.rows] == [True, False, True]
    assert card.numbers["unique"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize("n", [2, 5])
def test_t18_uniqueness_of_copies_is_one_over_their_number(n):
    card = evaluate(concatenate([t18()[0]] * n), Against(index=INDEX))
    assert card.numbers["unique"].value == pytest.approx(1 / n)
    assert card.numbers["continuous_uniqueness"].value == pytest.approx(0.0, abs=1e-9)


def test_t18_continuous_uniqueness_of_two_is_their_distance():
    a, double, b = t18()
    same = uniqueness_scores(embed(concatenate([a, double]), "elmd+amd"))
    assert float(same.max()) < 1e-6
    both = concatenate([a, b])
    found = uniqueness_scores(embed(both, "elmd+amd"))
    distance = float(pairwise(both, kind="elmd+amd", scaled=True)[0, 1])
    assert found.tolist() == pytest.approx([distance, distance])


def test_t18_a_training_crystal_is_not_novel():
    a, double, b = t18()
    card = evaluate(concatenate([double, b]), Against(index=INDEX, reference=a))
    assert [row["is_train_novel"] for row in card.rows] == [False, True]
    assert card.rows[0]["continuous_novelty"] == pytest.approx(0.0, abs=1e-6)
    assert card.rows[1]["continuous_novelty"] > 0.1
    prints = KnownPrints.build(a, name="a")
    embedded = (embed(x, "elmd+amd", k=prints.amd.shape[1]) for x in (double, a))
    assert float(novelty_scores(*embedded)[0]) == pytest.approx(0.0, abs=1e-6)


def polymorphs():
    """Return two polymorphs P and Q of one composition."""
    p = CrystalBatch.from_lists(
        [[[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]],
        [[[0, 0, 0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    q = CrystalBatch.from_lists(
        [[[3.3, 0, 0], [0, 3.3, 0], [0, 0, 3.3]]], [[[0, 0, 0], [0.5, 0.5, 0.5]]], [[11, 17]]
    )
    return {"P": p, "Q": q}


@pytest.mark.parametrize(
    ("made", "match", "metre"), [("PP", 0.5, 0.5), ("QP", 0.0, 1.0), ("PQ", 1.0, 1.0)]
)
def test_t26_match_rate_and_metre_of_polymorphs(made, match, metre):
    crystals = polymorphs()
    truth = concatenate([crystals["P"], crystals["Q"]])
    batch = concatenate([crystals[name] for name in made])
    numbers = evaluate(batch, Against(index=INDEX, test=truth), is_prediction=True).numbers
    assert numbers["csp_match"].value == match
    assert numbers["metre"].value == metre
    assert numbers["csp_crmse"].value == pytest.approx(0.5 * (1 - match), abs=1e-6)
