from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.data.loader import AtomBudgetLoader, Position
from matmill.errors import InputError

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=200).map(torch.tensor)


@given(sizes, st.integers(40, 200), st.integers(0, 5), st.booleans())
def test_an_epoch_has_every_row_once_within_the_budget(n_atoms, budget, epoch, is_padded):
    loader = AtomBudgetLoader(n_atoms, budget, seed=3, is_padded=is_padded)
    batches = loader.epoch(epoch)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(n_atoms)))
    for rows in batches:
        cost = len(rows) * n_atoms[rows].max() if is_padded else n_atoms[rows].sum()
        assert cost <= budget


@given(sizes, st.integers(1, 7))
def test_crystals_per_batch_can_be_bounded(n_atoms, most):
    loader = AtomBudgetLoader(n_atoms, 10_000, max_crystals=most)
    batches = loader.epoch(0)
    assert max(len(rows) for rows in batches) == min(most, len(n_atoms))
    assert sum(len(rows) for rows in batches) == len(n_atoms)


def test_no_batch_could_have_taken_the_next_row():
    n_atoms = torch.randint(1, 20, (500,), generator=torch.Generator().manual_seed(0))
    loader = AtomBudgetLoader(n_atoms, 100, is_shuffled=False)
    batches = loader.epoch(0)
    for rows, following in pairwise(batches):
        assert n_atoms[rows].sum() + n_atoms[following[0]] > 100


def test_same_seed_and_epoch_same_batches_and_others_differ():
    n_atoms = torch.randint(1, 20, (300,), generator=torch.Generator().manual_seed(0))

    def flat(seed, epoch):
        return torch.cat(AtomBudgetLoader(n_atoms, 200, seed=seed).epoch(epoch)).tolist()

    assert flat(1, 4) == flat(1, 4)
    assert flat(1, 4) != flat(1, 5)
    assert flat(1, 4) != flat(2, 4)


def test_a_run_continues_at_any_position():
    n_atoms = torch.randint(1, 20, (300,), generator=torch.Generator().manual_seed(0))
    loader = AtomBudgetLoader(n_atoms, 400, seed=1)
    stream = loader.batches()
    seen = [next(stream) for _ in range(3 * len(loader.epoch(0)))]
    for place in (0, 2, len(loader.epoch(0)) + 1):
        again = loader.batches(seen[place][0])
        for position, rows in seen[place : place + 9]:
            other, others = next(again)
            assert other == position
            assert torch.equal(others, rows)


def test_sizes_are_alike_within_a_batch():
    n_atoms = torch.randint(1, 65, (20_000,), generator=torch.Generator().manual_seed(0))
    batches = AtomBudgetLoader(n_atoms, 2048).epoch(0)
    padded = sum(len(rows) * int(n_atoms[rows].max()) for rows in batches)
    assert padded / int(n_atoms.sum()) < 1.10
    assert len(batches) < 1.05 * int(n_atoms.sum()) / 2048 + 1


def test_the_order_of_batches_does_not_follow_size():
    n_atoms = torch.randint(1, 65, (20_000,), generator=torch.Generator().manual_seed(0)).float()
    means = [float(n_atoms[rows].mean()) for rows in AtomBudgetLoader(n_atoms, 2048).epoch(0)]
    ranks = torch.arange(len(means)).float()
    assert abs(float(torch.corrcoef(torch.stack([ranks, torch.tensor(means)]))[0, 1])) < 0.2


def test_a_crystal_that_fits_nowhere_is_an_error():
    with pytest.raises(InputError, match="Crystal 1 has 50 atoms"):
        AtomBudgetLoader(torch.tensor([3, 50, 7]), 40)


def test_an_empty_table_has_no_batches():
    loader = AtomBudgetLoader(torch.zeros(0, dtype=torch.int64), 40)
    assert loader.epoch(0) == []
    assert list(loader.batches(Position(2, 1))) == []
