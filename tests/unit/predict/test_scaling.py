import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.errors import DataError
from matmill.predict.scaling import TargetScale

values_of = st.lists(st.floats(0.2, 600.0), min_size=2, max_size=20, unique=True)


@given(values_of, st.sampled_from(["bulk_modulus_vrh_gpa", "band_gap_ev", "my_column"]))
def test_there_and_back(values, column):
    values = torch.tensor(values).double()
    scale = TargetScale.of(column, values)
    torch.testing.assert_close(scale.from_learned(scale.to_learned(values)), values)
    assert scale.low == float(values.min())
    assert scale.high == float(values.max())


def test_moduli_are_learned_as_logarithms():
    scale = TargetScale.of("shear_modulus_vrh_gpa", torch.tensor([1.0, 10.0, 100.0, torch.nan]))
    assert scale.is_log
    assert scale.center == pytest.approx(1.0)
    assert scale.spread == pytest.approx(2 / 3)
    assert float(scale.to_learned(torch.tensor(100.0))) == pytest.approx(1.5)


def test_gaps_and_moduli_never_come_out_negative_but_energies_may():
    low = torch.tensor([-50.0])
    values = torch.tensor([0.0, 1.0, 2.0])
    assert float(TargetScale.of("band_gap_ev", values).from_learned(low)) == 0.0
    assert float(TargetScale.of("bulk_modulus_vrh_gpa", values + 1).from_learned(low)) >= 0.0
    energies = TargetScale.of("formation_energy_per_atom_ev", values)
    assert float(energies.from_learned(low)) < 0.0


def test_std_is_the_slope_times_the_learned_std():
    for column in ("bulk_modulus_vrh_gpa", "formation_energy_per_atom_ev"):
        scale = TargetScale.of(column, torch.tensor([10.0, 50.0, 200.0]))
        mean, std, step = torch.tensor(0.3).double(), torch.tensor(0.01).double(), 1e-4
        slope = (scale.from_learned(mean + step) - scale.from_learned(mean - step)) / (2 * step)
        expected = float(slope * std)
        assert float(scale.std_from_learned(mean, std)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("values", [[1.0, 1.0], [1.0], [float("nan")] * 3])
def test_targets_without_variation_are_refused(values):
    with pytest.raises(DataError, match="nothing can be learned"):
        TargetScale.of("band_gap_ev", torch.tensor(values))


def test_classes_become_probabilities():
    scale = TargetScale.of("is_metal", torch.tensor([0.0, 1.0, 1.0, 1.0, torch.nan]))
    assert scale.is_class
    assert scale.to_learned(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 1.0]
    assert scale.from_learned(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0.0, 0.5, 1.0]


def test_columns_with_many_zeros_and_nothing_below_stay_above_zero():
    gaps = torch.tensor([0.0, 0.0, 1.0, 2.5, 3.0])
    below = torch.tensor([-50.0])
    assert float(TargetScale.of("expt_gap_ev", gaps).from_learned(below)) == 0.0
    shifted = torch.cat([gaps, torch.tensor([-0.1])])
    assert float(TargetScale.of("expt_gap_ev", shifted).from_learned(below)) < 0.0
    assert float(TargetScale.of("expt_gap_ev", gaps + 0.1).from_learned(below)) < 0.0
