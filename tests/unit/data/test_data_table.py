import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_crystals import batches, many, rocksalt
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.data.opening import open_rows
from matmill.data.rows import content_hash, require_target
from matmill.data.table import LabelledCrystals, open_table
from matmill.errors import DataError, InputError, UnknownNameError


@pytest.fixture
def cifs(tmp_path) -> Path:
    """A folder with five CIFs, as pymatgen writes them."""
    from pymatgen.io.cif import CifWriter

    batch = many(5)
    folder = tmp_path / "cifs"
    folder.mkdir()
    for i, name in enumerate(batch.ids):
        CifWriter(to_structure(batch, i)).write_file(folder / f"{name}.cif")
    return folder


def sheet(cifs, text, name="labels.csv"):
    path = cifs.parent / name
    path.write_text(text, encoding="utf-8")
    return path


LABELS = "id,gap_ev,origin\nx-3,1.5,lab\nx-0,0.25,dft\nx-4,3,dft\n"


# --- the table itself ------------------------------------------------------------------------


@given(batches(), st.integers(0, 100))
def test_select_keeps_rows_together(batch, seed):
    table = LabelledCrystals(crystals=batch, notes={"n": tuple(batch.ids)})
    rows = torch.randint(0, len(batch), (5,), generator=torch.Generator().manual_seed(seed))
    some = table.select(rows)
    assert some.notes["n"] == some.ids
    assert some.ids == tuple(batch.ids[i] for i in rows.tolist())
    assert torch.equal(some.column("band_gap"), batch.properties["band_gap_ev"][rows])


@given(batches(), st.randoms(use_true_random=False))
def test_any_change_changes_the_hash(batch, random):
    table = LabelledCrystals(crystals=batch, notes={"split": ("train",) * len(batch)})
    moved = batch.frac_coords.clone()
    moved[random.randrange(len(moved)), random.randrange(3)] += 1e-3
    swapped = batch.atomic_numbers.clone()
    swapped[random.randrange(len(swapped))] += 1
    gaps = batch.properties["band_gap_ev"].clone()
    gaps[random.randrange(len(gaps))] += 0.01
    others = [
        replace(table, crystals=replace(batch, frac_coords=moved)),
        replace(table, crystals=replace(batch, atomic_numbers=swapped)),
        replace(table, crystals=batch.with_properties(band_gap_ev=gaps)),
        replace(table, notes={"split": ("test", *("train",) * (len(batch) - 1))}),
        table.select(range(len(table) - 1)),
        replace(table, crystals=batch.with_ids([f"y-{i}" for i in range(len(batch))])),
    ]
    hashes = {table.hash, *(other.hash for other in others)}
    assert len(hashes) == 1 + len(others)
    assert replace(table).hash == table.hash
    # Labels and notes are not structures.
    assert others[2].structure_hash == others[3].structure_hash == table.structure_hash
    assert others[0].structure_hash != table.structure_hash


def test_the_hash_does_not_depend_on_precision_or_signs_of_nothing():
    batch = many(8).with_properties(x=torch.tensor([float("nan"), -0.0] * 4))
    other = batch.to(dtype=torch.float32).with_properties(x=torch.tensor([math.nan, 0.0] * 4))
    assert content_hash(batch) == content_hash(other)


def test_columns_are_found_by_short_names():
    batch = many(3).with_properties(
        exfoliation_energy_mev_atom=torch.ones(3),
        k_vrh_gpa=torch.ones(3),
        k_reuss_gpa=torch.ones(3),
    )
    table = LabelledCrystals(crystals=batch, source="mine.csv")
    assert table.column_name("gap") == "band_gap_ev"
    assert table.column_name("exfoliation_energy") == "exfoliation_energy_mev_atom"
    with pytest.raises(UnknownNameError, match=r"column of mine.csv called 'k'.*k_vrh_gpa"):
        table.column_name("k")  # two columns would fit


def test_notes_must_fit():
    with pytest.raises(InputError, match="2 cells for 3 rows"):
        LabelledCrystals(crystals=many(3), notes={"split": ("a", "b")})


def test_rows_without_target_are_dropped_or_refused():
    gaps = torch.tensor([1.0, math.nan, 2.0, math.inf])
    batch = many(4).with_properties(band_gap_ev=gaps, nothing=torch.full((4,), math.nan))
    table = LabelledCrystals(crystals=batch, source="t.parquet")
    kept = require_target(table, "band_gap", "drop")
    assert kept.ids == ("x-0", "x-2")
    assert kept.target == "band_gap_ev"
    assert "2 of 4 rows" in kept.complaints[0].reason
    with pytest.raises(DataError, match="2 of 4 rows: x-1, x-3"):
        require_target(table, "band_gap", "error")
    with pytest.raises(DataError, match="empty in all 4 rows"):
        require_target(table, "nothing", "drop")


# --- a folder of CIFs and a CSV --------------------------------------------------------------


def test_a_csv_finds_its_cifs_by_id(cifs):
    table = open_table(sheet(cifs, LABELS), structures=cifs, target="gap")
    whole = many(5)
    assert table.ids == ("x-3", "x-0", "x-4")
    assert table.target == "gap_ev"
    assert table.column("gap_ev").tolist() == [1.5, 0.25, 3.0]
    assert table.notes == {"origin": ("lab", "dft", "dft")}
    for row, source in enumerate((3, 0, 4)):
        assert table.crystals.formula[row] == whole.formula[source]
        assert float(table.crystals.volume[row]) == pytest.approx(
            float(whole.volume[source]), rel=1e-4
        )


