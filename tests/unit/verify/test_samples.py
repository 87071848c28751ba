"""Reading samples: every entry is kept, in order, with a status."""

import json
import os
import signal
import time
import zipfile

import pytest
import torch
from crystals_for_tests import prototypes

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import write
from matmill.errors import DataError, InputError
from matmill.verify.patience import TookTooLongError, limit, patiently
from matmill.verify.samples import as_samples, read_samples
from matmill.verify.statuses import Status

pytestmark = pytest.mark.filterwarnings("ignore")
N = 9


def formulas(samples):
    return list(samples.crystals.formula)


def test_every_format_gives_the_same_samples(tmp_path):
    crystals = prototypes()
    for name in ("a.extxyz", "a.parquet", "a.json", "a.jsonl"):
        write(crystals, tmp_path / name)
        samples = read_samples([tmp_path / name])
        assert formulas(samples) == list(crystals.formula), name
        assert samples.place.tolist() == list(range(N))
        assert [entry.name for entry in samples.entries] == list(crystals.ids)
    folder = tmp_path / "cifs"
    write(crystals, f"{folder}/", folder_format="cif")
    archive = tmp_path / "cifs.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.iterdir()):
            opened.write(file, f"generated/{file.name}")
    for path in (folder, archive):
        samples = read_samples([path])
        assert sorted(formulas(samples)) == sorted(crystals.formula)
    assert samples.entries[0].file.startswith(f"{archive}/generated/")


def test_broken_entries_keep_their_place(tmp_path):
    path = tmp_path / "mixed.jsonl"
    write(prototypes(), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:40]
    overlapping = json.loads(lines[4])
    overlapping["sites"][1]["abc"] = overlapping["sites"][0]["abc"]
    lines[4] = json.dumps(overlapping)
    nan = json.loads(lines[5])
    nan["lattice"]["matrix"][0][0] = float("nan")
    lines[5] = json.dumps(nan)
    endless = json.loads(lines[7])
    endless["lattice"]["matrix"][2][2] = 1e300
    lines[7] = json.dumps(endless)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples = read_samples([path])
    status = [entry.status for entry in samples.entries]
    assert status[2] is status[5] is status[7] is Status.PARSE_ERROR
    assert status[4] is Status.INVALID_GEOMETRY
    assert status.count(Status.OK) == N - 4 == len(samples.crystals)
    assert samples.n_parsed == N - 3
    assert samples.place.tolist() == [0, 1, 3, 6, 8]
    assert "NaN" in samples.entries[5].reason


def test_strange_names_are_read_by_content_and_rubbish_counts_as_nothing(tmp_path):
    for name, suffix in (("one", ".cif"), ("two", ".json"), ("three", ".extxyz")):
        write(prototypes().select([0]), tmp_path / f"{name}{suffix}")
        (tmp_path / f"{name}{suffix}").rename(tmp_path / f"{name}.dat")
    write(prototypes().select([0]), tmp_path / "four.cif")
    (tmp_path / "four.cif").rename(tmp_path / "four.jsonl")
    (tmp_path / "README.txt").write_text("Made by hand.", encoding="utf-8")
    samples = read_samples([tmp_path])
    assert formulas(samples) == ["NaCl"] * 4
    assert [os.path.basename(name) for name in samples.ignored] == ["README.txt"]


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "samples.pkl"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(DataError, match="no file with crystals"):
        read_samples([path])


def test_what_was_requested_and_never_came(tmp_path):
    path = tmp_path / "a.extxyz"
    write(prototypes(), path)
    assert read_samples([path], n_requested=12).n_requested == 12
    with pytest.raises(InputError, match="less than the 9"):
        read_samples([path], n_requested=8)
    with pytest.raises(DataError, match="no file"):
        read_samples([tmp_path / "absent.cif"])
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_samples([broken])


def test_oblique_cells_are_reduced_and_stay_the_same_crystal():
    from matmill.crystals.matching import same

    salt = prototypes().select([1])
    lattice = salt.lattice.clone()
    lattice[0, 1] += 40 * lattice[0, 0]
    shear = torch.linalg.inv(lattice[0]) @ torch.eye(3, dtype=torch.float64)
    frac = salt.cart_coords @ shear
    oblique = CrystalBatch(
        lattice=lattice,
        frac_coords=frac - frac.floor(),
        atomic_numbers=salt.atomic_numbers,
        n_atoms=salt.n_atoms,
    )
    compact = as_samples(oblique).crystals
    assert float(compact.lattice.norm(dim=-1).max()) == pytest.approx(4.12)
    assert same(compact, 0, salt, 0)
    untouched = as_samples(salt).crystals
    assert torch.equal(untouched.lattice, salt.lattice)


def test_work_that_hangs_or_breaks_costs_its_own_crystal_only():
    def work(part):
        if 7 in part:
            end = time.process_time() + 20
            while time.process_time() < end:
                pass
        if 3 in part:
            raise ValueError("three")
        return [10 * row for row in part]

    seen = []
    begin = time.process_time()
    found, failed = patiently(work, range(10), seconds=0.1, chunk=4, on_done=seen.append)
    assert found == {row: 10 * row for row in range(10) if row not in (3, 7)}
    assert failed == {3: "failed with ValueError: three", 7: "took longer than 0.1 s"}
    assert seen[-1] == 10
    assert time.process_time() - begin < 5.0


def test_the_limit_is_not_swallowed_and_leaves_no_alarm():
    def stubborn():
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    with pytest.raises(TookTooLongError), limit(0.05):
        stubborn()
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with limit(0.05):
        time.sleep(0.2)  # a busy machine, not a hard crystal
    with limit(5.0):
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 0
