"""Crystals on disk: the same batches as in memory, made once, refused where they do not fit."""

import json

import pytest
import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.formats import parquet
from matmill.errors import DataError, InputError
from matmill.generate import shards
from matmill.generate.conditions import SCALARS
from matmill.generate.dataset import TrainingSet, usable
from matmill.generate.shards import ShardedSet
from matmill.generate.train import labelled_crystals


def made(crystals: CrystalBatch, n: int, seed: int) -> CrystalBatch:
    """Return many rattled crystals with some labels missing."""
    rng = torch.Generator().manual_seed(seed)
    many = crystals.select(torch.randint(len(crystals), (n,), generator=rng))
    f = many.frac_coords + 0.02 * torch.rand(many.frac_coords.shape, generator=rng).double()
    gap = torch.rand(n, generator=rng).double()
    gap[::3] = torch.nan
    return CrystalBatch(
        lattice=many.lattice * (1 + 0.1 * torch.rand(n, 1, 1, generator=rng).double()),
        frac_coords=f,
        atomic_numbers=many.atomic_numbers,
        n_atoms=many.n_atoms,
        ids=tuple(f"{seed}-{i}" for i in range(n)),
        properties={
            "band_gap_ev": gap,
            "spacegroup": torch.randint(1, 231, (n,), generator=rng).double(),
        },
    )


@pytest.fixture
def folder(crystals, tmp_path):
    """Two Parquet files, a few rows of which are of the test part."""
    place = tmp_path / "parts"
    place.mkdir()
    for k, n in enumerate((70, 50)):
        split = ["test" if i % 10 == 0 else "train" for i in range(n)]
        parquet.write(made(crystals, n, k), place / f"part-{k}.parquet", extra={"split": split})
    return place


def in_memory(folder):
    parts = [labelled_crystals(file, split="train")[0] for file in sorted(folder.iterdir())]
    whole = usable(concatenate(parts), max_atoms=20)
    return TrainingSet(whole, whole.properties["spacegroup"].long(), n_tokens=40)


def opened(folder, **changes):
    options = {"cache": folder.parent / "cache", "max_atoms": 20, "split": "train", "n_tokens": 40}
    return ShardedSet.of_parquet(folder, **{**options, **changes})


def test_batches_and_statistics_equal_those_in_memory(folder, monkeypatch):
    monkeypatch.setattr(shards, "_ROWS_AT_ONCE", 17)
    mine, theirs = opened(folder), in_memory(folder)
    assert len(mine) == len(theirs) == 108
    assert mine.counts == theirs.counts
    assert torch.equal(mine.shapes, theirs.shapes)
    assert torch.equal(mine.shape_counts, theirs.shape_counts)
    assert torch.equal(mine.elements, theirs.elements)
    torch.testing.assert_close(mine.scale.mean, theirs.scale.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(mine.scale.std, theirs.scale.std, rtol=1e-10, atol=0)
    for name in SCALARS:
        assert mine.schema[name].count == theirs.schema[name].count
        assert mine.schema[name].high == pytest.approx(theirs.schema[name].high, nan_ok=True)
        assert mine.schema[name].mean == pytest.approx(theirs.schema[name].mean)
    assert mine.n_batches() == theirs.n_batches()
    pairs = zip(
        mine.epoch(0, torch.Generator().manual_seed(3)),
        theirs.epoch(0, torch.Generator().manual_seed(3)),
        strict=True,
    )
    n_seen = 0
    for a, b in pairs:
        assert torch.equal(a.crystals.z, b.crystals.z)
        torch.testing.assert_close(a.crystals.f, b.crystals.f, rtol=0, atol=0)
        torch.testing.assert_close(a.crystals.y, b.crystals.y, rtol=0, atol=1e-6)
        for name, values in vars(b.conditions).items():
            assert torch.equal(vars(a.conditions)[name].nan_to_num(-9), values.nan_to_num(-9)), name
        n_seen += len(a.crystals)
    assert n_seen == 108


def test_conversion_happens_once_for_one_content(folder):
    events = []
    opened(folder, on_event=events.append)
    assert events[-1].done == events[-1].total == 120
    opened(folder, on_event=pytest.fail)
    cache = folder.parent / "cache"
    assert len(list(cache.iterdir())) == 1
    first = parquet.read(folder / "part-0.parquet").crystals
    parquet.write(first.select(torch.arange(30)), folder / "part-0.parquet")
    assert len(opened(folder)) < 108
    assert len(list(cache.iterdir())) == 2


def test_a_broken_conversion_leaves_nothing_behind(folder):
    (folder / "part-9.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"part-9.parquet is no readable Parquet file"):
        opened(folder)
    assert list((folder.parent / "cache").iterdir()) == []


def test_nothing_to_train_on_is_said(folder, tmp_path):
    with pytest.raises(DataError, match=r"None of 0 crystals.*split 'nowhere'"):
        opened(folder, split="nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no Parquet file"):
        opened(tmp_path / "empty")


def test_arrays_of_another_version_are_refused(folder):
    opened(folder)
    (place,) = (folder.parent / "cache").iterdir()
    about = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**about, "format": 0}))
    with pytest.raises(DataError, match="another matmill"):
        ShardedSet(place)
