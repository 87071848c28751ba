"""The index is exact: against brute force, at ties, and with 100,000 references."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.errors import InputError
from matmill.verify.nearest import ChebyshevIndex


def brute(references, wanted, n):
    """Return the n smallest distances by comparing everything with everything."""
    references, wanted = (x.astype(np.float32).astype(np.float64) for x in (references, wanted))
    gap = np.abs(references[None] - wanted[:, None]).max(2)
    order = np.argsort(gap, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(gap, order, 1), order


def curves(n, rng, d=100):
    """Make vectors that look like average distances: rising, and alike within a family."""
    steps = rng.random((n, d)) * rng.choice([0.2, 1.0, 3.0], size=(n, 1))
    return np.cumsum(steps, axis=1) ** (1 / 3) * (1 + rng.random((n, 1)))


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**31))
def test_it_finds_what_brute_force_finds(n_references, d, n, seed):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, 4, (n_references, d)) * 0.5  # many ties
    wanted = rng.integers(0, 4, (5, d)) * 0.5 + rng.choice([0.0, 0.1], size=(5, 1))
    distances, rows = ChebyshevIndex(references).query(wanted, n)
    expected, order = brute(references, wanted, n)
    found = min(n, n_references)
    np.testing.assert_array_equal(distances[:, :found], expected)
    np.testing.assert_array_equal(rows[:, :found], order)
    assert np.isinf(distances[:, found:]).all()
    assert (rows[:, found:] == -1).all()


def test_columns_that_the_tree_does_not_hold_count():
    """All references agree in the tree's columns; only another column tells them apart."""
    references = np.zeros((500, 100))
    inside = set(ChebyshevIndex(references).columns.tolist())
    hidden = next(c for c in range(100) if c not in inside)
    references[:, hidden] = 1.0 + np.arange(500)
    wanted = np.zeros((1, 100))
    wanted[0, hidden] = 321.2
    distances, rows = ChebyshevIndex(references).query(wanted, 2)
    assert rows.tolist() == [[320, 321]]
    np.testing.assert_allclose(distances, [[0.2, 0.8]], atol=1e-4)


def test_smooth_curves():
    rng = np.random.default_rng(1)
    references, wanted = curves(3000, rng), curves(40, rng)
    distances, rows = ChebyshevIndex(references).query(wanted, 6)
    expected, order = brute(references, wanted, 6)
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(rows, order)


def test_nothing_to_look_in_or_for():
    empty = ChebyshevIndex(np.zeros((0, 7)))
    distances, rows = empty.query(np.zeros((2, 7)), 3)
    assert np.isinf(distances).all()
    assert (rows == -1).all()
    assert ChebyshevIndex(np.ones((3, 7))).query(np.zeros((0, 7)))[0].shape == (0, 1)


def test_bad_questions():
    index = ChebyshevIndex(np.ones((3, 7)))
    with pytest.raises(InputError, match="7 columns"):
        index.query(np.zeros((2, 6)))
    with pytest.raises(InputError, match="0 neighbours"):
        index.query(np.zeros((2, 7)), 0)
    with pytest.raises(InputError, match="finite"):
        ChebyshevIndex(np.array([[1.0, np.nan]]))


@pytest.mark.slow
def test_a_hundred_thousand_references():
    """Exact there too, and ten times the references cost far less than ten times the time."""
    rng = np.random.default_rng(2)
    wanted = curves(100, rng)
    references = curves(100_000, rng)
    spent = {}
    for n in (10_000, 100_000):
        index = ChebyshevIndex(references[:n])
        assert len(index.tree.indices) == n
        start = time.process_time()
        distances, _ = index.query(wanted, 3)
        spent[n] = time.process_time() - start
    expected = np.concatenate([brute(references, wanted[i : i + 1], 3)[0] for i in range(50)])
    np.testing.assert_array_equal(distances[:50], expected)
    assert spent[100_000] < 8 * spent[10_000]
    assert torch.from_numpy(distances).diff(dim=1).min() >= 0
