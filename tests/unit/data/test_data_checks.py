import math
from dataclasses import replace

import torch
from data_crystals import many, rocksalt

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.data.checks import check, duplicate_structures
from matmill.data.table import LabelledCrystals


def found(table, target=None):
    return {finding.check: finding for finding in check(table, target)}


def test_a_sound_table_has_no_findings():
    table = LabelledCrystals(crystals=many(60))
    assert found(table, "band_gap") == {}


def test_duplicate_ids_are_all_named():
    table = LabelledCrystals(crystals=many(30).with_ids(["a", "b", "a", *map(str, range(27))]))
    finding = found(table)["duplicate_ids"]
    assert finding.rows == (0, 2)
    assert finding.severity == "error"
    assert "own id" in finding.remedy


def test_copies_are_found_in_any_order_of_sites():
    batch = many(40)
    copy = batch.select([7])
    order = torch.randperm(int(copy.n_atoms[0]), generator=torch.Generator().manual_seed(0))
    copy = replace(
        copy, frac_coords=copy.frac_coords[order], atomic_numbers=copy.atomic_numbers[order]
    )
    table = LabelledCrystals(crystals=concatenate([batch, copy.with_ids(["copy"])]))
    finding = found(table)["duplicate_structures"]
    assert finding.ids == ("copy",)
    assert duplicate_structures(table.crystals)[40] == 7


def test_copies_with_other_labels_are_conflicts():
    batch = many(40)
    copy = batch.select([7]).with_ids(["copy"])
    same = LabelledCrystals(crystals=concatenate([batch, copy]))
    assert "conflicting_labels" not in found(same, "band_gap")
    other = copy.with_properties(band_gap_ev=copy.properties["band_gap_ev"] + 1)
    finding = found(LabelledCrystals(crystals=concatenate([batch, other])), "band_gap")
    assert finding["conflicting_labels"].ids == ("copy",)


def test_every_copy_is_found_whatever_the_table():
    batch = many(200, seed=3)
    table = concatenate([batch, batch.select(range(50, 90))])
    original = duplicate_structures(table)
    assert original[200:].tolist() == list(range(50, 90))
    assert (original[:200] < 0).all()


def test_overlapping_atoms_are_found_through_the_walls_of_the_cell():
    lattice, coords, numbers = rocksalt()
    close = [[0.0, 0, 0], [0.98, 0, 0]]
    batch = CrystalBatch.from_lists(
        [lattice, lattice], [coords, close], [numbers, numbers], ids=["good", "bad"]
    )
    finding = found(LabelledCrystals(crystals=batch))["overlapping_atoms"]
    assert finding.ids == ("bad",)
    assert finding.severity == "error"


def test_volumes_in_the_wrong_unit_are_odd():
    batch = many(30)
    shrunk = batch.lattice.clone()
    shrunk[4] *= 10.0  # nm taken for Å the other way round
    finding = found(LabelledCrystals(crystals=replace(batch, lattice=shrunk)))
    assert finding["implausible_volume"].rows == (4,)


def test_columns_are_looked_at():
    gaps = torch.ones(30)
    gaps[3], gaps[5] = math.inf, -2.0
    batch = many(30).with_properties(
        band_gap_ev=gaps, shear_modulus_vrh_gpa=torch.full((30,), math.nan)
    )
    findings = found(LabelledCrystals(crystals=batch))
    assert findings["infinite_values"].rows == (3,)
    assert set(findings["implausible_values"].rows) == {3, 5}
    assert "shear_modulus_vrh_gpa" in findings["empty_column"].reason


def test_targets_are_looked_at_closely():
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    values[10], values[20] = 5000.0, math.nan
    batch = many(100).with_properties(y=values, flat=torch.ones(100))
    findings = found(LabelledCrystals(crystals=batch), "y")
    assert findings["outliers"].rows == (10,)
    assert findings["missing_target"].rows == (20,)
    assert found(LabelledCrystals(crystals=batch), "flat")["constant_target"].severity == "error"


def test_a_leaky_stored_split_is_noted():
    batch = concatenate([many(30), many(30).with_ids([f"y-{i}" for i in range(30)])])
    moved = replace(batch, frac_coords=(batch.frac_coords + 0.013) % 1.0)
    table = LabelledCrystals(crystals=moved, notes={"split": ("train",) * 30 + ("test",) * 30})
    assert found(table)["shared_formulas"].rows == tuple(range(30, 60))


def test_errors_come_first_and_read_well():
    batch = many(5).with_ids(["a", "a", "b", "c", "d"])
    findings = check(LabelledCrystals(crystals=batch))
    assert [finding.severity for finding in findings] == ["error", "warning"]
    assert str(findings[0]) == (
        "error: 2 rows share their id with another row (a, a). "
        "Give each row its own id, or remove the repeated rows."
    )
