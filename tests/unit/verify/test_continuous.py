"""Continuous metrics against T-18, hand counts and the rule for failed embeddings."""

import numpy as np
import pytest
import torch
from crystals_for_tests import perturbed, prototypes
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures, to_structure
from matmill.errors import InputError
from matmill.verify import continuous
from matmill.verify.continuous import (
    binary_uniqueness,
    continuous_novelty,
    continuous_uniqueness,
    first_of_group,
    novelty_scores,
    stability_scores,
    uniqueness_scores,
    vsun,
    vsun_scores,
    vsun_sheet,
)
from matmill.verify.distances import KINDS, Embedding, embed, pairwise
from matmill.verify.known_prints import KnownPrints

BROKEN = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[11]])
SCALED = ("amd", "pdd", "elmd", "magpie", "elmd+amd")


def supercell(batch, i):
    return from_structures([to_structure(batch, i) * (2, 1, 1)])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_supercell_is_a_copy(kind):
    """T-18: of [A, A', B], with A' a supercell of A, two are unique."""
    batch = concatenate(
        [prototypes().select([0]), supercell(prototypes(), 0), prototypes().select([5])]
    )
    embedding = embed(batch, kind, k=50)
    assert first_of_group(embedding).tolist() == [True, False, True]
    metric = binary_uniqueness(embedding)
    assert (metric.numerator, metric.denominator) == (2, 3)
    assert metric.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", SCALED)
def test_copies_are_not_unique_and_two_share_their_distance(kind):
    salt = prototypes().select([0])
    copies = embed(concatenate([salt] * 4), kind, k=50)
    assert uniqueness_scores(copies).tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert binary_uniqueness(copies).value == 0.25
    pair = prototypes().select([0, 5])
    apart = float(pairwise(pair, kind=kind, scaled=True, k=50)[0, 1])
    assert apart > 0.01
    assert uniqueness_scores(embed(pair, kind, k=50)).tolist() == pytest.approx([apart] * 2)
    alone = embed(salt, kind, k=50)
    assert uniqueness_scores(alone).tolist() == [1.0]


def test_uniqueness_is_the_mean_of_the_others_whatever_the_order(monkeypatch):
    batch = perturbed(prototypes(), step=0.1, strain=0.02, rng=torch.Generator().manual_seed(0))
    matrix = pairwise(batch, kind="elmd+amd", k=30)
    expected = (matrix.sum(1) - matrix.diagonal()) / 8
    found = uniqueness_scores(embed(batch, "elmd+amd", k=30))
    torch.testing.assert_close(found, expected)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(continuous, "_ROWS_AT_ONCE", 4)
    mixed = uniqueness_scores(embed(batch.select(order), "elmd+amd", k=30))
    torch.testing.assert_close(mixed, expected[order])


def test_yes_or_no_uniqueness_does_not_count_on_the_order():
    """A chain, each link within the tolerance, is one kind whichever end comes first."""
    line = torch.tensor([[0.0], [0.4], [0.8], [3.0]], dtype=torch.float64)

    def count(order):
        points = Embedding(
            kind="amd", ok=torch.ones(4, dtype=torch.bool), parts=(line[torch.tensor(order)],)
        )
        return first_of_group(points, same=0.3).sum().item()  # 0.4 scales to 0.286

    assert {count(order) for order in ([0, 1, 2, 3], [2, 0, 3, 1], [1, 3, 0, 2])} == {2}


def test_novelty_of_training_crystals_is_0():
    known = prototypes()
    for kind in KINDS:
        metric = continuous_novelty(embed(known, kind, k=30), embed(known, kind, k=30))
        assert metric.value == pytest.approx(0.0, abs=1e-9)
    new = perturbed(known, step=0.2, strain=0.05, rng=torch.Generator().manual_seed(2))
    scores = novelty_scores(embed(new, "amd", k=30), embed(known, "amd", k=30))
    expected = pairwise(new, known, kind="amd", scaled=True, k=30).amin(1)
    torch.testing.assert_close(scores, expected)
    assert float(scores.min()) > 0
    nothing = embed(CrystalBatch.empty(), "amd", k=30)
    assert novelty_scores(embed(known, "amd", k=30), nothing).tolist() == [1.0] * 9


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_failed_embedding_scores_0_and_does_not_touch_the_others(kind):
    whole = prototypes()
    mixed = concatenate([BROKEN, whole, BROKEN])
    mine, theirs = embed(mixed, kind, k=20), embed(whole, kind, k=20)
    torch.testing.assert_close(uniqueness_scores(mine)[1:-1], uniqueness_scores(theirs))
    assert torch.isnan(uniqueness_scores(mine)).tolist() == [True] + [False] * 9 + [True]
    assert continuous_uniqueness(mine).denominator == 11
    assert continuous_uniqueness(mine).numerator == pytest.approx(
        continuous_uniqueness(theirs).numerator
    )
    assert first_of_group(mine).tolist()[0] is False
    torch.testing.assert_close(
        novelty_scores(mine, mine)[1:-1], torch.zeros(9, dtype=torch.float64), atol=1e-9, rtol=0
    )
    ones = torch.ones(11)
    scores = vsun_scores(ones, ones, uniqueness_scores(mine), ones, how="mean")
    assert scores[[0, -1]].tolist() == [0.0, 0.0]
    assert float(scores[1:-1].min()) > 0


