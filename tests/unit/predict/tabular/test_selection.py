import pytest
import torch
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from matmill.predict.tabular.selection import (
    N_BINS,
    binned,
    entropies,
    mutual_information,
    normalised_information,
    ranked,
    usable,
)


def make(n=500, c=5):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, c, generator=rng, dtype=torch.float64)


def test_bins_have_equal_counts_and_ties_stay_together():
    x = make(1600, 1)
    assert torch.bincount(binned(x)[:, 0]).tolist() == [100] * N_BINS
    x = torch.tensor([0.0] * 50 + [1.0] * 3 + [2.0] * 47)[:, None]
    bins = binned(x)[:, 0]
    assert all(len(set(bins[x[:, 0] == v].tolist())) == 1 for v in (0.0, 1.0, 2.0))
    x[::10] = torch.nan
    assert (binned(x)[::10] == N_BINS).all()
    assert (binned(x)[1::10] < N_BINS).all()


def test_information_equals_sklearn():
    x = make()
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    x[::7, 2] = torch.nan
    bins = binned(x)
    ours = mutual_information(bins, bins)
    own = entropies(bins)
    shared = normalised_information(ours, own, own)
    for i in range(5):
        for j in range(5):
            pair = bins[:, i].tolist(), bins[:, j].tolist()
            assert float(ours[i, j]) == pytest.approx(mutual_info_score(*pair), abs=1e-5)
            expected = normalized_mutual_info_score(*pair)
            assert float(shared[i, j]) == pytest.approx(expected, abs=1e-5)


def test_information_of_normal_variables_comes_near_the_closed_form():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50_000, generator=rng, dtype=torch.float64)
    for r in (0.3, 0.6):
        c = r * a + (1 - r * r) ** 0.5 * b
        found = mutual_information(binned(a[:, None]), binned(c[:, None]))
        expected = -0.5 * torch.log(torch.tensor(1 - r * r))
        # Binning loses a little, chance adds (16 - 1)² / 2n = 0.002.
        assert float(found) == pytest.approx(float(expected), rel=0.08)


def test_dead_and_repeated_columns_are_dropped():
    x = make()
    x[:, 1] = 3.0
    x[:, 2] = x[:, 0]
    x[:, 3] = 0.0
    x[:5, 3] = 1.0
    assert usable(x).tolist() == [True, False, False, False, True]
    assert not usable(torch.full((10, 2), torch.nan)).any()


def test_relevant_columns_come_first_and_copies_late():
    x = make(800, 12)
    noise = torch.randn(800, 3, generator=torch.Generator().manual_seed(1))
    x[:, 9:] = x[:, :1] + 0.01 * noise  # near copies of column 0
    y = 2.0 * x[:, 0] + x[:, 1]
    order = ranked(x, y, 12).tolist()
    assert sorted(order) == list(range(12))
    first_of_copies = min(order.index(i) for i in (0, 9, 10, 11))
    assert first_of_copies == 0
    assert order.index(1) <= 2
    assert sum(i in (0, 9, 10, 11) for i in order[:4]) == 1
    assert ranked(x, y, 3).tolist() == order[:3]


def test_nothing_to_choose_from():
    assert ranked(torch.ones(20, 3), torch.arange(20.0), 5).tolist() == []
