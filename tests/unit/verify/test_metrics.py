"""Metrics against SciPy, hand-made sets and their own limits."""

import numpy as np
import pytest
import torch
from crystals_for_tests import perturbed, prototypes
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify import metrics
from matmill.verify.metrics import Metric


def test_wasserstein_vectors():
    def w(a, b):
        return metrics.wasserstein(*(torch.tensor(x, dtype=torch.float64) for x in (a, b)))

    assert w([1, 2, 3], [2, 3, 4]) == pytest.approx(1.0)
    assert w([2, 2, 2, 3], [3, 3, 3, 3]) == pytest.approx(0.75)
    assert w([0, 1], [0, 1, 1, 1]) == pytest.approx(0.25)
    assert np.isnan(w([float("nan")], [1.0]))


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=20),
    st.lists(st.floats(-10, 10), min_size=1, max_size=20),
)
def test_wasserstein_is_scipys(a, b):
    from scipy.stats import wasserstein_distance

    mine = metrics.wasserstein(*(torch.tensor(x, dtype=torch.float64) for x in (a, b)))
    assert mine == pytest.approx(wasserstein_distance(a, b), abs=1e-9)


def test_a_set_against_itself():
    batch = prototypes()
    assert all(m.value == 0.0 for m in metrics.distribution_distances(batch, batch))
    assert metrics.uniqueness(batch).value == 1.0
    assert metrics.geometric_validity(batch).value == 1.0
    assert metrics.p1_share(batch).value == 0.0
    matched = {m.name: m for m in metrics.csp_match(batch, batch)}
    assert matched["CSP match rate (0.3/0.5/10)"].value == 1.0
    assert matched["CSP RMSE of the matches"].value == pytest.approx(0.0, abs=1e-6)
    by_size = [m.denominator for name, m in matched.items() if "atoms" in name]
    assert sum(by_size) == len(batch)


def test_copies_count_once():
    n = 4
    copies = concatenate([prototypes().select([0])] * n)
    metric = metrics.uniqueness(copies)
    assert (metric.value, metric.numerator, metric.denominator) == (1 / n, 1, n)


def test_broken_crystals_stay_in_the_denominator():
    meeting = CrystalBatch.from_lists(
        [np.eye(3) * 5.0], [[[0, 0, 0], [0.05, 0, 0]]], [[11, 17]], ids=["meeting"]
    )
    batch = concatenate([prototypes(), meeting])
    metric = metrics.geometric_validity(batch)
    assert (metric.numerator, metric.denominator) == (9, 10)
    assert metrics.roomy(batch).denominator == 10
    diamond_is_tight = 1.55  # its bond has 1.546 Å
    assert metrics.roomy(prototypes(), diamond_is_tight).numerator == 8
    assert str(metric) == "geometric validity (0.5 Å, self-images): 90.0 % (9 of 10)"


def test_compositions_are_shared_out():
    found = {m.name: m for m in metrics.compositional_validity(prototypes())}
    kinds = [m.numerator for name, m in found.items() if name.startswith("compositions")]
    assert sum(kinds) == 9
    assert found["compositions: element"].numerator == 4
    assert found["compositional validity (icsd24)"].value == 1.0


def test_mismatched_crystals_do_not_match():
    batch = prototypes()
    turned = batch.select([1, 0, *range(2, 9)])
    rate = metrics.csp_match(turned, batch)[0]
    assert (rate.numerator, rate.denominator) == (7, 9)


def test_rmsd_sees_atoms_and_not_cells():
    rng = torch.Generator().manual_seed(0)
    batch = prototypes()
    swollen = CrystalBatch(
        lattice=batch.lattice * 1.1,
        frac_coords=(batch.frac_coords + 0.3) % 1.0,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )
    assert float(metrics.relaxation_rmsd(batch, swollen).max()) < 1e-9
    shaken = perturbed(batch, step=0.1, strain=0.0, rng=rng)
    moved = metrics.relaxation_rmsd(batch, shaken)
    assert bool(((moved > 0.02) & (moved < 0.4)).all())


def test_unknown_energies_are_not_metastable():
    above = torch.tensor([0.0, 0.05, 0.2, float("nan")])
    metric = metrics.metastable_share(above)
    assert (metric.numerator, metric.denominator) == (2, 4)
    assert metrics.mean("x", above).denominator == 3
    assert isinstance(metrics.novelty([None, ("mp-1", True)]), Metric)
    assert metrics.novelty([None, ("mp-1", True)]).value == 0.5


def test_sun_needs_all_three():
    above = torch.tensor([-0.01, 0.0, 0.03, 0.08, 0.3, float("nan"), -0.5])
    is_new = torch.tensor([True, True, True, True, True, True, False])
    found = metrics.sun_shares(above, is_new)
    assert [m.numerator for m in found] == [2, 3, 4]
    assert {m.denominator for m in found} == {7}
    other = metrics.sun_shares(above, is_new, limits=(0.2,), judged="after relaxation")
    assert [m.name for m in other] == ["SUN@0.2, new after relaxation"]
