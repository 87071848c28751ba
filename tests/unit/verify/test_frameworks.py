"""Novelty of frameworks: swaps of lanthanides do not count, structures do."""

import numpy as np
import torch
from crystals_for_tests import prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify.frameworks import (
    find_frameworks,
    framework_novelty,
    known_prototypes,
    merge_lanthanides,
)

FCC = [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]


def rock_salts(*pairs, a=5.0):
    """Return rock salts of these pairs of atomic numbers."""
    sites = FCC + [(x + 0.5, y, z) for x, y, z in FCC]
    return CrystalBatch.from_lists(
        [a * np.eye(3)] * len(pairs), [sites] * len(pairs), [[x] * 4 + [y] * 4 for x, y in pairs]
    )


def test_merging_changes_lanthanides_alone():
    batch = rock_salts((60, 7), (92, 7), (11, 17))
    merged = merge_lanthanides(batch)
    assert merged.formula == ("LaN", "UN", "NaCl")
    assert merge_lanthanides(batch, actinides=True).formula == ("LaN", "LaN", "NaCl")
    assert batch.formula == ("NdN", "UN", "NaCl")
    assert torch.equal(merged.lattice, batch.lattice)


def test_a_swap_of_lanthanides_is_no_new_framework():
    known = concatenate([rock_salts((57, 7), a=5.3), prototypes()])
    new = concatenate([rock_salts((62, 7), a=5.0), rock_salts((39, 7)), prototypes().select([0])])
    frameworks = find_frameworks(new, known)
    assert frameworks == [0, None, 1]
    prototype = known_prototypes(new, known)
    assert prototype == [True, True, True]
    found = framework_novelty([None, None, "mp-1"], frameworks, prototype)
    assert [metric.numerator for metric in found] == [1, 1, 1]
    assert {metric.denominator for metric in found} == {3}
    uranium = rock_salts((92, 7))
    assert find_frameworks(uranium, known) == [None]
    assert find_frameworks(uranium, known, actinides=True) == [0]


def test_the_structure_still_decides():
    """CsCl-type LaN is no rock-salt LaN, whatever is merged."""
    packed = CrystalBatch.from_lists([3.2 * np.eye(3)], [[(0, 0, 0), (0.5, 0.5, 0.5)]], [[60, 7]])
    assert find_frameworks(packed, rock_salts((57, 7))) == [None]
    assert known_prototypes(packed, rock_salts((57, 7))) == [False]
    assert known_prototypes(packed, prototypes()) == [True]  # CsCl is among them


def test_no_crystals_have_no_frameworks():
    empty = CrystalBatch.empty()
    assert find_frameworks(empty, prototypes()) == []
    assert find_frameworks(prototypes().select([0]), empty) == [None]
    assert framework_novelty([], [])[0].denominator == 0
    broken = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[11]])
    assert known_prototypes(broken, broken) == [False]
