"""A full disk and a locked database in the middle of a study: it stops, and goes on as if not."""

import sqlite3
from contextlib import closing

import pytest
from wheel_tables import quick, salts, what_was_found

from matmill.campaign.store import Store
from matmill.campaign.tasks import TaskBoard
from matmill.campaign.workers import InlineWorkers
from matmill.errors import StoreError
from matmill.steer.flywheel.wheel import Wheel

SETTINGS = quick(n_runs=1, modes=("semi-supervised",), rounds=2)


def wheel(store, folder, **more):
    return Wheel(
        salts(),
        SETTINGS,
        board=TaskBoard(store),
        folder=folder,
        workers=InlineWorkers(),
        **more,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with closing(Store(folder / "w.sqlite")) as store:
        return what_was_found(wheel(store, folder).run().as_dict()), TaskBoard(store).counts()


@pytest.mark.parametrize("at", [1, 4, 9])
@pytest.mark.parametrize("fault", ["full disk", "locked database"])
def test_a_study_goes_on_after(fault, at, expected, tmp_path):
    file = tmp_path / "w.sqlite"
    other = sqlite3.connect(file, isolation_level=None)
    events = 0

    def break_it(_):
        nonlocal events
        events += 1
        if events != at:
            return
        if fault == "locked database":
            other.execute("BEGIN IMMEDIATE")
        else:
            with store.transaction() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    with closing(Store(file, patience_s=0.2)) as store:
        says = "is locked by another process" if "locked" in fault else "the disk is full"
        with pytest.raises(StoreError, match=says):
            wheel(store, tmp_path, on_event=break_it).run()
    if fault == "locked database":
        other.execute("ROLLBACK")
    other.close()
    with closing(Store(file)) as store:
        table, counts = expected
        assert what_was_found(wheel(store, tmp_path).run().as_dict()) == table
        assert TaskBoard(store).counts() == counts


def test_what_had_failed_is_tried_again_when_asked_for(expected, tmp_path, monkeypatch):
    def no_memory(_self, _given):
        raise MemoryError("a smaller machine")

    with closing(Store(tmp_path / "w.sqlite")) as store:
        with monkeypatch.context() as broken:
            broken.setattr("matmill.steer.flywheel.making.Make.__call__", no_memory)
            lost = wheel(store, tmp_path).run()
        errors = [score.error for score in lost.scores if score.error]
        assert errors
        assert all("a smaller machine" in error for error in errors)
        again = wheel(store, tmp_path).run()
        assert what_was_found(again.as_dict()) == what_was_found(lost.as_dict())
        board = TaskBoard(store, retry_failed=True)
        mended = Wheel(salts(), SETTINGS, board=board, folder=tmp_path, workers=InlineWorkers())
        assert what_was_found(mended.run().as_dict()) == expected[0]
