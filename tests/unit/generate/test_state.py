"""The dense state and the lattice numbers."""

import torch

from matmill.crystals.lattice import metric_tensor
from matmill.generate.state import LatticeScale, from_dense, time_features, to_dense


def test_lattice_numbers_round_trip(crystals):
    scale = LatticeScale.fit(crystals)
    y = scale.encode(crystals.lattice, crystals.n_atoms)
    back = scale.decode(y, crystals.n_atoms)
    torch.testing.assert_close(
        metric_tensor(back), metric_tensor(crystals.lattice), atol=1e-9, rtol=1e-9
    )


def test_last_number_is_the_volume_per_atom(crystals):
    scale = LatticeScale(mean=torch.zeros(6).double(), std=torch.ones(6).double())
    y = scale.encode(crystals.lattice, crystals.n_atoms)
    expected = torch.log(crystals.volume / crystals.n_atoms) / 3
    torch.testing.assert_close(y[:, 5], expected)


def test_dense_round_trip_keeps_every_atom(crystals):
    scale = LatticeScale.fit(crystals)
    for n, (index, dense) in to_dense(crystals, scale).items():
        back = from_dense(dense, scale)
        given = crystals.select(index)
        assert dense.n == n
        assert torch.equal(back.atomic_numbers, given.atomic_numbers)
        torch.testing.assert_close(back.frac_coords, given.frac_coords, atol=1e-6, rtol=0)
        torch.testing.assert_close(back.volume, given.volume, rtol=1e-5, atol=0)


def test_clock_features_tell_start_from_end():
    ends = time_features(torch.tensor([0.0, 1.0]))
    assert (ends[0] - ends[1]).abs().max() > 1.9
