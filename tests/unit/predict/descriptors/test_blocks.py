"""The blocks together: names, pieces, the cache, and one clear line for each mistake."""

import pytest
import torch
from descriptor_crystals import known_crystals, rock_salt

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.descriptors import blocks
from matmill.predict.descriptors.blocks import BLOCKS, FROM_FORMULA, compute
from matmill.predict.descriptors.describe import describe
from matmill.predict.descriptors.table import Features, stack
from matmill.predict.descriptors.table import concatenate as join

CHEAP = ["composition", "elements", "structure", "slab"]


@pytest.fixture(scope="module")
def features() -> Features:
    return compute(known_crystals(), CHEAP)


def test_names_carry_their_block(features: Features):
    assert {name.partition(".")[0] for name in features.names} == set(CHEAP)
    assert features.values.dtype == torch.float64
    assert len(features) == len(known_crystals())
    assert not torch.isinf(features.values).any()


def test_every_column_is_described(features: Features):
    texts = describe(features.names)
    assert set(texts) == set(features.names)
    assert all(len(text) > 10 and not text[0].islower() for text in texts.values())
    assert not any("{" in text or "\\" in text for text in texts.values())
    with pytest.raises(UnknownNameError, match="nonsense"):
        describe(["structure.nonsense"])


def test_pieces_give_what_the_whole_gives(features: Features, monkeypatch):
    monkeypatch.setattr(blocks, "_PIECE_ATOMS", 5)
    events = []
    again = compute(known_crystals(), CHEAP, on_event=events.append)
    assert again.names == features.names
    torch.testing.assert_close(again.values, features.values, equal_nan=True, rtol=1e-9, atol=1e-9)
    assert events[-1].done == len(known_crystals())


def test_kept_blocks_are_equal_to_the_bit(tmp_path, monkeypatch):
    batch = known_crystals()
    first = compute(batch, CHEAP, folder=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == len(CHEAP)

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(blocks, "_in_pieces", fail)
    second = compute(batch.with_ids(["x"] * len(batch)), CHEAP, folder=tmp_path / "kept")
    assert torch.equal(first.values.view(torch.int64), second.values.view(torch.int64))
    assert first.names == second.names
    with pytest.raises(AssertionError, match="again"):
        compute(rock_salt(a=5.65), ["slab"], folder=tmp_path / "kept")


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_named(tmp_path, damage):
    compute(rock_salt(), ["slab"], folder=tmp_path)
    (path,) = tmp_path.iterdir()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        compute(known_crystals(), ["slab"], folder=tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
        path.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match=f"{path.name} .*delete"):
        compute(rock_salt(), ["slab"], folder=tmp_path)


def test_formulas_have_no_structure():
    formulas = parse_formulas(["NaCl", "Fe0.5Ni0.5"])
    assert len(compute(formulas, sorted(FROM_FORMULA))) == 2
    for block in set(BLOCKS) - FROM_FORMULA:
        with pytest.raises(InputError, match=f"'{block}' needs structures"):
            compute(formulas, [block])


def test_unknown_and_missing_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'slab'"):
        compute(rock_salt(), ["slabs"])
    with pytest.raises(InputError, match="No descriptor block"):
        compute(rock_salt(), [])


def test_empty_batches_have_all_columns(features: Features):
    assert compute(CrystalBatch.empty(), CHEAP).names == features.names
    empty = compute(CompositionBatch.empty(), ["composition"])
    assert empty.values.shape == (0, empty.n_columns)


def test_a_batch_does_not_change_its_members(features: Features):
    for i in range(len(features)):
        alone = compute(known_crystals().select([i]), CHEAP)
        torch.testing.assert_close(
            alone.values[0], features.values[i], equal_nan=True, rtol=1e-9, atol=1e-9
        )


def test_large_cells_work():
    cell = [[12.0, 0, 0], [3.0, 13.0, 0], [-2.0, 4.0, 14.0]]
    rng = torch.Generator().manual_seed(1)
    sites = torch.rand(200, 3, generator=rng, dtype=torch.float64)
    large = CrystalBatch.from_lists([cell], [sites.tolist()], [[14] * 100 + [8] * 100])
    both = compute(concatenate([large, rock_salt()]), ["structure", "slab"])
    assert torch.isfinite(both.values[1]).all()
    assert torch.isfinite(both.values[0]).all()


class TestFeatures:
    table = Features(torch.arange(6).reshape(3, 2).double(), ("a", "b"))

    def test_rows_and_columns(self):
        assert self.table.select_rows([2, 0]).values.tolist() == [[4, 5], [0, 1]]
        assert self.table.select_rows(torch.tensor([True, False, False])).values.shape == (1, 2)
        assert self.table.select_columns(["b"]).names == ("b",)
        assert self.table.select_columns([1, 0]).values.tolist() == [[1, 0], [3, 2], [5, 4]]
        assert self.table.select_columns([]).values.shape == (3, 0)
        assert self.table.column("a").tolist() == [0, 2, 4]

    def test_joining(self):
        assert join(self.table, self.table.prefixed("x")).names == ("a", "b", "x.a", "x.b")
        assert len(stack([self.table, self.table])) == 6
        with pytest.raises(InputError, match="'a' occurs more than once"):
            join(self.table, self.table)
        with pytest.raises(InputError, match=r"\[2, 3\] rows"):
            join(self.table, self.table.prefixed("x").select_rows([0, 1]))
        with pytest.raises(InputError, match="different columns"):
            stack([self.table, self.table.prefixed("x")])
        with pytest.raises(InputError, match="no table"):
            join()
        with pytest.raises(InputError, match="no table"):
            stack([])

    def test_mistakes(self):
        with pytest.raises(UnknownNameError, match="column"):
            self.table.select_columns(["c"])
        with pytest.raises(InputError, match="names"):
            Features(torch.zeros(2, 2), ("a",))
