"""The index on disk: finds what the matcher finds, and does not care in how many steps it grew."""

import json

import numpy as np
import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.matching import Matcher, MatchStatus, MatchTolerance
from matmill.errors import DataError, InputError
from matmill.verify.structure_index import StructureIndex


def variants(seed: int, step: float = 0.02) -> CrystalBatch:
    rng = torch.Generator().manual_seed(seed)
    batch = perturbed(prototypes(), step=step, strain=0.01, rng=rng)
    return batch.with_ids([f"{key}-{seed}" for key in prototypes().ids])


@pytest.fixture
def index(tmp_path) -> StructureIndex:
    made = StructureIndex(tmp_path / "index")
    made.add(prototypes())
    return made


def test_known_crystals_are_found_and_others_are_not(index):
    found = index.matches(variants(0))
    assert [match.ids for match in found] == [(key,) for key in prototypes().ids]
    assert {match.status for match in found} == {MatchStatus.SAME}
    swapped = prototypes()
    exchanged = torch.where(swapped.atomic_numbers == 8, 16, swapped.atomic_numbers)
    sulphides = CrystalBatch(
        lattice=swapped.lattice,
        frac_coords=swapped.frac_coords,
        atomic_numbers=exchanged,
        n_atoms=swapped.n_atoms,
    )
    has_oxygen = [8 in swapped.atomic_numbers[swapped.atoms_of(i)] for i in range(len(swapped))]
    status = [match.status for match in index.matches(sulphides)]
    assert status == [MatchStatus.DIFFERENT if o else MatchStatus.SAME for o in has_oxygen]


def test_all_matches_are_those_of_the_matcher(tmp_path):
    known = concatenate([variants(seed, 0.25) for seed in range(6)])
    asked = concatenate([variants(seed, 0.25) for seed in range(6, 9)])
    index = StructureIndex(tmp_path)
    index.add(known)
    for threads in (1, 2):
        every = index.matches(asked, only_first=False, n_threads=threads)
        first = index.matches(asked, n_threads=threads)
        mine, theirs = Matcher(asked), Matcher(known)
        for i in range(len(asked)):
            expected = {known.ids[j] for j in range(len(known)) if mine.same(i, j, other=theirs)}
            assert set(every[i].ids) == expected
            assert first[i].ids == every[i].ids[:1]
    assert 10 < sum(len(match.ids) for match in every) < 6 * len(asked)
    loose = MatchTolerance(stol=0.01)
    assert sum(len(match.ids) for match in index.matches(asked, loose, only_first=False)) == 0


def test_growing_in_steps_is_building_at_once(tmp_path):
    batches = [variants(seed) for seed in range(3)]
    broken = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[6]], ids=["no"])
    whole, grown = StructureIndex(tmp_path / "whole"), StructureIndex(tmp_path / "grown")
    whole.add(concatenate([*batches[:2], broken, batches[2]]))
    for part in (*batches[:2], broken, CrystalBatch.empty(), batches[2]):
        grown.add(part)
    assert grown.hash == whole.hash == StructureIndex(tmp_path / "grown").hash
    assert grown.ids == whole.ids
    for file in (tmp_path / "whole").glob("*.bin"):
        assert file.read_bytes() == (tmp_path / "grown" / file.name).read_bytes()
    assert len(grown) == 3 * len(prototypes()) + 1
    assert StructureIndex(tmp_path / "empty").hash != whole.hash
    other = StructureIndex(tmp_path / "other")
    other.add(concatenate([batches[1], batches[0], broken, batches[2]]))
    assert other.hash != whole.hash
    again = StructureIndex(tmp_path / "grown").matches(variants(7))
    assert [m.ids for m in again] == [m.ids for m in whole.matches(variants(7))]


def test_a_kill_while_adding_costs_only_what_was_added(index):
    before = index.hash
    for name in ("lattice.bin", "frac.bin"):
        with (index.folder / name).open("ab") as file:
            file.write(b"half a crystal")
    with (index.folder / "ids.txt").open("a") as file:
        file.write("half an i")
    again = StructureIndex(index.folder)
    assert again.hash == before
    again.add(variants(1))
    assert len(again.ids) == 2 * len(prototypes())
    assert again.ids[len(prototypes())] == variants(1).ids[0]
    assert {m.status for m in again.matches(variants(2))} == {MatchStatus.SAME}


def test_nothing_asked_nothing_known_and_what_is_no_crystal(index, tmp_path):
    assert index.matches(CrystalBatch.empty()) == []
    nothing = StructureIndex(tmp_path / "none").matches(prototypes())
    assert {match.status for match in nothing} == {MatchStatus.DIFFERENT}
    broken = CrystalBatch.from_lists([np.zeros((3, 3))], [[[0, 0, 0]]], [[6]])
    assert index.matches(broken)[0].status == MatchStatus.DIFFERENT
    capped = index.matches(prototypes(), max_sites=2)
    assert {match.status for match in capped} == {MatchStatus.SAME, MatchStatus.TIMEOUT}
    slow = index.matches(prototypes().select([0]), max_seconds=0.0)
    assert slow[0].status == MatchStatus.TIMEOUT


def test_what_cannot_be_an_index_is_refused(index):
    with pytest.raises(InputError, match="need ids"):
        index.add(prototypes().with_ids(()))
    with pytest.raises(InputError, match="line break"):
        index.add(prototypes().select([0]).with_ids(["a\nb"]))
    about = json.loads((index.folder / "index.json").read_text())
    (index.folder / "index.json").write_text(json.dumps(about | {"n": about["n"] + 1}))
    with pytest.raises(DataError, match=r"damaged|too short"):
        StructureIndex(index.folder)
    (index.folder / "index.json").write_text(json.dumps(about | {"format": 0}))
    with pytest.raises(DataError, match="format"):
        StructureIndex(index.folder)
