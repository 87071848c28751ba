import csv
import importlib.util

import pytest

from matmill.errors import MissingExtraError, UnknownNameError
from matmill.training.trackers import CsvLog, make_tracker


def _rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_csv_grows_rows_and_columns(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    log.log(1, {"loss": 2.0})
    log.log(2, {"loss": 1.0, "validation": 3.0})
    rows = _rows(tmp_path / "log.csv")
    assert [row["loss"] for row in rows] == ["2", "1"]
    assert [row["validation"] for row in rows] == ["", "3"]


def test_resuming_drops_rows_after_the_checkpoint_and_half_rows(tmp_path):
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    for step in range(1, 6):
        log.log(step, {"loss": float(step)})
    with path.open("a") as file:
        file.write("garb")
    again = CsvLog(path, last_step=3)
    again.log(4, {"loss": 9.0})
    assert [row["loss"] for row in _rows(path)] == ["1", "2", "3", "9"]


def test_unknown_tracker_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'wandb'"):
        make_tracker("wandbb", None, run_name="x")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_trackers_store_or_say_what_to_install(tmp_path, name, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    if importlib.util.find_spec(name) is None:
        with pytest.raises(MissingExtraError, match="pip install"):
            make_tracker(name, tmp_path, run_name="x")
        return
    tracker = make_tracker(name, tmp_path, run_name="x")
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert any(p.is_file() for p in tmp_path.rglob("*"))