def test_stability_falls_from_the_hull_on():
    energy = torch.tensor([-0.1, 0.0, 0.4289 / 2, 0.4289, 1.0, float("nan")])
    expected = [1.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert stability_scores(energy).tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match="above 0"):
        stability_scores(energy, limit=0.0)


UNIT = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@given(UNIT, st.lists(st.floats(0.1, 4), min_size=4, max_size=4))
def test_vsun_by_hand(values, weights):
    parts = [torch.tensor([x], dtype=torch.float64) for x in values]
    product = float(vsun_scores(*parts, weights=weights))
    assert product == pytest.approx(np.prod([x**w for x, w in zip(values, weights, strict=True)]))
    mean = float(vsun_scores(*parts, weights=weights, how="mean"))
    assert mean == pytest.approx(np.average(values, weights=weights), abs=1e-12)
    assert 0 <= product <= 1
    assert min(values) - 1e-12 <= mean <= max(values) + 1e-12


def test_yes_and_no_make_a_share():
    v, s, u, n = (torch.tensor(x) for x in ([1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]))
    metric = vsun(v, s, u, n)
    assert (metric.value, metric.numerator, metric.denominator) == (0.25, 1.0, 4)
    assert vsun(v, s, u, n, weights=(1, 1, 0, 1)).value == 0.5  # uniqueness is not asked for
    assert vsun(v, s, u, n, how="mean").value == pytest.approx(13 / 16)
    assert "1/1/0/1" in vsun(v, s, u, n, weights=(1, 1, 0, 1)).name


def test_bad_scores_and_no_crystals():
    one = torch.ones(1)
    with pytest.raises(InputError, match="weights"):
        vsun_scores(one, one, one, one, weights=(1.0, 1.0))
    with pytest.raises(InputError, match="weights"):
        vsun_scores(one, one, one, one, weights=(0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="between 0 and 1"):
        vsun_scores(one, 2 * one, one, one)
    empty = embed(CrystalBatch.empty(), "amd")
    assert np.isnan(continuous_uniqueness(empty).value)
    assert binary_uniqueness(empty).denominator == 0
    assert vsun(*[torch.zeros(0)] * 4).denominator == 0


def test_the_sheet_agrees_with_its_parts():
    rng = torch.Generator().manual_seed(4)
    new = perturbed(prototypes(), step=0.2, strain=0.05, rng=rng)
    batch = concatenate([prototypes().select([0, 0]), new, BROKEN])
    known = KnownPrints.build(prototypes(), name="prototypes", k=30)
    above = torch.tensor([0.0, 0.0, *[0.02 * i for i in range(9)], 0.0], dtype=torch.float64)
    valid = torch.ones(12, dtype=torch.bool)
    found = {m.name: m for m in vsun_sheet(batch, known, validity=valid, above_hull=above)}
    assert {m.denominator for m in found.values()} == {12}
    # Two copies of a known crystal, nine new ones of which those to 0.1 eV/atom count, one broken.
    assert found["uniqueness (elmd+amd)"].numerator == 10
    assert found["novelty (elmd+amd)"].numerator == 9
    assert found["VSUN@0.1 (elmd+amd)"].numerator == 6
    embedding = embed(batch, "elmd+amd", k=30)
    novelty = known.novelty(batch)
    by_hand = stability_scores(above) * uniqueness_scores(embedding) * novelty
    expected = float(by_hand.nan_to_num(nan=0.0).sum()) / 12
    assert found["VSUN (product, weights 1/1/1/1)"].value == pytest.approx(expected)
    assert 0 < expected < 1
