import json

import pytest
import torch
from torch import nn

from matmill.errors import DataError
from matmill.training import checkpoint


def _tensors():
    return {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor([1, 2]), "s": torch.tensor(3)}


def test_round_trip_keeps_values_shapes_and_types(tmp_path):
    path = checkpoint.save(tmp_path / "deep" / "model", _tensors(), {"note": "x", "n": 3})
    tensors, card = checkpoint.load(path)
    assert set(tensors) == set(_tensors())
    for name, expected in _tensors().items():
        assert tensors[name].dtype == expected.dtype
        assert torch.equal(tensors[name], expected)
    assert card["note"] == "x"
    assert card["n"] == 3
    assert card["weights_sha256"] == checkpoint.hash_of(tmp_path / "deep" / "model")
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_dots_in_names_are_not_suffixes(tmp_path):
    path = checkpoint.save(tmp_path / "v1.2", _tensors(), {})
    assert path.name == "v1.2.safetensors"
    assert checkpoint.card_path(tmp_path / "v1.2").name == "v1.2.json"


def test_tied_and_strided_tensors_are_written(tmp_path):
    shared = torch.arange(4.0)
    checkpoint.save(tmp_path / "m", {"x": shared, "y": shared, "z": shared.reshape(2, 2).T}, {})
    tensors, _ = checkpoint.load(tmp_path / "m")
    assert torch.equal(tensors["z"], shared.reshape(2, 2).T)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no checkpoint .*m\.safetensors"):
        checkpoint.load(tmp_path / "m")
    checkpoint.save(tmp_path / "m", _tensors(), {})
    (tmp_path / "m.json").unlink()
    with pytest.raises(DataError, match=r"card .* is missing"):
        checkpoint.load(tmp_path / "m")


@pytest.mark.parametrize("n_bytes", [0, 5, 60])
def test_a_cut_file_is_reported(tmp_path, n_bytes):
    path = checkpoint.save(tmp_path / "m", _tensors(), {})
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(DataError, match="damaged"):
        checkpoint.load(path)


def test_foreign_content_is_reported(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR." * 20)
    with pytest.raises(DataError, match="damaged"):
        checkpoint.load(path)


def test_a_card_of_other_weights_is_refused_unless_recovering(tmp_path):
    path = checkpoint.save(tmp_path / "m", _tensors(), {"version": 2})
    card = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps({**card, "version": 1, "weights_sha256": "0"}))
    with pytest.raises(DataError, match="does not belong"):
        checkpoint.load(path)
    assert checkpoint.load(path, recover=True)[1]["version"] == 2


def test_a_card_can_be_rewritten(tmp_path):
    path = checkpoint.save(tmp_path / "m", _tensors(), {"score": None})
    checkpoint.rewrite_card(path, {"score": 0.5})
    assert checkpoint.load(path)[1]["score"] == 0.5


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("matmill.training.checkpoint.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_load_into_names_the_first_difference():
    module = nn.Linear(3, 2)
    good = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    checkpoint.load_into(module, good, source="m")
    assert torch.equal(module.weight, torch.ones(2, 3))
    with pytest.raises(DataError, match=r"'weight' has shape \(2, 4\)"):
        checkpoint.load_into(module, {**good, "weight": torch.ones(2, 4)}, source="m")
    with pytest.raises(DataError, match="'bias' is missing in the checkpoint"):
        checkpoint.load_into(module, {"weight": torch.ones(2, 3)}, source="m")
