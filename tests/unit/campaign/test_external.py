import csv
import json
import math
import os
import time
from contextlib import closing

import pytest
import torch

from matmill.campaign.budget import MONEY, Budget
from matmill.campaign.evaluators import FAILED, OK, TIMED_OUT, Cost
from matmill.campaign.external import ExternalEvaluator, reopen
from matmill.campaign.store import Store
from matmill.crystals import files
from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError


def cells(n, start=0):
    return CrystalBatch.from_lists(
        [((4.0 + 0.1 * i) * torch.eye(3)).tolist() for i in range(start, start + n)],
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]] * n,
        [[31, 7]] * n,
    )


@pytest.fixture
def store(store_url):
    with closing(Store(store_url)) as opened:
        yield opened


@pytest.fixture
def make(store, tmp_path):
    def _make(**changes):
        given = {"columns": ["band_gap_ev"], "name": "lab", "settle_s": 0.0, **changes}
        return ExternalEvaluator(store, tmp_path / "lab", **given)

    return _make


def answer(folder, rows, columns=("id", "band_gap_ev"), name="results.csv"):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def test_inputs_are_complete_and_readable(make, tmp_path):
    batch = cells(3)
    name = make().submit(batch)
    folder = tmp_path / "lab" / name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [c["id"] for c in manifest["crystals"]] == sorted(batch.hashes)
    assert manifest["wanted"] == [{"column": "band_gap_ev", "unit": "eV", "low": 0.0, "high": 20.0}]
    read = files.read(folder / "crystals.extxyz").crystals
    assert sorted(read.hashes) == sorted(batch.hashes)
    for crystal in manifest["crystals"]:
        cif = files.read(folder / crystal["cif"]).crystals
        assert cif.formula == (crystal["formula"],) == ("GaN",)
    assert [p.name for p in (tmp_path / "lab").iterdir()] == [name]


def test_results_come_over_days_and_each_enters_one_update(make, store, tmp_path):
    lab = make()
    batch = cells(8)
    ids = sorted(batch.hashes)
    folder = tmp_path / "lab" / lab.submit(batch)
    assert lab.submit(batch) is None  # all of it is out
    answer(folder, [[one, 1.0 + i] for i, one in enumerate(ids[:3])])
    first = lab.collect()
    assert {e.structure: e.values["band_gap_ev"] for e in first.new} == {
        one: 1.0 + i for i, one in enumerate(ids[:3])
    }
    assert (first.n_out, first.problems) == (5, [])
    assert not lab.is_ready()
    # Days later, in another program: single files, and the table has grown.
    (again,) = reopen(store, settle_s=0.0)
    assert (again.hash, again.columns, again.cost) == (lab.hash, lab.columns, lab.cost)
    (folder / "results").mkdir()
    for one in ids[3:6]:
        record = {"band_gap_ev": 3.0, "band_gap_ev_std": 0.1, "note": "two runs"}
        (folder / "results" / f"{one}.json").write_text(json.dumps(record))
    second = again.collect()
    assert [e.structure for e in second.new] == ids[3:6]
    assert second.new[0].values == {"band_gap_ev": 3.0, "band_gap_ev_std": 0.1, "note": "two runs"}
    assert again.is_ready()  # 6 of 8
    assert sorted(again.take(0)) == ids[:6]
    answer(folder, [[one, 1.0 + i] for i, one in enumerate(ids)])
    # Two are new; three single files say otherwise than the table now.
    third = again.collect()
    assert sorted(e.structure for e in third.new) == ids[6:]
    assert len(third.problems) == 3
    assert all("is answered elsewhere with other values" in line for line in third.problems)
    assert sorted(again.take(0)) == ids[:6]  # the same round again, after a kill
    assert sorted(again.take(1)) == ids[6:]  # the late ones
    assert again.take(2) == {}
    assert again.collect().new == []
    assert again.submit(batch) is None


def test_what_cannot_be_used_is_said_and_stays_out(make, tmp_path):
    lab = make()
    batch = cells(9)
    ids = sorted(batch.hashes)
    folder = tmp_path / "lab" / lab.submit(batch)
    rows = [
        [ids[0], "1.5", "eV", ""],
        ["0123", "1.0", "eV", ""],
        [ids[1], "nan", "eV", ""],
        [ids[2], "", "eV", ""],
        [ids[3], "1,5", "eV", ""],
        [ids[4], "1500", "eV", ""],
        [ids[5], "1.5", "meV", ""],
        [ids[6], "", "", "SCF did not converge"],
        [ids[7]],
        ["", "2.0", "eV", ""],
    ]
    answer(folder, rows, columns=("id", "band_gap_ev", "unit", "error"))
    found = lab.collect()
    assert {e.structure: e.status for e in found.new} == {ids[0]: OK, ids[6]: FAILED}
    assert found.n_out == 7
    texts = "\n".join(found.problems)
    for line, words in (
        (3, "0123 is not a crystal of this batch"),
        (4, f"{ids[1]}: band_gap_ev is nan"),
        (5, f"{ids[2]}: band_gap_ev is missing"),
        (6, f"{ids[3]}: band_gap_ev is no number: '1,5'"),
        (7, f"{ids[4]}: band_gap_ev = 1500 is outside 0 to 20 eV: another unit?"),
        (8, f"{ids[5]}: the unit is meV, asked for was eV"),
        (10, f"{ids[7]}: band_gap_ev is missing"),
        (11, "there is no column id"),
    ):
        assert f"{folder.name}/results.csv, line {line}: {words}" in texts
    assert len(found.problems) == 8
    # Put right, everything enters; a failure is replaced by an answer.
    answer(folder, [[one, 2.0] for one in ids[1:]])
    later = lab.collect()
    assert (later.n_out, later.problems) == (0, [])
    assert sorted(e.structure for e in later.new) == ids[1:]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (("id", "band_gap_mev"), "band_gap_ev is missing; band_gap_mev was not asked for"),
        (("crystal", "band_gap_ev"), "there is no column id"),
    ],
)
def test_wrong_columns_are_said(make, tmp_path, columns, says):
    lab = make()
    batch = cells(1)
    folder = tmp_path / "lab" / lab.submit(batch)
    answer(folder, [[batch.hashes[0], 1.0]], columns=columns)
    found = lab.collect()
    assert (found.new, found.n_out, len(found.problems)) == ([], 1, 1)
    assert says in found.problems[0]