def test_a_target_of_text_names_its_rows(cifs):
    path = sheet(cifs, LABELS.replace("0.25", "often"))
    for opener in (open_table, open_rows):
        with pytest.raises(DataError, match=r"1 cell.* not numbers: x-0: 'often"):
            opener(path, structures=cifs, target="gap")


def test_a_folder_with_its_csv_opens_as_one(cifs):
    (cifs / "id_prop.csv").write_text("x-1,0.5\nx-2,0.75\n")
    table = open_table(cifs, target="target")
    assert table.ids == ("x-1", "x-2")
    assert table.column("target").tolist() == [0.5, 0.75]
    (cifs / "other.csv").write_text("x-1,0.5\n")
    with pytest.raises(InputError, match=r"several CSV files \(id_prop.csv, other.csv\)"):
        open_table(cifs)


@pytest.mark.parametrize(
    ("text", "target", "error", "message"),
    [
        (LABELS, "bulk_modulus", UnknownNameError, "Known: id, gap_ev, origin"),
        ("id,gap_ev\nx-0,1\nx-7,2\nx-8,3\n", None, DataError, r"2 of 3 rows .*x-7.cif, x-8.cif"),
        ("id,gap_ev\nx-0,1\nx-1,\nx-2,3\n", "gap_ev", DataError, "1 of 3 rows: x-1. Fill"),
        ("id,gap_ev\nx-0,1\nx-1,big\n", "gap_ev", DataError, "not numbers: x-1: 'big'"),
        ("id,gap_ev\nx-0,1\nx-0,2\n", "gap_ev", DataError, r"x-0 \(rows 1, 2\)"),
    ],
)
def test_every_mistake_has_its_message(cifs, text, target, error, message):
    with pytest.raises(error, match=message):
        open_table(sheet(cifs, text), structures=cifs, target=target)


def test_a_broken_cif_is_named(cifs):
    (cifs / "x-1.cif").write_text("data_x\nthis is no CIF\n")
    with pytest.raises(DataError, match=r"x-1.cif.*Repair them, or remove their rows"):
        open_table(sheet(cifs, "id,g\nx-0,1\nx-1,2\n"), structures=cifs)


def test_labels_without_structures_say_what_is_missing(cifs):
    with pytest.raises(InputError, match=r"--structures cifs/"):
        open_table(sheet(cifs, LABELS))
    with pytest.raises(InputError, match="no folder 'nowhere'"):
        open_table(sheet(cifs, LABELS), structures="nowhere")
    with pytest.raises(InputError, match="There is no file or folder"):
        open_table(cifs / "nothing.csv")


def test_rows_may_be_left_out_when_asked_for(cifs):
    path = sheet(cifs, "id,gap_ev\nx-0,1\nx-1,\nx-2,3\n")
    table = open_table(path, structures=cifs, target="gap_ev", on_missing="drop")
    assert table.ids == ("x-0", "x-2")


def test_cif_text_inside_the_csv_is_enough(tmp_path):
    import csv

    from pymatgen.io.cif import CifWriter

    batch = many(3)
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "gap_ev", "cif"])
        for i, name in enumerate(batch.ids):
            writer.writerow([name, i, str(CifWriter(to_structure(batch, i)))])
    table = open_table(path)
    assert table.ids == batch.ids
    assert table.crystals.formula == batch.formula
    assert table.columns == ["gap_ev"]
    path.write_text("id,cif\na,nonsense\n")
    with pytest.raises(DataError, match="are not a usable CIF: row 1: a: "):
        open_table(path)


# --- other files -----------------------------------------------------------------------------


def test_parquet_keeps_everything(tmp_path):
    batch = many(20).with_properties(x=torch.tensor([1.0, math.nan] * 10))
    table = LabelledCrystals(
        crystals=batch, notes={"split": ("train", None) * 10, "release": ("a",) * 20}
    )
    path = tmp_path / "t.parquet"
    table.save(path)
    again = open_table(path)
    assert again.notes == table.notes
    assert again.ids == table.ids
    assert again.column("x").isnan().tolist() == [False, True] * 10
    assert again.column("band_gap").tolist() == pytest.approx(
        batch.properties["band_gap_ev"].tolist(), rel=1e-6
    )
    assert again.hash == open_table(path).hash
    twice = tmp_path / "twice.parquet"
    again.save(twice)
    assert open_table(twice).hash == again.hash
    assert len(open_table(path, target="x")) == 10


def test_an_ase_database_opens_with_its_labels(tmp_path):
    from ase.db import connect

    from matmill.crystals.convert import to_atoms

    batch = many(6)
    path = tmp_path / "t.db"
    with connect(path) as database:
        for i in range(len(batch)):
            database.write(to_atoms(batch, i), key_value_pairs={"band_gap_ev": 0.5 * i})
    table = open_table(path, target="band_gap")
    assert table.column("band_gap").tolist() == [0.5 * i for i in range(6)]
    assert table.crystals.formula == batch.formula


def test_a_single_structure_file_is_a_table_too(tmp_path):
    from pymatgen.io.vasp import Poscar

    batch = CrystalBatch.from_lists(*([part] for part in rocksalt()))
    Poscar(to_structure(batch, 0)).write_file(tmp_path / "POSCAR")
    table = open_table(tmp_path / "POSCAR")
    assert len(table) == 1
    assert table.crystals.formula == ("MgO",)


def test_given_data_open_with_their_notes(shared_data):
    table = open_table(shared_data / "properties" / "matbench_jdft2d.parquet")
    assert len(table) == 636
    assert "exfoliation_energy_mev_atom" in table.columns
    assert table.notes["jid"][0].startswith("JVASP-")
    assert len(open_table(shared_data / "perov_5.parquet", target="direct_gap")) > 7000
