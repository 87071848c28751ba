from contextlib import closing

import pytest

from matmill.campaign.history import (
    add_artifact,
    artifacts,
    find_artifact,
    last_round,
    note_round,
    prune,
    round_values,
    series,
    write_bytes,
)
from matmill.campaign.store import Store
from matmill.errors import StoreError


@pytest.fixture
def store(store_url):
    with closing(Store(store_url)) as opened:
        yield opened


def test_rounds_remember_values(store):
    assert last_round(store) is None
    assert round_values(store, 0) == {}
    note_round(store, 0, reward=0.1, picks=["a"])
    note_round(store, 2, reward=0.3)
    note_round(store, 0, reward=0.2)
    assert round_values(store, 0) == {"reward": 0.2, "picks": ["a"]}
    assert series(store, "reward") == {0: 0.2, 2: 0.3}
    assert last_round(store) == 2


def test_artifacts_are_found_and_checked(store, tmp_path):
    base = tmp_path / "run"
    digest = write_bytes(base / "models" / "a.bin", b"weights")
    made = add_artifact(
        store, "policy-1", base / "models" / "a.bin", kind="policy", base=base, round_number=1
    )
    assert made.hash == digest
    assert made.path == "models/a.bin"
    assert find_artifact(store, "policy-1", base=base) == (made, base / "models" / "a.bin")
    moved = base.rename(tmp_path / "elsewhere")
    assert find_artifact(store, "policy-1", base=moved)[1].read_bytes() == b"weights"
    (moved / "models" / "a.bin").write_bytes(b"other")
    with pytest.raises(StoreError, match="was changed after"):
        find_artifact(store, "policy-1", base=moved)
    (moved / "models" / "a.bin").unlink()
    with pytest.raises(StoreError, match="is gone"):
        find_artifact(store, "policy-1", base=moved)
    with pytest.raises(StoreError, match="no artifact called policy-2"):
        find_artifact(store, "policy-2", base=moved)


def test_old_checkpoints_go(store, tmp_path):
    for i in range(25):
        path = tmp_path / f"{i}.bin"
        write_bytes(path, bytes([i]))
        add_artifact(store, f"p{i}", path, kind="policy", base=tmp_path, round_number=i)
    write_bytes(tmp_path / "prior.bin", b"0")
    add_artifact(store, "prior", tmp_path / "prior.bin", kind="policy", base=tmp_path)
    gone = prune(store, "policy", base=tmp_path)
    assert len(gone) == 25 - 6
    left = {one.name for one in artifacts(store, "policy")}
    assert left == {"p0", "p10", "p20", "p22", "p23", "p24", "prior"}
    assert {p.stem for p in tmp_path.glob("*.bin")} == {"prior", "0", "10", "20", "22", "23", "24"}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matmill.campaign.history.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