def test_half_written_and_broken_files_wait(make, tmp_path):
    lab = make(settle_s=3600.0)
    batch = cells(3)
    ids = sorted(batch.hashes)
    folder = tmp_path / "lab" / lab.submit(batch)
    answer(folder, [[ids[0], 1.0]])
    assert "still being written" in lab.collect().problems[0]
    old = time.time() - 7200
    os.utime(folder / "results.csv", (old, old))
    (folder / "results.parquet").write_bytes(b"PAR1 broken")
    (folder / "results").mkdir()
    (folder / "results" / f"{ids[1]}.json").write_text('{"band_gap_ev": 1')
    (folder / "results" / f"{ids[2]}.json").write_text("[1.0]")
    for path in [folder / "results.parquet", *(folder / "results").iterdir()]:
        os.utime(path, (old, old))
    found = lab.collect()
    assert [e.structure for e in found.new] == [ids[0]]
    assert len(found.problems) == 3
    assert all("cannot be read" in line and "\n" not in line for line in found.problems)


def test_other_tables_are_read_too(make, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lab = make()
    one, two = cells(1), cells(1, start=5)
    first, second = (tmp_path / "lab" / lab.submit(batch) for batch in (one, two))
    table = pa.table({"id": list(one.hashes), "band_gap_ev": [2.5]})
    pq.write_table(table, first / "results.parquet")
    text = f"\ufeffid; band_gap_ev\r\n{two.hashes[0]}; 3.5\r\n\r\n"
    (second / "results.csv").write_text(text, encoding="utf-8")
    found = lab.collect()
    assert found.problems == []
    assert {e.values["band_gap_ev"] for e in found.new} == {2.5, 3.5}


def test_two_different_answers_wait_until_one_is_gone(make, tmp_path):
    lab = make()
    batch = cells(1)
    (one,) = batch.hashes
    folder = tmp_path / "lab" / lab.submit(batch)
    answer(folder, [[one, 1.0], [one, 1.0], [one, 2.0]])
    found = lab.collect()
    assert (found.new, found.n_out) == ([], 1)
    assert found.problems == [
        f"{folder.name}/results.csv, line 4: {one} is answered elsewhere with other values."
    ]
    answer(folder, [[one, 2.0]])
    assert lab.collect().new[0].values == {"band_gap_ev": 2.0}
    answer(folder, [[one, 3.0]])
    again = lab.collect()
    assert again.new == []
    assert again.problems == [f"{one}: answered again with other values; the first ones stay."]
    assert lab.take(0)[one].values == {"band_gap_ev": 2.0}


def test_a_kill_between_store_and_folder_is_repaired(make, store, tmp_path, monkeypatch):
    lab = make()
    batch = cells(2)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("matmill.campaign.external.write_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        lab.submit(batch)
    monkeypatch.undo()
    assert not (tmp_path / "lab").exists()
    assert make().submit(batch) is None
    (state,) = lab.batches()
    assert (tmp_path / "lab" / state.name / "manifest.json").exists()
    assert (state.n, state.n_back) == (2, 0)
    assert store.batch(batch.hashes).hashes == batch.hashes


def test_a_budget_holds_for_what_is_handed_out(make, store):
    budget = Budget(store, {"evaluations.dft": 3, MONEY: 100.0})
    lab = make(cost=Cost(cost_class="dft", money=40.0))
    lab.submit(cells(5), budget=budget)
    assert lab.batches()[0].n == 2  # money first
    assert budget.used() == {"evaluations.dft": 2.0, MONEY: 80.0}
    assert lab.submit(cells(5), budget=budget) is None


def test_what_is_overdue_is_given_up_and_may_still_come(make, tmp_path):
    lab = make(cost=Cost(timeout_s=0.05))
    batch = cells(2)
    ids = sorted(batch.hashes)
    folder = tmp_path / "lab" / lab.submit(batch)
    answer(folder, [[ids[0], 1.0]])
    time.sleep(0.1)
    found = lab.collect()
    assert {e.structure: e.status for e in found.new} == {ids[0]: OK, ids[1]: TIMED_OUT}
    assert lab.is_ready()
    assert {one: e.status for one, e in lab.take(0).items()} == {ids[0]: OK, ids[1]: TIMED_OUT}
    answer(folder, [[one, 1.0] for one in ids])
    assert [(e.structure, e.status) for e in lab.collect().new] == [(ids[1], OK)]
    assert {one: e.status for one, e in lab.take(1).items()} == {ids[1]: OK}


def test_a_new_column_needs_a_range(make):
    with pytest.raises(InputError, match="kappa_w_m_k is new: give its plausible range"):
        make(columns=["kappa_w_m_k"])
    assert make(columns=["kappa_w_m_k"], ranges={"kappa_w_m_k": (0.0, math.inf)}).wanted[0].low == 0
