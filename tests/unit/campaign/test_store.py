import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from matmill.campaign.records import PASSED, Evaluation, Row
from matmill.campaign.store import Store
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import StoreError


def crystals(n, seed=0, size=3):
    rng = torch.Generator().manual_seed(seed)
    return concatenate(
        [
            CrystalBatch(
                lattice=torch.eye(3, dtype=torch.float64)[None] * (4.0 + i)
                + 0.1 * torch.rand(1, 3, 3, generator=rng, dtype=torch.float64),
                frac_coords=torch.rand(size, 3, generator=rng, dtype=torch.float64),
                atomic_numbers=torch.randint(1, 90, (size,), generator=rng),
                n_atoms=torch.tensor([size]),
            )
            for i in range(n)
        ]
    )


@pytest.fixture
def store(store_url):
    opened = Store(store_url)
    yield opened
    opened.close()


@given(st.integers(0, 6), st.integers(0, 1000), st.integers(1, 5))
def test_crystals_come_back_to_the_last_bit(tmp_path_factory, n, seed, size):
    store = Store(tmp_path_factory.mktemp("s") / "a.sqlite")
    batch = crystals(n, seed, size)
    ids = store.add_structures(batch)
    again = store.batch(ids)
    assert torch.equal(again.lattice, batch.lattice)
    assert torch.equal(again.frac_coords, batch.frac_coords)
    assert torch.equal(again.atomic_numbers, batch.atomic_numbers)
    assert again.ids == batch.hashes
    store.close()


def test_ids_may_repeat_and_come_in_any_order(store):
    ids = store.add_structures(crystals(3))
    assert store.batch([ids[2], ids[0], ids[2]]).ids == (ids[2], ids[0], ids[2])
    assert len(store.batch([])) == 0
    with pytest.raises(StoreError, match="no crystal"):
        store.batch(["nowhere"])


def test_a_crystal_is_kept_once(store):
    batch = crystals(2)
    store.add_structures(batch)
    store.add_structures(batch)
    with store.transaction() as connection:
        assert connection.scalar(text("select count(*) from structure")) == 2


def test_a_task_is_added_once(store):
    first = store.add(crystals(3), round_number=0, task=0, origin="flow")
    assert store.add(crystals(3), round_number=0, task=0, origin="flow") == first == [0, 1, 2]
    assert store.add(crystals(3), round_number=0, task=1, origin="flow") == [3, 4, 5]
    assert store.has_task(0, 1)
    assert not store.has_task(1, 0)
    assert [c.proposed for c in store.candidates()][:3] == list(crystals(3).hashes)


def test_stages_hand_over_what_passed(store):
    store.add(crystals(4), round_number=0, task=0, origin="flow")
    assert store.unfinished("screen") == [0, 1, 2, 3]
    store.finish("screen", [Row(candidate=0, fate="duplicate", reason="same"), Row(candidate=1)])
    assert store.unfinished("screen") == [2, 3]
    assert store.unfinished("shortlist") == store.entrants("shortlist") == [1]
    store.finish("screen", [Row(candidate=2), Row(candidate=3)])
    store.finish("shortlist", [Row(candidate=2, values={"shortlist_round": 0})])
    assert store.entrants("shortlist") == [1, 2, 3]
    assert store.unfinished("shortlist") == [1, 3]
    assert store.entrants("relax") == [2]


def test_the_first_objection_stays_and_values_add_up(store):
    ids = store.add_structures(crystals(2, seed=5))
    store.add(crystals(1), round_number=0, task=0, origin="flow")
    store.finish("screen", [Row(candidate=0, values={"a": 1.0, "nan": math.nan})])
    store.finish("shortlist", [Row(candidate=0)])
    store.finish("relax", [Row(candidate=0, structure=ids[1], values={"energy_ev": -3.0})])
    store.finish("hull", [Row(candidate=0, fate="above_hull", reason="0.3 eV/atom")])
    store.finish("predict", [Row(candidate=0, values={"band_gap_ev": 2.0})])
    (found,) = store.candidates()
    assert (found.fate, found.stage, found.reason) == ("above_hull", "hull", "0.3 eV/atom")
    assert found.structure == ids[1]
    assert found.values == {"a": 1.0, "nan": None, "energy_ev": -3.0, "band_gap_ev": 2.0}


def test_finish_writes_all_or_nothing(store):
    store.add(crystals(2), round_number=0, task=0, origin="flow")
    evaluations = [Evaluation(structure="not-there", values={"energy_ev": 1.0})]
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.finish("screen", [Row(candidate=0)], evaluator="e", evaluations=evaluations)
    assert store.unfinished("screen") == [0, 1]
    assert all(c.fate == PASSED and c.stage == "propose" for c in store.candidates())


def test_evaluations_are_paid_once(store):
    ids = store.add_structures(crystals(3))
    done = [Evaluation(structure=ids[0], values={"energy_ev": -1.5}, result=ids[1], seconds=2.0)]
    store.finish("shortlist", [], evaluator="chgnet", evaluations=done)
    assert store.evaluations("chgnet", ids) == {ids[0]: done[0]}
    assert store.evaluations("other", ids) == {}


def test_settings_and_times(store):
    store.set_settings(seed=3, inputs={"hull": "abc"})
    store.set_settings(seed=4)
    assert store.setting("seed") == 4
    assert store.setting("inputs") == {"hull": "abc"}
    assert store.setting("nothing") is None
    store.log("relax", "finished", seconds=1.5)
    store.log("relax", "finished", seconds=2.0)
    assert store.seconds_by_stage() == {"relax": 3.5}


def test_a_store_of_a_newer_version_is_refused(store, store_url):
    store.set_settings(schema_version=99)
    with pytest.raises(StoreError, match=r"newer matmill \(schema 99; .*\)\. Update matmill"):
        Store(store_url)


def test_what_is_no_store_is_refused(tmp_path):
    path = tmp_path / "text.sqlite"
    path.write_text("hello " * 100)
    with pytest.raises(StoreError, match="cannot be used: file is not a database"):
        Store(path)


def test_many_ids_fit_into_statements(store):
    batch = crystals(1200, size=1)
    ids = store.add_structures(batch)
    assert store.batch(ids).ids == ids
