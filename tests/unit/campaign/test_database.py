import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
from sqlalchemy import text

from matmill.campaign.database import Database
from matmill.campaign.records import Row
from matmill.campaign.store import Store
from matmill.errors import StoreError

sys.path.insert(0, str(Path(__file__).parent))
adders = import_module("store_adders")


def test_two_drivers_add_at_once_and_nothing_is_lost_or_doubled(store_url):
    """Both try to add the same 40 tasks, in opposite orders, each with a connection of its own."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(adders.fill, store_url, order) for order in ("up", "down")]:
            done.result()
    with closing(Store(store_url)) as store:
        candidates = store.candidates()
        assert [c.number for c in candidates] == list(range(3 * adders.N_TASKS))
        proposed = {task: adders.crystals(task).hashes for task in range(adders.N_TASKS)}
        by_task = {}
        with store.reading() as connection:
            for number, task in connection.execute(text("select number, task from candidate")):
                by_task.setdefault(task, []).append(number)
        assert {t: len(numbers) for t, numbers in by_task.items()} == dict.fromkeys(proposed, 3)
        for task, numbers in by_task.items():
            assert tuple(candidates[n].proposed for n in sorted(numbers)) == proposed[task]
        assert all(c.stage == "screen" for c in candidates)
        assert store.setting("up") == store.setting("down") == "finished"
        assert len(store.seconds_by_stage()) == 1


def test_a_locked_store_is_one_line_and_goes_on_afterwards(store_url):
    store, other = Store(store_url, patience_s=0.3), Store(store_url)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with other.transaction():
            inside.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(20)
    with pytest.raises(StoreError, match=r"is locked by another process \(waited 0\.3 s\)"):
        store.set_settings(a=1)
    assert store.setting("a") is None  # readers do not wait
    leave.set()
    holder.join()
    store.set_settings(a=1)
    assert store.setting("a") == 1
    store.close()
    other.close()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    with closing(Store(tmp_path / "a.sqlite")) as store:
        store.add(adders.crystals(0), round_number=0, task=0, origin="flow")
        with store.transaction() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreError, match="the disk is full"):
            store.log("relax", "x" * 100_000)
        assert store.n_candidates() == 3
        with store.transaction() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=100000")
        store.log("relax", "x" * 100_000)
        store.finish("screen", [Row(candidate=0)])
        assert store.unfinished("screen") == [1, 2]


def test_texts_of_any_kind_are_kept(store_url):
    """Error texts of foreign programs hold what SQL texts must not."""
    with closing(Store(store_url)) as store:
        store.add(adders.crystals(0), round_number=0, task=0, origin="flow")
        reason = "nul \0 half \ud800 quote ' \N{SNOWMAN}"
        store.finish("screen", [Row(candidate=0, fate="failed", reason=reason, values={"a": "\0"})])
        found = store.candidates([0])[0]
        assert found.reason == "nul  half ? quote ' \N{SNOWMAN}"
        assert found.values == {"a": "\0"}


def test_schemas_keep_stores_apart(postgres):
    one, two = (Store(f"{postgres}&schema={name}") for name in ("apart_1", "apart_2"))
    one.set_settings(a=1)
    assert two.setting("a") is None
    one.close()
    two.close()
    with pytest.raises(StoreError, match="'a-b; drop' is no name"):
        Store(f"{postgres}&schema=a-b; drop")


def test_options_of_the_url_are_kept(postgres):
    database = Database(f"{postgres}&options=-c%20statement_timeout%3D12345")
    with closing(database), database.reading() as connection:
        assert connection.scalar(text("show statement_timeout")) == "12345ms"
        assert connection.scalar(text("show lock_timeout")) == "30s"


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(StoreError, match="cannot be reached or used: ") as error:
        Store(f"postgresql://me:secret@/base?host={tmp_path}")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert "me:***@" in str(error.value)


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'matmill\[postgres\]'"):
        Store("postgresql://localhost/base")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://localhost/base", "No store on mysql"),
        ("nonsense://x", "cannot be read|No store on"),
        ("postgresql+psycopg://host:port/base", "cannot be read"),
    ],
)
def test_other_addresses_are_refused(url, says):
    with pytest.raises(StoreError, match=says):
        Store(url)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(StoreError, match="unable to open database file"):
        Store(tmp_path / "nowhere" / "a.sqlite")
