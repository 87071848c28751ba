import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.errors import UnknownNameError
from matmill.predict.exact import ExactPredictor
from matmill.predict.protocol import load_predictor


def _salt_and_iron():
    return CrystalBatch.from_lists(
        [
            [[0.0, 2.82, 2.82], [2.82, 0.0, 2.82], [2.82, 2.82, 0.0]],
            [[2.866, 0.0, 0.0], [0.0, 2.866, 0.0], [0.0, 0.0, 2.866]],
        ],
        [[[0, 0, 0], [0.5, 0.5, 0.5]], [[0, 0, 0], [0.5, 0.5, 0.5]]],
        [[11, 17], [26, 26]],
    )


def test_density_equals_pymatgen():
    from matmill.crystals.convert import to_structure

    batch = _salt_and_iron()
    found = load_predictor("density").predict(batch)
    expected = [float(to_structure(batch, i).density) for i in range(2)]
    assert found.mean.tolist() == pytest.approx(expected, rel=1e-4)
    assert found.std.tolist() == [0.0, 0.0]
    assert found.column == "density_g_cm3"


def test_volume_and_elements():
    batch = _salt_and_iron()
    volume = ExactPredictor("volume_per_atom_a3").predict(batch)
    assert volume.mean.tolist() == pytest.approx([2 * 2.82**3 / 2, 2.866**3 / 2])
    assert load_predictor("n_elements").predict(batch).mean.tolist() == [2.0, 1.0]
    assert bool(torch.all(volume.in_domain))


def test_only_computed_properties_have_a_formula():
    with pytest.raises(UnknownNameError):
        ExactPredictor("band_gap_ev")
