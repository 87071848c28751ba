"""The index of known crystals: found again in any disguise, new ones left alone."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.matching import MatchTolerance
from matmill.errors import DataError
from matmill.verify.novelty import (
    KnownIndex,
    find_known,
    fingerprint,
    first_of_each,
    formula_key,
    known_table,
)

K = 8


@pytest.fixture
def index(tmp_path) -> KnownIndex:
    batch = prototypes()
    about: dict[str, object] = {"name": "toy", "likely": 0.05, "never": 0.5}
    prints = fingerprint(batch, K).numpy()
    path = tmp_path / "known.parquet"
    pq.write_table(known_table(batch, prints, {}, about), path)
    return KnownIndex.load(path, structures=[])


def with_structures(index: KnownIndex, batch: CrystalBatch, folder) -> KnownIndex:
    import pyarrow as pa

    rows = [batch.atoms_of(i) for i in range(len(batch))]
    table = pa.table(
        {
            "material_id": list(batch.ids),
            "atomic_numbers": [batch.atomic_numbers[r].tolist() for r in rows],
            "frac_coords": [batch.frac_coords[r].flatten().tolist() for r in rows],
            "lattice": [batch.lattice[i].flatten().tolist() for i in range(len(batch))],
        }
    )
    pq.write_table(table, folder / "structures.parquet")
    pq.write_table(
        known_table(
            prototypes(),
            fingerprint(prototypes(), K).numpy(),
            {},
            {"name": "toy", "likely": index.likely, "never": index.never},
        ),
        folder / "again.parquet",
    )
    return KnownIndex.load(folder / "again.parquet", structures=[folder / "structures.parquet"])


def disguised(batch: CrystalBatch) -> CrystalBatch:
    """Return the crystals shifted, swollen by 3 %, in another cell, with atoms reordered."""
    parts = []
    change = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]], dtype=torch.float64)
    for i in range(len(batch)):
        one = batch.select([i])
        frac = (one.frac_coords + 0.137) @ torch.linalg.inv(change)
        order = torch.randperm(len(frac), generator=torch.Generator().manual_seed(i))
        parts.append(
            CrystalBatch(
                lattice=change @ one.lattice * 1.01,
                frac_coords=(frac - frac.floor())[order],
                atomic_numbers=one.atomic_numbers[order],
                n_atoms=one.n_atoms,
            )
        )
    return concatenate(parts)


def test_known_crystals_are_found_in_disguise(index):
    found = find_known(disguised(prototypes()), index)
    assert [match[0] for match in found if match] == list(prototypes().ids)
    assert not any(match[1] for match in found if match)


def test_structures_confirm_and_refuse(index, tmp_path):
    confirming = with_structures(index, prototypes(), tmp_path)
    assert find_known(disguised(prototypes()), confirming) == [(k, True) for k in prototypes().ids]
    # The same formula and a close fingerprint, but the structure at hand is another one.
    wrong = prototypes().select([0])
    frac = wrong.frac_coords.clone()
    frac[1] += torch.tensor([0.12, 0.05, 0.0])
    moved = CrystalBatch(
        lattice=wrong.lattice,
        frac_coords=frac % 1.0,
        atomic_numbers=wrong.atomic_numbers,
        n_atoms=wrong.n_atoms,
    )
    lenient = replace(confirming, likely=0.5, structures=())
    assert find_known(moved, lenient) == [("NaCl", False)]  # the fingerprint alone is fooled
    strict = MatchTolerance(ltol=0.05, stol=0.05, angle_tol=1.0)
    assert find_known(moved, confirming, tolerance=strict) == [None]


def test_elements_on_exchanged_sites_are_told_apart(index):
    rock_salt = prototypes().select([0])
    numbers = rock_salt.atomic_numbers.clone()
    numbers[[1, 4]] = numbers[[4, 1]]
    swapped = CrystalBatch(
        lattice=rock_salt.lattice,
        frac_coords=rock_salt.frac_coords,
        atomic_numbers=numbers,
        n_atoms=rock_salt.n_atoms,
    )
    assert find_known(swapped, index) == [None]


def test_new_crystals_are_new(index):
    cscl_as_rock_salt = prototypes().select([0])
    numbers = torch.where(cscl_as_rock_salt.atomic_numbers == 11, 55, 17)
    polymorph = CrystalBatch(
        lattice=cscl_as_rock_salt.lattice,
        frac_coords=cscl_as_rock_salt.frac_coords,
        atomic_numbers=numbers,
        n_atoms=cscl_as_rock_salt.n_atoms,
    )
    other = CrystalBatch.from_lists([np.eye(3) * 4], [[[0, 0, 0]]], [[26]])
    assert find_known(concatenate([polymorph, other]), index) == [None, None]
    assert find_known(CrystalBatch.empty(), index) == []


def test_first_of_each_points_at_the_first():
    rng = torch.Generator().manual_seed(0)
    batch = prototypes().select([0, 1, 4])
    again = perturbed(batch, step=0.02, strain=0.005, rng=rng)
    assert first_of_each(concatenate([batch, again, batch])) == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert first_of_each(CrystalBatch.empty()) == []


def test_the_fingerprint_ignores_cell_and_volume():
    batch = prototypes()
    torch.testing.assert_close(
        fingerprint(batch, K), fingerprint(disguised(batch), K), atol=1e-4, rtol=0
    )


def test_files_that_are_no_index_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"x\.parquet"):
        KnownIndex.load(path)


def test_keys_do_not_depend_on_the_process():
    assert formula_key("TiO2") == formula_key("TiO2") != formula_key("Ti2O")
