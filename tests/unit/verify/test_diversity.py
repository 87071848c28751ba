"""Effective numbers: copies count once, strangers count in full, and hand counts in between."""

import math

import numpy as np
import pytest
import torch
from crystals_for_tests import perturbed, prototypes
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import InputError
from matmill.verify.diversity import (
    PLACES,
    diversity,
    element_diversity,
    fingerprint_diversity,
    fingerprint_kernel,
    formula_diversity,
    size_diversity,
    space_group_diversity,
    vendi_score,
)


def rng():
    return torch.Generator().manual_seed(0)


def test_copies_are_one_crystal_and_strangers_are_many():
    salt = prototypes().select([0])
    assert vendi_score(torch.ones(5, 5)) == pytest.approx(1.0)
    assert vendi_score(torch.eye(5)) == pytest.approx(5.0)
    assert fingerprint_diversity(concatenate([salt] * 5), rng()).value == pytest.approx(1.0)
    # Nine prototypes of nine formulas: all different on a fine scale, less so on a coarse one.
    fine, coarse = (
        vendi_score(fingerprint_kernel(prototypes(), places=p, angstrom=a))
        for p, a in ((0.1, 0.01), (50.0, 5.0))
    )
    assert fine == pytest.approx(9.0, abs=1e-3)
    assert 1.0 < coarse < fingerprint_diversity(prototypes(), rng()).value < fine


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_on_kinds_it_is_the_entropy_of_the_shares(kinds):
    label = torch.tensor(kinds)
    kernel = (label[:, None] == label).double()
    shares = torch.bincount(label).double() / len(kinds)
    shares = shares[shares > 0]
    expected = math.exp(float(-(shares * shares.log()).sum()))
    assert vendi_score(kernel) == pytest.approx(expected, rel=1e-6)


def test_similar_crystals_count_in_part():
    half = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    # Eigenvalues 3/4 and 1/4.
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert vendi_score(half) == pytest.approx(expected)


def test_the_kernel_is_positive_and_ranks_as_it_should():
    salt = prototypes().select([0])
    near = perturbed(salt, step=0.02, strain=0.0, rng=rng())
    batch = concatenate([salt, near, prototypes().select([1]), prototypes().select([6])])
    kernel = fingerprint_kernel(batch, k=30)
    assert float(torch.linalg.eigvalsh(kernel).min()) > -1e-12
    assert torch.allclose(kernel.diagonal(), torch.ones(4, dtype=torch.float64))
    assert 1.0 > float(kernel[0, 1]) > float(kernel[0, 2]) > float(kernel[0, 3]) > 0.0
    # The diagonal matches the documented scales: half a step of elements, by hand.
    potash = CrystalBatch(
        lattice=salt.lattice,
        frac_coords=salt.frac_coords,
        atomic_numbers=torch.where(salt.atomic_numbers == 11, 19, salt.atomic_numbers),
        n_atoms=salt.n_atoms,
    )
    pair = fingerprint_kernel(concatenate([salt, potash]), k=30)
    assert float(pair[0, 1]) == pytest.approx(math.exp(-0.5 / PLACES))


def test_elements_count_by_their_share():
    salt = prototypes().select([0])
    assert element_diversity(salt).value == pytest.approx(2.0)
    metals = prototypes().select([3, 4])
    assert element_diversity(metals).value == pytest.approx(2.0)
    mixed = concatenate([salt, metals.select([0])])  # Na 1/4, Cl 1/4, Cu 1/2
    expected = math.exp(0.5 * math.log(4) + 0.5 * math.log(2))
    assert element_diversity(mixed).value == pytest.approx(expected)
    assert element_diversity(mixed).denominator == 2


def test_kinds_of_groups_sizes_and_formulas():
    batch = prototypes()
    # 225 twice (NaCl, Cu), 227 twice (diamond, Si), 221 twice (CsCl, SrTiO3), 229, 186, 136.
    shares = np.array([2, 2, 2, 1, 1, 1]) / 9
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert space_group_diversity(batch).value == pytest.approx(expected)
    sizes = np.array([2, 3, 2, 1, 1]) / 9  # 8, 2, 4, 6 and 5 atoms
    assert size_diversity(batch).value == pytest.approx(math.exp(-(sizes * np.log(sizes)).sum()))
    formulas = np.array([3, 4, 1, 1]) / 9  # AB, A, AB2, ABC3
    assert formula_diversity(batch).value == pytest.approx(
        math.exp(-(formulas * np.log(formulas)).sum())
    )


def test_a_large_set_is_drawn_from_and_a_broken_one_left_out():
    many = concatenate([prototypes()] * 3)
    drawn = fingerprint_diversity(many, rng(), most=10)
    assert drawn.denominator == 10
    assert drawn.value == fingerprint_diversity(many, rng(), most=10).value
    broken = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[11]])
    whole = fingerprint_diversity(concatenate([broken, prototypes()]), rng())
    assert whole.denominator == 9
    assert whole.value == pytest.approx(fingerprint_diversity(prototypes(), rng()).value)


def test_no_crystals_and_no_similarity():
    empty = diversity(CrystalBatch.empty(), rng())
    assert [metric.denominator for metric in empty] == [0] * 5
    assert all(np.isnan(metric.value) for metric in empty)
    assert len(diversity(prototypes(), rng())) == 5
    with pytest.raises(InputError, match="diagonal"):
        vendi_score(torch.zeros(2, 2))
