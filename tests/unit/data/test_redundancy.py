import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from data_crystals import many
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.crystals.diffraction import patterns
from matmill.crystals.elements import SYMBOLS
from matmill.data.compositions import LabelledCompositions
from matmill.data.redundancy.elements import SCALES, cumulative, fact_vectors, positions
from matmill.data.redundancy.greedy import keep_far
from matmill.data.redundancy.metrics import make_space
from matmill.data.redundancy.reduce import reduce
from matmill.data.redundancy.report import report
from matmill.data.redundancy.spaces import Euclid, Manhattan, nearest_rows
from matmill.data.table import LabelledCrystals
from matmill.errors import InputError, UnknownNameError

seeds = st.integers(0, 10_000)


def formulas(n: int, seed: int) -> CompositionBatch:
    """Return compositions of 1 to 4 elements, many of them equal or alike."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        picked = rng.choice(np.arange(1, 60), size=rng.integers(1, 5), replace=False)
        texts.append("".join(f"{SYMBOLS[z]}{rng.integers(1, 4)}" for z in picked))
    return parse_formulas(texts)


def plain_loop(distance, order, threshold):
    """Keep by the definition: one row after the other, against all kept ones."""
    kept = []
    for row in order:
        if not kept or distance(row, kept).min() > threshold:
            kept.append(row)
    return kept


def sizes(batch: CompositionBatch) -> list[int]:
    amounts = batch.amounts.long().numpy()
    return [int(row.sum() // np.gcd.reduce(row[row > 0])) for row in amounts]


def test_scales_have_every_element_once_and_their_neighbours():
    for scale in SCALES:
        places = positions(scale)
        assert sorted(places[places >= 0].tolist()) == list(range(103))
    number = {symbol: z for z, symbol in enumerate(SYMBOLS)}
    chains = {
        "mendeleev": ["Li Na K Rb Cs Fr Be", "Y La Ac Ce Th Pr Pa", "Po H F Cl", "Cu Ag Au Zn"],
        "pettifor": ["Cs Rb K Na Li", "Ba Sr Ca Yb", "N O F H"],
        "electronegativity": ["Fr Cs", "O F He"],
        "atomic": ["H He Li Be"],
    }
    for scale, texts in chains.items():
        for text in texts:
            steps = [int(positions(scale)[number[symbol]]) for symbol in text.split()]
            assert all(b - a == 1 for a, b in pairwise(steps)), (scale, text)


def test_mover_s_distance_equals_the_one_of_scipy():
    batch = formulas(40, 3)
    for scale in SCALES:
        vectors, places = cumulative(batch, scale), positions(scale).numpy()
        for i in range(0, 40, 3):
            for j in range(0, 40, 7):
                ours = float((vectors[i] - vectors[j]).abs().sum())
                one, other = batch.fractions[i].numpy(), batch.fractions[j].numpy()
                a, b = one.nonzero()[0], other.nonzero()[0]
                theirs = stats.wasserstein_distance(places[a], places[b], one[a], other[b])
                assert ours == pytest.approx(theirs, abs=1e-9)


def test_known_distances():
    vectors = cumulative(parse_formulas(["CaTiO3", "SrTiO3", "NaCl", "LiCl"]), "mendeleev")
    # One place between Ca and Sr for a fifth of the atoms; one between Na and Li for half.
    assert float((vectors[0] - vectors[1]).abs().sum()) == pytest.approx(0.2)
    assert float((vectors[2] - vectors[3]).abs().sum()) == pytest.approx(0.5)


@given(seeds, st.sampled_from([0.0, 0.2, 1.0, 3.0]), st.sampled_from([1, 7, 4096]))
@settings(max_examples=12)
def test_kept_compositions_are_those_of_the_plain_loop(seed, threshold, block):
    batch = formulas(150, seed)
    vectors = cumulative(batch, "mendeleev")
    order = np.argsort(sizes(batch), kind="stable").tolist()

    def distance(row, kept):
        return (vectors[kept] - vectors[row]).abs().sum(1).round(decimals=9)

    expected = plain_loop(distance, order, threshold)
    kept = keep_far(Manhattan(vectors), torch.tensor(order), threshold, block=block)
    assert kept.tolist() == expected
    whole = reduce(batch, "composition", threshold, first=batch.formula[order[0]])
    assert whole.keep.tolist() == sorted(expected)
    for row in range(len(batch)):
        found = distance(row, expected)
        assert float(whole.distance[row]) == pytest.approx(float(found.min()), abs=1e-12)
        assert int(whole.representative[row]) == expected[int(found.argmin())]


@given(seeds, st.floats(0.05, 2.0), st.sampled_from([3, 64, 4096]))
@settings(max_examples=12)
def test_kept_vectors_are_those_of_the_plain_loop(seed, threshold, block):
    rng = torch.Generator().manual_seed(seed)
    # Clumps, with exact repeats, far from the origin: rounding is at its worst.
    centres = 3 * torch.randn(12, 20, generator=rng) + 40
    vectors = centres[torch.randint(0, 12, (200,), generator=rng)]
    vectors = vectors + 0.2 * torch.randn(200, 20, generator=rng)
    vectors[50:70] = vectors[80:100]
    space = Euclid(vectors)
    exact = space.vectors.double()

    def distance(row, kept):
        return (exact[kept] - exact[row]).square().sum(1).sqrt().round(decimals=9)

    order = torch.randperm(200, generator=rng)
    expected = plain_loop(distance, order.tolist(), threshold)
    kept = keep_far(space, order, threshold, block=block)
    assert kept.tolist() == expected
    place, found = nearest_rows(space, torch.arange(200), kept, limit=1e-3)
    for row in range(200):
        assert int(place[row]) == int(distance(row, expected).argmin())
        assert float(found[row]) == float(distance(row, expected).min())


@pytest.mark.parametrize("metric", ["xrd", "ofm"])
def test_structures_are_reduced_as_the_plain_loop_does(metric):
    batch = many(70)
    batch = batch.select([*range(70), *range(0, 70, 2)])  # exact copies
    threshold = {"xrd": 0.4, "ofm": 3.0}[metric]
    found = reduce(batch, "structure", threshold, metric)
    space = make_space(batch, metric)
    assert isinstance(space, Euclid)
    exact = space.vectors.double()

    def distance(row, kept):
        return (exact[kept] - exact[row]).square().sum(1).sqrt().round(decimals=9)

    order = torch.argsort(batch.n_atoms, stable=True).tolist()
    assert found.keep.tolist() == sorted(plain_loop(distance, order, threshold))
    assert 5 < len(found) <= 70


def test_structure_distances_are_those_of_the_patterns():
    batch = many(8)
    space = make_space(batch, "xrd")
    raw = patterns(batch).double()
    rows = torch.arange(8)
    expected = (raw - raw.flip(0)).norm(dim=1)
    torch.testing.assert_close(space.distances(rows, rows.flip(0)), expected, atol=1e-5, rtol=1e-4)


@given(seeds)
@settings(max_examples=8)
def test_kept_rows_are_far_apart_and_the_others_near(seed):
    batch = many(60, seed)
    for metric, threshold in (("pettifor", 2.0), ("facts", 0.3)):
        found = reduce(batch, "composition", threshold, metric)
        space = make_space(batch, metric)
        n = len(found)
        left = found.keep.repeat_interleave(n)
        between = space.distances(left, found.keep.repeat(n)).reshape(n, n)
        assert (between[~torch.eye(n, dtype=torch.bool)] > threshold).all()
        assert (found.distance <= threshold).all()
        assert found.distance[found.keep].abs().sum() == 0
        assert torch.equal(found.representative[found.keep], found.keep)
        assert int(found.sizes.sum()) == 60
        repeat = reduce(batch, "composition", threshold, metric)
        assert torch.equal(repeat.cluster_id, found.cluster_id)


def test_water_and_strontium_titanate_come_first():
    batch = parse_formulas(["Fe", "H4O2", "NaCl", "H2O", "Na2O"])
    found = reduce(batch, "composition", 100.0)
    assert found.keep.tolist() == [1]
    assert found.settings["first"] == "H2O"
    assert reduce(batch, "composition", 100.0, first="NaCl").keep.tolist() == [2]
    assert reduce(batch.select([0, 2]), "composition", 100.0).keep.tolist() == [0]
    a = 3.9
    perovskite = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    crystals = CrystalBatch.from_lists(
        [(3 * np.eye(3)).tolist(), (a * np.eye(3)).tolist()],
        [[[0, 0, 0]], perovskite],
        [[84], [38, 22, 8, 8, 8]],
    )
    assert reduce(crystals, "structure", 1e6, "ofm").keep.tolist() == [1]


def test_order_is_by_the_atoms_of_the_reduced_formula():
    # Fe4O6 has 5 atoms when reduced, Fe3O4 has 7: the first is kept although it is longer.
    batch = parse_formulas(["Fe3O4", "Fe4O6", "Zr0.5Cu0.5", "Fe0.5O0.5"])
    assert reduce(batch, "composition", 100.0).keep.tolist() == [2]
    assert reduce(batch.select([0, 1]), "composition", 100.0).keep.tolist() == [1]


def test_large_rows_are_left_out_of_the_choice():
    batch = parse_formulas(["NaCl", "KCl", "Mg3Al2Si3O12"])
    found = reduce(batch, "composition", 0.1, max_atoms=10)
    assert found.keep.tolist() == [0, 1]
    assert float(found.distance[2]) > 10


def test_facts_tell_elements_apart_and_repeat_for_multiples():
    one = fact_vectors(parse_formulas(["NaCl", "Na2Cl2", "KCl", "SiO2"]))
    assert torch.equal(one[0], one[1])
    near, far = (one[0] - one[2]).norm(), (one[0] - one[3]).norm()
    assert 0 < float(near) < float(far)


def test_report_counts_what_is_known_from_training():
    crystals = many(80)
    train, test = crystals.select(range(60)), crystals.select([*range(5), *range(60, 80)])
    for by, metric in (("composition", None), ("structure", "xrd"), ("structure", "ofm")):
        found = report(train, test, by=by, metric=metric)
        assert (found.distance[:5] == 0).all()
        assert found.histogram[0][2] == int((found.distance == 0).sum()) >= 5
        assert sum(n for _, _, n in found.histogram) == 25
        near = int((found.distance <= found.threshold).sum())
        assert found.near_share == pytest.approx(near / 25)
        assert near == sum(n for _, high, n in found.histogram if high <= found.threshold)
        trained = set(train.formula)
        assert found.known_formulas == sum(name in trained for name in test.formula)
        assert found.known_prototypes is not None
        assert found.known_prototypes >= 5
        json.dumps(found.as_dict())
    plain = make_space(CompositionBatch.of(crystals), "mendeleev")
    closest = [
        float(plain.distances(torch.full((60,), row), torch.arange(60)).min())
        for row in [*range(5), *range(60, 80)]
    ]
    assert report(train, test).distance.tolist() == pytest.approx(closest)


def test_report_takes_tables_and_mixed_kinds():
    crystals = many(30)
    table = LabelledCrystals(crystals=crystals)
    compositions = LabelledCompositions(compositions=CompositionBatch.of(crystals))
    same = report(table, compositions)
    assert same.known_formulas == 30
    assert same.near_share == 1.0
    assert same.known_prototypes is None


def test_mistakes_are_named():
    batch = many(5)
    with pytest.raises(UnknownNameError, match="Did you mean 'composition'"):
        reduce(batch, "compositon")
    with pytest.raises(UnknownNameError, match="Did you mean 'mendeleev'"):
        reduce(batch, "composition", 1.0, "mendelev")
    with pytest.raises(InputError, match="'xrd' measures structure, not composition"):
        reduce(batch, "composition", 1.0, "xrd")
    with pytest.raises(InputError, match="there are only formulas"):
        reduce(CompositionBatch.of(batch), "structure")
    with pytest.raises(InputError, match="must be 0 or more"):
        reduce(batch, "composition", -1.0)
    with pytest.raises(InputError, match="must be 0 or more"):
        reduce(batch, "composition", float("nan"))
    with pytest.raises(InputError, match="no rows to reduce"):
        reduce(CrystalBatch.empty())
    with pytest.raises(InputError, match="neither an id nor a reduced formula"):
        reduce(batch, first="XeF6")
    with pytest.raises(InputError, match="raise max_atoms"):
        reduce(parse_formulas(["SiO2"]), max_atoms=2)
    with pytest.raises(InputError, match=r"O2Rf \(row 1\) has an element beyond Lr"):
        reduce(parse_formulas(["SiO2", "RfO2"]))
    lattice = batch.lattice.clone()
    lattice[3] = float("nan")
    for metric in ("xrd", "ofm"):
        with pytest.raises(
            InputError, match=r"1 crystal\(s\) have .* not finite, the first is x-3"
        ):
            reduce(replace(batch, lattice=lattice), "structure", metric=metric)
    with pytest.raises(InputError, match="0 training and 5 test rows"):
        report(CrystalBatch.empty(), batch)
