"""Every format there and back, and files in which some crystals are broken."""

import json

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.files import iterate, read, write
from matmill.crystals.formats import parquet
from matmill.errors import DataError, InputError

FORMATS = [
    "a.parquet",
    "a.extxyz",
    "a.json",
    "a.jsonl",
    "a.optimade.json",
    "a.optimade.jsonl",
    "a.db",
]


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(3)
    cells = torch.eye(3) * 5 + torch.rand(3, 3, 3, generator=rng)
    return CrystalBatch.from_lists(
        cells.double().tolist(),
        [
            [[0, 0, 0]],
            [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.6, 0.1], [0.7, 0.1, 0.9]],
            [[0.1, 0.1, 0.1], [0.6, 0.6, 0.62]],
        ],
        [[26], [8, 8, 22, 3], [31, 7]],
        ids=("a-1", "b-2", "c-3"),
        properties={"band_gap_ev": [1.0, float("nan"), 2.5]},
    )


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(batch, tmp_path, name):
    assert write(batch, tmp_path / name) == [tmp_path / name]
    result = read(tmp_path / name)
    back = result.crystals
    assert result.complaints == []
    assert back.hashes == batch.hashes
    assert back.ids == batch.ids
    torch.testing.assert_close(back.lattice, batch.lattice, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(
        back.properties["band_gap_ev"], batch.properties["band_gap_ev"], equal_nan=True
    )
    assert list(tmp_path.iterdir()) == [tmp_path / name], "nothing temporary is left"


@pytest.mark.parametrize("kind", ["cif", "poscar", "extxyz", "json"])
def test_folders(batch, tmp_path, kind):
    files = write(batch, f"{tmp_path}/out/", folder_format=kind, symprec=None)
    assert len(files) == 3
    back = read(tmp_path / "out").crystals
    assert back.formula == batch.formula
    torch.testing.assert_close(back.volume, batch.volume, atol=1e-6, rtol=0.0)


def test_a_thousand_crystals_of_which_seven_are_broken(batch, tmp_path):
    rows = batch.select([1] * 1000).with_ids([f"n{i}" for i in range(1000)])
    write(rows, tmp_path / "many.extxyz")
    frames = (tmp_path / "many.extxyz").read_text().splitlines()
    size = len(frames) // 1000
    broken = {
        10: (1, lambda line: line.replace("Lattice", "Latex"), "Lattice"),
        99: (2, lambda line: "Xx" + line[2:], "no element"),
        200: (0, lambda _: "9", "promises 9 atoms"),
        321: (3, lambda line: line.replace("0", "nan", 1).split()[0] + " nan 0 0", "not finite"),
        500: (1, lambda line: line.replace("T T T", "T T F"), "not periodic"),
        777: (4, lambda line: line.split()[0] + " 0.0", "coordinates|missing"),
        999: (3, lambda _: frames[2], "closer than"),
    }
    for crystal, (line, change, _) in broken.items():
        at = crystal * size + line
        frames[at] = change(frames[at])
    frames[999 * size + 3] = frames[999 * size + 2]
    (tmp_path / "many.extxyz").write_text("\n".join(frames))
    result = read(tmp_path / "many.extxyz")
    assert len(result.crystals) == 993
    assert [c.row for c in result.complaints] == [i + 1 for i in broken]
    for complaint, (*_, reason) in zip(result.complaints, broken.values(), strict=True):
        assert any(word in complaint.reason for word in reason.split("|")), str(complaint)
        assert complaint.remedy.endswith(".")
        assert complaint.file.endswith("many.extxyz")
    assert len(result.rows) == len(result.files) == 993


def test_broken_rows_of_a_table(batch, tmp_path):
    import pyarrow.parquet as pq

    table = parquet.to_arrow(batch).to_pylist()
    table[1]["lattice"] = table[1]["lattice"][:8]
    table.append({**table[0], "frac_coords": None})
    table.append({**table[0], "atomic_numbers": [0]})
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(table), tmp_path / "t.parquet")
    result = read(tmp_path / "t.parquet")
    assert result.crystals.ids == ("a-1", "c-3")
    assert [complaint.row for complaint in result.complaints] == [2, 4, 5]
    assert result.rows.tolist() == [1, 3]
    assert [len(part.crystals) for part in iterate(tmp_path / "t.parquet", 2)] == [1, 1, 0]


CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Fe1 0 0 0 1
O1 0.5 0.5 0.5 1
"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("_cell_length_b 4.0\n", "", "_cell_length_b is missing"),
        ("O1 0.5 0.5 0.5 1", "O1 0.5 nan 0.5 1", "not finite"),
        ("O1 0.5 0.5 0.5 1", "O1 0.5 ? 0.5 1", "not a number"),
        ("O1 0.5 0.5 0.5 1", "O1 0.5 0.5 0.5 0.5", "partial occupancy"),
        ("O1 0.5 0.5 0.5 1", "O1 0 0 0.0001 1", "closer than"),
        ("O1 0.5", "Qq1 0.5", "no element"),
        ("O1 0.5 0.5 0.5 1", "O1 0.5 0.5", "incomplete rows"),
        ("alpha 90", "alpha 190", "cannot exist"),
    ],
)
def test_complaints_about_cifs(tmp_path, old, new, reason):
    (tmp_path / "good.cif").write_text(CIF)
    (tmp_path / "bad.cif").write_text(CIF.replace(old, new))
    result = read(tmp_path)
    assert result.crystals.ids == ("good",)
    assert reason in result.complaints[0].reason
    with pytest.raises(DataError, match=r"bad\.cif"):
        read(tmp_path / "bad.cif")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:Set OLD_ERROR_HANDLING")
@pytest.mark.parametrize("symprec", [None, 0.01])
def test_cifs_agree_with_pymatgen(batch, tmp_path, symprec):
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifParser, CifWriter

    from matmill.crystals.convert import from_structures

    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)]
    )
    corundum = Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [(0, 0, 0.352), (0.306, 0, 0.25)]
    )
    for structure in [rutile, corundum, *(to_structure(batch, i) for i in range(3))]:
        for k, text in enumerate([str(CifWriter(structure, symprec=symprec)), None]):
            path = tmp_path / f"{k}.cif"
            if text is None:
                write(from_structures([structure]), path, symprec=symprec)
            else:
                path.write_text(text)
            ours = to_structure(read(path).crystals, 0)
            theirs = CifParser(path).parse_structures(primitive=False)[0]
            assert len(ours) == len(theirs)
            assert StructureMatcher().fit(ours, structure)
            gaps = theirs.lattice.get_all_distances(theirs.frac_coords, ours.frac_coords)
            assert gaps.min(axis=1).max() < 1e-3


def test_cifs_carry_the_detected_symmetry(tmp_path):
    salt = CrystalBatch.from_lists(
        [[[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]],
        [[[0, 0, 0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    write(salt, tmp_path / "salt.cif")
    text = (tmp_path / "salt.cif").read_text()
    assert "'Fm-3m'" in text
    assert "_symmetry_Int_Tables_number   225" in text
    back = read(tmp_path / "salt.cif").crystals
    assert back.n_atoms.tolist() == [8]
    assert float(back.volume[0]) == pytest.approx(4 * float(salt.volume[0]))


def test_what_cannot_be_read_or_written(batch, tmp_path):
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "none.cif")
    with pytest.raises(DataError, match="no file of a known format"):
        read(tmp_path)
    (tmp_path / "x.abc").write_text("")
    with pytest.raises(InputError, match="Known"):
        read(tmp_path / "x.abc")
    with pytest.raises(InputError, match="one crystal"):
        write(batch, tmp_path / "POSCAR")
    (tmp_path / "c.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match="lattice"):
        read(tmp_path / "c.json")


def test_given_tables_open(shared_data):
    result = read(shared_data / "wbm_sample.parquet")
    assert len(result.crystals) == 10_972
    assert result.complaints == []
    assert "formation_energy_per_atom_ev" in result.crystals.properties
    with pytest.raises(DataError, match="atomic_numbers"):
        read(shared_data / "oqmd_compositions.parquet")
