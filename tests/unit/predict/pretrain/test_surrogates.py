import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.pretrain.surrogates import shuffled, surrogate, with_wrong_labels

GAPS = [0.0, 0.5, 1.0, 2.9, 3.0, 7.0, float("nan")]


def table(**columns):
    n = 7
    return LabelledCrystals(
        crystals=CrystalBatch(
            lattice=torch.stack(
                [4.0 * torch.eye(3).double()] * 6 + [torch.diag(torch.tensor([3.0, 4, 5]).double())]
            ),
            frac_coords=torch.zeros(n, 3).double(),
            atomic_numbers=torch.full((n,), 11),
            n_atoms=torch.ones(n, dtype=torch.int64),
            properties={k: torch.tensor(v, dtype=torch.float64) for k, v in columns.items()},
        ),
        source="seven.csv",
    )


def test_metals_have_no_gap():
    found = surrogate(table(band_gap_ev=GAPS), "metal")
    assert found.labels.tolist() == [0, 1, 1, 1, 1, 1, -1]
    assert found.counts == {"metal": 1, "non-metal": 5}


def test_gap_classes_begin_at_their_edges():
    assert surrogate(table(band_gap_ev=GAPS), "gap-class").labels.tolist() == [0, 1, 2, 2, 3, 3, -1]


def test_moments_of_either_sign_are_magnetic():
    moments = [0.0, 0.05, 0.5, -2.0, float("nan"), 1e-6, 0.2]
    found = surrogate(table(total_magnetization_mu_b=moments), "magnetic")
    assert found.labels.tolist() == [0, 0, 1, 1, -1, 0, 1]


def test_gap_type_needs_to_know_what_is_direct():
    direct = [0.0, 1.0, 0.0, 1.0, float("nan"), 0.0, 1.0]
    found = surrogate(table(band_gap_ev=GAPS, is_gap_direct=direct), "gap-type")
    assert found.labels.tolist() == [0, 1, 2, 1, -1, 2, -1]
    with pytest.raises(DataError, match="'gap-type' needs a column 'is_gap_direct'"):
        surrogate(table(band_gap_ev=GAPS), "gap-type")


def test_the_crystal_system_is_read_or_found():
    read = surrogate(table(spacegroup=[1, 2, 3, 16, 75, 143, 230.0]), "crystal-system")
    assert [read.classes[i] for i in read.labels.tolist()] == [
        *("triclinic", "triclinic", "monoclinic", "orthorhombic"),
        *("tetragonal", "trigonal", "cubic"),
    ]
    found = surrogate(table(), "crystal-system")
    assert [found.classes[i] for i in found.labels.tolist()] == ["cubic"] * 6 + ["orthorhombic"]


def test_bad_tables_are_named():
    with pytest.raises(DataError, match="needs a column 'band_gap', which seven"):
        surrogate(table(), "metal")
    with pytest.raises(DataError, match="has only 'metal' in seven"):
        surrogate(table(band_gap_ev=[0.0] * 7), "metal")
    with pytest.raises(DataError, match="has no known value"):
        surrogate(table(band_gap_ev=[float("nan")] * 7), "metal")
    with pytest.raises(UnknownNameError, match="Did you mean 'metal'"):
        surrogate(table(), "metall")


def test_wrong_labels_are_as_many_as_asked_and_all_wrong():
    labels = torch.arange(1000) % 4
    labels[::10] = -1
    wrong = with_wrong_labels(labels, 0.3, seed=5)
    changed = wrong != labels
    assert int(changed.sum()) == 270
    assert torch.equal(wrong < 0, labels < 0)
    assert set(wrong[changed].tolist()) == {0, 1, 2, 3}
    assert torch.equal(wrong, with_wrong_labels(labels, 0.3, seed=5))
    assert torch.equal(with_wrong_labels(labels, 0.0, seed=5), labels)
    with pytest.raises(InputError, match="0 to 1"):
        with_wrong_labels(labels, 1.5, seed=5)


def test_shuffled_labels_keep_counts_but_no_meaning():
    labels = torch.arange(3000) % 3
    labels[::10] = -1
    dealt = shuffled(labels, seed=1)
    known = labels >= 0
    assert torch.equal(dealt < 0, labels < 0)
    assert torch.equal(torch.bincount(dealt[known]), torch.bincount(labels[known]))
    agree = float((dealt == labels)[known].double().mean())
    assert 0.29 < agree < 0.38
