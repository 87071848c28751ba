import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.graphs.radial import DistanceTable, gaussians


def test_values_follow_the_formula():
    found = gaussians(torch.tensor([1.3]).double())[0]
    assert found.shape == (41,)
    for i in (5, 6, 7, 8):
        assert found[i] == pytest.approx(math.exp(-(((1.3 - 0.2 * i) / 0.2) ** 2)))


@given(st.lists(st.floats(0.0, 9.0, width=32), min_size=1, max_size=20))
def test_no_value_is_tiny_but_not_zero(distances):
    values = gaussians(torch.tensor(distances))
    assert not bool(((values > 0) & (values < 1e-6)).any())
    assert bool((values <= 1).all())


@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=20))
def test_table_agrees_with_the_product(distances):
    torch.manual_seed(0)
    table = DistanceTable(16).eval()
    d = torch.tensor(distances)
    with torch.no_grad():
        torch.testing.assert_close(table(d), table.exact(d), atol=2e-4, rtol=0.0)


def test_training_takes_the_nearest_row():
    torch.manual_seed(0)
    table = DistanceTable(4, step=0.1)
    d = torch.tensor([1.02, 1.08])
    torch.testing.assert_close(table.train()(d), table.exact(torch.tensor([1.0, 1.1])))


def test_gradients_reach_the_weights():
    table = DistanceTable(4)
    table(torch.tensor([2.0, 3.0])).sum().backward()
    direct = gaussians(torch.tensor([2.0, 3.0])).sum(0).expand(4, -1)
    torch.testing.assert_close(table.weight.grad, direct, atol=1e-5, rtol=0.0)
