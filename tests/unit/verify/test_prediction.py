"""Scores of structure prediction on crystals whose matches are known."""

from itertools import pairwise

import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import InputError
from matmill.verify.prediction import best_of, both_valid, match_distances, polymorph_distances

# Primitive: the matcher reduces cells, and noise would stop it from reducing a larger one.
SALT = CrystalBatch.from_lists(
    [[[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]],
    [[[0, 0, 0], [0.5, 0.5, 0.5]]],
    [[11, 17]],
)
# The same formula in the structure of CsCl: another polymorph.
OTHER_SALT = CrystalBatch.from_lists(
    [[[3.3, 0, 0], [0, 3.3, 0], [0, 0, 3.3]]], [[[0, 0, 0], [0.5, 0.5, 0.5]]], [[11, 17]]
)
RUTILE = prototypes().select([6])
TRUTH = concatenate([crystal.with_ids(()) for crystal in (SALT, OTHER_SALT, RUTILE)])


def noisy(batch: CrystalBatch, seed: int) -> CrystalBatch:
    return perturbed(batch, step=0.08, strain=0.0, rng=torch.Generator().manual_seed(seed))


def test_distances_are_the_matchers():
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from matmill.crystals.convert import to_structure

    made = noisy(TRUTH, 1)
    found = match_distances([made, TRUTH], TRUTH)
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    for i in range(3):
        expected = matcher.get_rms_dist(to_structure(TRUTH, i), to_structure(made, i))
        assert expected is not None
        assert float(found[0, i]) == pytest.approx(expected[0])
    assert found[1].tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    assert match_distances([], TRUTH).shape == (0, 3)
    with pytest.raises(InputError, match="2 predictions for 3"):
        match_distances([TRUTH.select([0, 1])], TRUTH)


def test_predictions_of_another_polymorph_count_for_metre():
    swapped = TRUTH.select([1, 0, 2])
    own = match_distances([swapped], TRUTH)
    assert torch.isfinite(own).tolist() == [[False, False, True]]
    grouped = polymorph_distances([swapped], TRUTH, own)
    assert grouped[0].tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    # One polymorph predicted twice finds that one alone, and the better prediction counts.
    twice = concatenate([noisy(OTHER_SALT, 2), OTHER_SALT, RUTILE])
    grouped = polymorph_distances([twice], TRUTH, match_distances([twice], TRUTH))
    assert torch.isfinite(grouped).tolist() == [[False, True, True]]
    assert float(grouped[0, 1]) == pytest.approx(0.0, abs=1e-6)


def test_more_samples_never_hurt():
    rounds = [noisy(TRUTH, seed) for seed in range(4)]
    own = match_distances(rounds, TRUTH)
    best = [best_of(own[: k + 1]) for k in range(4)]
    for fewer, more in pairwise(best):
        assert bool((more <= fewer).all())
    torch.testing.assert_close(best[-1], own.amin(0))
    gaps = torch.tensor([[float("nan"), 0.2, float("nan")], [float("nan"), float("nan"), 0.1]])
    assert best_of(gaps).nan_to_num(nan=-1.0).tolist() == pytest.approx([-1.0, 0.2, 0.1])


def test_the_gate_looks_at_both_sides():
    nacl2 = CrystalBatch.from_lists(
        [SALT.lattice[0].numpy()], [[[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0]]], [[11, 17, 17]]
    )
    meeting = CrystalBatch.from_lists(
        [SALT.lattice[0].numpy()], [[[0, 0, 0], [0.01, 0, 0]]], [[11, 17]]
    )
    made = concatenate([crystal.with_ids(()) for crystal in (SALT, nacl2, meeting, SALT)])
    truth = concatenate([crystal.with_ids(()) for crystal in (SALT, SALT, SALT, nacl2)])
    assert both_valid(made, truth).tolist() == [True, False, False, False]
