import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
import torch
from sqlalchemy import inspect, text

from matmill.campaign import migrations
from matmill.campaign.database import Database
from matmill.campaign.migrations import STEPS, backup_path
from matmill.campaign.records import Evaluation
from matmill.campaign.schema import SCHEMA_VERSION
from matmill.campaign.store import Store
from matmill.crystals.batch import CrystalBatch
from matmill.errors import StoreError

sys.path.insert(0, str(Path(__file__).parent))
old = import_module("store_v1")


def gallium_nitride():
    return CrystalBatch(
        lattice=torch.tensor(old.LATTICE, dtype=torch.float64).reshape(1, 3, 3),
        frac_coords=torch.tensor(old.COORDS, dtype=torch.float64).reshape(2, 3),
        atomic_numbers=torch.tensor(old.NUMBERS),
        n_atoms=torch.tensor([2]),
    )


@pytest.fixture
def old_store(store_url):
    database = Database(store_url)
    with database.writing() as connection:
        if database.schema:
            connection.execute(text(f"CREATE SCHEMA {database.schema}"))
        for statement in old.statements(database.engine.dialect.name):
            connection.exec_driver_sql(statement)
        for table, row in old.rows(gallium_nitride().hashes[0]).items():
            columns = ", ".join(f'"{name}"' for name in row)
            marks = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), row)
    yield database
    database.close()


def test_every_version_has_a_step_to_the_next():
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))


def test_a_store_of_version_1_is_read_at_the_newest(old_store, store_url):
    (one,) = gallium_nitride().hashes
    with closing(Store(store_url)) as store:
        assert store.setting("schema_version") == SCHEMA_VERSION
        (found,) = store.candidates()
        assert (found.proposed, found.fate, found.stage) == (one, "passed", "screen")
        assert found.values == {"smallest_distance_a": 2.5, "nothing": None}
        assert torch.equal(store.batch([one]).lattice, gallium_nitride().lattice)
        paid = Evaluation(
            structure=one, status="passed", result=one, values={"energy_ev": -3.25}, seconds=0.5
        )
        assert store.evaluations("relax-1", [one]) == {one: paid}
        store.log("relax", "finished", seconds=1.0)
        assert store.seconds_by_stage() == {"relax": 3.5}
    if old_store.file is not None:
        with closing(sqlite3.connect(backup_path(old_store.file, 1))) as copy:
            assert copy.execute("select value from run").fetchall() == [("1",)]
            assert copy.execute("select count(*) from structure").fetchone() == (1,)


def shape(database):
    """Tables, columns, keys and indexes as the database itself tells them."""
    with database.reading() as connection:
        inspector = inspect(connection)
        return {
            table: (
                {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)},
                inspector.get_pk_constraint(table)["constrained_columns"],
                sorted(
                    (key["constrained_columns"], key["referred_table"])
                    for key in inspector.get_foreign_keys(table)
                ),
                sorted((i["name"], i["column_names"]) for i in inspector.get_indexes(table)),
            )
            for table in inspector.get_table_names()
        }


def test_an_old_store_becomes_what_a_new_one_is(old_store, store_url, tmp_path):
    Store(store_url).close()
    fresh = str(tmp_path / "fresh.sqlite")
    if old_store.schema:
        fresh = store_url.replace(old_store.schema, f"{old_store.schema}_fresh")
    with closing(Store(fresh)) as store:
        assert shape(old_store) == shape(store.database)


def test_two_programs_may_open_an_old_store_at_once(old_store, store_url):
    assert old_store.schema or old_store.file
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(Store, [store_url] * 4))
    assert [store.setting("schema_version") for store in stores] == [SCHEMA_VERSION] * 4
    assert stores[0].n_candidates() == 1
    for store in stores:
        store.close()


def test_a_step_that_fails_changes_nothing(old_store, store_url, monkeypatch):
    def fails(connection):
        STEPS[1](connection)
        raise RuntimeError("power cut")

    monkeypatch.setattr(migrations, "STEPS", {1: fails})
    with pytest.raises(RuntimeError, match="power cut"):
        Store(store_url)
    monkeypatch.undo()
    with old_store.reading() as connection:
        assert not inspect(connection).has_table("task")
        assert connection.scalar(text("select value from run")) == "1"
    with closing(Store(store_url)) as store:
        assert store.n_candidates() == 1


def test_no_step_is_taken_without_a_copy(old_store, store_url, monkeypatch):
    if old_store.file is None:
        pytest.skip("a server has backups of its own")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(migrations.os, "replace", full)
    with pytest.raises(StoreError, match=r"no copy of it can be made first: .*No space left"):
        Store(store_url)
    monkeypatch.undo()
    with old_store.reading() as connection:
        assert connection.scalar(text("select value from run")) == "1"
    assert [p.name for p in old_store.file.parent.glob("*.bak*")] == []


def test_a_store_that_died_while_it_was_made_is_finished(old_store, store_url):
    with old_store.writing() as connection:
        connection.execute(text("delete from run"))
    with closing(Store(store_url)) as store:
        assert store.setting("schema_version") == SCHEMA_VERSION
