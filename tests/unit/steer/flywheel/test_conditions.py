"""Values that synthetic crystals are asked for follow the labels, or leave their range."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from matmill.errors import DataError
from matmill.steer.flywheel.conditions import BEYOND, MARGIN, draw, is_skewed


def labels_of(kind, n=400, seed=0):
    rng = np.random.default_rng(seed)
    drawn = {"normal": rng.normal(3.0, 2.0, n), "skewed": rng.lognormal(1.0, 1.0, n)}
    return torch.from_numpy(drawn[kind])


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_a_density_draws_like_the_labels(kind):
    labels = labels_of(kind)
    drawn = draw(labels, 4000, "kde", torch.Generator().manual_seed(1))
    # The kernel widens the law a little, so equality is not asked for, only closeness.
    assert ks_2samp(labels.numpy(), drawn.numpy()).statistic < 0.08
    assert is_skewed(labels.numpy()) == (kind == "skewed")
    if kind == "skewed":
        assert float(drawn.min()) > 0


@given(st.integers(0, 2**31), st.sampled_from(["kde", "flat", "beyond"]), st.booleans())
def test_values_stay_inside_what_their_law_allows(seed, law, positive):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randn(30, generator=rng, dtype=torch.float64) * 5.0
    labels = labels.abs() if positive else labels
    drawn = draw(labels, 200, law, rng)
    low, high = float(labels.min()), float(labels.max())
    if is_skewed(labels.numpy()):
        return
    span = high - low
    reach = {"kde": MARGIN, "flat": 0.0, "beyond": BEYOND}[law] * span
    assert float(drawn.min()) >= low - reach - 1e-9
    assert float(drawn.max()) <= high + reach + 1e-9
    if law == "beyond":
        inside = (drawn > low) & (drawn < high)
        assert not bool(inside.any())
    if positive:
        assert float(drawn.min()) >= 0.0


def test_a_flat_law_fills_the_tails():
    labels = labels_of("normal")
    drawn = draw(labels, 4000, "flat", torch.Generator().manual_seed(0))
    counts = torch.histc(drawn, 8, float(labels.min()), float(labels.max()))
    assert float(counts.min()) > 400


def test_the_same_seed_draws_the_same_values():
    labels = labels_of("skewed")
    first, second = (draw(labels, 50, "kde", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_labels_that_are_all_alike_are_refused():
    with pytest.raises(DataError, match="two different labels"):
        draw(torch.full((10,), 2.0), 5, "kde", torch.Generator())
