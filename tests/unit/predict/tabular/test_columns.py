import pytest
import torch

from matmill.data.folds import formula_folds
from matmill.errors import DataError
from matmill.predict.descriptors.blocks import BLOCKS
from matmill.predict.descriptors.table import Features
from matmill.predict.tabular.columns import N_AXES, Preparation, prepare
from matmill.predict.tabular.kept import kept_features
from matmill.predict.tabular.rows import choose_blocks, settled


def make(n=120):
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(n, 60, generator=rng, dtype=torch.float64)
    values[:, 1] = 4.0
    values[::5, 2] = torch.nan
    values[0, 3] = 1e6
    names = [f"structure.c{i}" for i in range(10)] + [f"potential.f{i}" for i in range(50)]
    return Features(values, tuple(names))


def test_trees_get_plain_columns_and_axes_of_learned_ones():
    features = make()
    found = prepare(
        features, features.values[:, 0], blocks=("structure", "potential"), view="plain"
    )
    columns = found.apply(features)
    assert columns.shape == (120, found.n_columns)
    assert found.n_columns == 9 + N_AXES
    assert "structure.c1" not in found.names
    place = found.names.index("structure.c2")
    assert bool(columns[::5, place].isnan().all())
    axes = columns[:, 9:].double()
    spread = torch.corrcoef(axes.T) - torch.eye(N_AXES)
    assert float(spread.abs().max()) < 1e-3  # principal axes do not overlap


@pytest.mark.parametrize("view", ["standard", "ranked"])
def test_scaled_columns_have_no_gaps_and_no_giants(view):
    features = make()
    target = features.values[:, 5]
    found = prepare(features, target, blocks=("structure",), view=view)
    columns = found.apply(features)
    assert bool(torch.isfinite(columns).all())
    assert float(columns.abs().max()) <= 4.0
    if view == "ranked":
        assert found.names[0] == "structure.c5"


def test_rows_do_not_change_what_was_fitted_and_files_neither():
    features = make()
    found = prepare(features, features.values[:, 0], blocks=("structure",), view="standard")
    few = found.apply(features.select_rows([3, 1]))
    assert torch.equal(few, found.apply(features)[[3, 1]])
    again = Preparation.of(found.as_card(), found.tensors())
    assert torch.equal(again.apply(features), found.apply(features))


def test_blocks_suit_the_rows():
    from matmill.crystals.batch import CrystalBatch
    from matmill.crystals.compositions import parse_formulas

    salt = CrystalBatch.from_lists(
        [[[0.0, 2.82, 2.82], [2.82, 0.0, 2.82], [2.82, 2.82, 0.0]]],
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    layer = CrystalBatch.from_lists(
        [[[2.46, 0.0, 0.0], [-1.23, 2.13, 0.0], [0.0, 0.0, 20.0]]],
        [[[0.0, 0.0, 0.5], [1 / 3, 2 / 3, 0.5]]],
        [[6, 6]],
    )

    def chosen(batch, preset):
        return choose_blocks(batch, wanted=None, preset=preset)

    assert chosen(parse_formulas(["NaCl"]), "full") == ("composition", "elements")
    assert chosen(salt, "fast") == ("composition", "elements", "structure")
    assert chosen(layer, "full")[-2:] == ("slab", "potential")
    assert chosen(salt, "thorough")[-2:] == ("vibrations", "potential")
    assert set(chosen(layer, "thorough")) <= set(BLOCKS)


def test_rounding_noise_is_settled():
    values = torch.tensor(
        [[1e-16, 0.0], [7.939672792370262, 7.9396727923702635], [-1e300, 3e-5]],
        dtype=torch.float64,
    )
    found = settled(values)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1, 0] == found[1, 1]
    assert torch.allclose(found[1:], values[1:], rtol=1e-8)
    assert settled(torch.tensor([[torch.nan, torch.inf]])).isnan().tolist() == [[True, True]]


def test_folds_keep_formulas_together_and_spread_classes():
    formulas = tuple(f"F{i // 3}" for i in range(90))
    classes = torch.tensor([float(i // 3 % 5 == 0) for i in range(90)]).double()
    fold = formula_folds(formulas, classes, 3, classify=True, seed=0)
    for formula in set(formulas):
        rows = [i for i, f in enumerate(formulas) if f == formula]
        assert len(set(fold[rows].tolist())) == 1
    ones = [int(classes[fold == k].sum()) for k in range(3)]
    assert torch.bincount(fold).tolist() == [30, 30, 30]
    assert max(ones) - min(ones) <= 3


def test_classes_of_one_formula_cannot_be_compared():
    formulas = tuple("NaCl" if i < 4 else f"F{i}" for i in range(30))
    classes = torch.tensor([1.0] * 4 + [0.0] * 26)
    with pytest.raises(DataError, match="at least two formulas of each class"):
        formula_folds(formulas, classes, 3, classify=True, seed=0)
    with pytest.raises(DataError, match="have the formula NaCl"):
        formula_folds(("NaCl",) * 5, torch.arange(5.0), 3, classify=False, seed=0)


def test_descriptors_are_computed_once_a_row(tmp_path, monkeypatch):
    from matmill.crystals.compositions import parse_formulas
    from matmill.predict.tabular import kept
    from matmill.progress import ignore

    seen = []
    true = kept.compute

    def counted(batch, blocks, **more):
        seen.append(len(batch))
        return true(batch, blocks, **more)

    monkeypatch.setattr(kept, "compute", counted)
    blocks = ("composition", "elements")
    some = parse_formulas(["NaCl", "Fe2O3", "SiC"])
    more = parse_formulas(["SiC", "MgO", "NaCl"])
    first = kept_features(some, blocks, folder=tmp_path, on_event=ignore)
    again = kept_features(more, blocks, folder=tmp_path, on_event=ignore)
    assert seen == [1, 3, 1, 3, 1, 1, 1, 1]  # one row tells the names, then only new rows
    assert torch.equal(again.values[0].nan_to_num(), first.values[2].nan_to_num())
    assert torch.equal(again.values.nan_to_num(), true(more, blocks).values.nan_to_num())
    (tmp_path / "rows-elements.safetensors").write_bytes(b"broken")
    assert torch.equal(
        kept_features(more, blocks, folder=tmp_path, on_event=ignore).values.nan_to_num(),
        again.values.nan_to_num(),
    )
