"""Tables of formulas open like tables of crystals: labels, notes, complaints, splits."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.data.compositions import LabelledCompositions, items, open_compositions
from matmill.data.opening import open_rows
from matmill.data.rows import require_target
from matmill.data.splits import split
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError

CSV = """id,Composition,gap,is_metal,route
a,Fe0.7Ni0.3,,true,cast
b,TiO2,3.0,false,
c,Ti2O4,3.1,False,sputtered
d,GaN,3.4,FALSE,grown
"""


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "gaps.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def test_csv_gives_numbers_flags_notes_and_ids(sheet: Path) -> None:
    table = open_compositions(sheet)
    assert table.ids == ("a", "b", "c", "d")
    assert table.columns == ["gap", "is_metal"]
    assert table.column("is_metal").tolist() == [1.0, 0.0, 0.0, 0.0]
    assert torch.isnan(table.column("gap")[0])
    assert table.notes == {"route": ("cast", None, "sputtered", "grown")}
    assert table.compositions.formulas == ("Fe7Ni3", "TiO2", "TiO2", "GaN")
    assert table.complaints == ()


def test_an_empty_target_is_an_error_in_a_csv_and_dropped_from_parquet(
    sheet: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"'gap' is empty or not finite in 1 of 4 rows: a\."):
        open_compositions(sheet, target="gap")
    path = tmp_path / "gaps.parquet"
    open_compositions(sheet).save(path)
    table = open_compositions(path, target="gap")
    assert table.target == "gap"
    assert table.ids == ("b", "c", "d")
    assert "left out" in table.complaints[-1].remedy


def test_parquet_round_trip_keeps_everything(sheet: Path, tmp_path: Path) -> None:
    table = open_compositions(sheet)
    table.save(tmp_path / "gaps.parquet")
    again = open_compositions(tmp_path / "gaps.parquet")
    assert again.hash == table.hash
    assert again.structure_hash == table.structure_hash
    assert again.notes == table.notes
    torch.testing.assert_close(again.compositions.amounts, table.compositions.amounts)
    with pytest.raises(InputError, match=r"gaps\.csv"):
        table.save(tmp_path / "gaps.csv")


def test_parquet_with_flags_nulls_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = {
        "composition": ["Cu2 Si1 O4", "MgO", "Xq"],
        "gap_ev": pa.array([0.5, None, 1.0], type=pa.float32()),
        "n_atoms": pa.array([7, 2, 1], type=pa.int16()),
        "is_metal": [False, True, None],
        "sites": [[1.0], [2.0], [3.0]],
    }
    pq.write_table(pa.table(columns), path)
    table = open_compositions(path)
    assert table.columns == ["gap_ev", "n_atoms", "is_metal"]
    assert table.column("is_metal").tolist() == [0.0, 1.0]
    assert table.compositions.formulas == ("Cu2SiO4", "MgO")
    assert [complaint.row for complaint in table.complaints] == [3]


def test_formulas_may_repeat_without_ids(tmp_path: Path) -> None:
    path = tmp_path / "loads.csv"
    path.write_text("formula,load_n,hardness\nWC,1,20\nWC,5,18\n", encoding="utf-8")
    table = open_compositions(path, target="hardness")
    assert table.ids == ("0", "1")
    assert table.column("hardness").tolist() == [20.0, 18.0]


@pytest.mark.parametrize(
    ("text", "arguments", "error", "part"),
    [
        ("a,b\nx,y\n", {}, InputError, "has no column of formulas"),
        ("formula,gap\nTiO2,3\n", {"formula_column": "film"}, UnknownNameError, "formula"),
        ("formula,gap\nTiO2,3\n", {"target": "hardness"}, UnknownNameError, "gap"),
        ("formula,gap\nTiO2,wide\n", {"target": "gap"}, DataError, "row 1: 'wide'"),
        ("formula,gap\nTxO2,3\n", {}, DataError, "'Tx' is no element"),
        ("id,formula,gap\na,TiO2,3\na,MgO,7\n", {}, DataError, "occur more than once"),
        ("id,formula,gap\n,TiO2,3\n", {}, DataError, "row 1"),
        ("formula,gap\n", {}, DataError, "No formula"),
    ],
)
def test_bad_files_say_what_is_wrong(
    tmp_path: Path, text: str, arguments: dict[str, str], error: type[Exception], part: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error) as caught:
        open_compositions(path, **arguments)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        open_compositions(tmp_path / "none.csv")
    (tmp_path / "x.xlsx").write_bytes(b"")
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        open_compositions(tmp_path / "x.xlsx")
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="as Parquet"):
        open_compositions(tmp_path / "x.parquet")


def made_table(n: int = 60) -> LabelledCompositions:
    batch = parse_formulas([f"Ti{1 + i % 20}O{1 + i % 7}" if i % 3 else "GaN" for i in range(n)])
    return LabelledCompositions(
        compositions=batch.with_properties(value=torch.arange(n).double() % 2)
    )


@pytest.mark.parametrize("kind", ["random", "formula", "matbench", "element"])
def test_splits_take_compositions(kind: str) -> None:
    table = made_table()
    found = split(table, kind, seed=3, target="value")  # pyright: ignore[reportArgumentType]
    parts = [set(rows.tolist()) for rows in found.parts.values()]
    assert set().union(*parts) == set(range(60))
    assert sum(len(part) for part in parts) == 60
    formulas = table.compositions.formulas
    if kind == "formula":
        by_part = [{formulas[row] for row in part} for part in parts]
        assert not by_part[0] & by_part[2]
        assert not by_part[0] & by_part[1]
    if kind == "element":
        (symbol,) = found.settings["elements"][:1]
        assert all(symbol not in formulas[row] for row in parts[0])
    same = split(table.compositions, kind, seed=3)  # pyright: ignore[reportArgumentType]
    if kind in {"random", "formula", "element"}:
        assert same.hash == found.hash


def test_a_split_by_prototype_needs_structures() -> None:
    with pytest.raises(InputError, match="needs structures"):
        split(made_table(), "prototype")


def test_formula_groups_are_the_same_for_crystals_and_their_compositions() -> None:
    numbers = [[22, 8, 8], [31, 7], [22, 22, 8, 8, 8, 8], [12, 8], [11, 17], [11, 17, 17]]
    crystals = CrystalBatch.from_lists(
        [torch.eye(3).numpy() * 6] * 6, [torch.zeros(len(z), 3).numpy() for z in numbers], numbers
    )
    whole = split(crystals, "formula", fractions=(0.5, 0.25, 0.25))
    bare = split(CompositionBatch.of(crystals), "formula", fractions=(0.5, 0.25, 0.25))
    assert {n: r.tolist() for n, r in whole.parts.items()} == {
        n: r.tolist() for n, r in bare.parts.items()
    }


def test_items_and_require_target_take_both_kinds() -> None:
    table = made_table()
    assert isinstance(items(table), CompositionBatch)
    assert isinstance(items(LabelledCrystals(crystals=CrystalBatch.empty())), CrystalBatch)
    kept = require_target(table, "value")
    assert isinstance(kept, LabelledCompositions)
    assert kept.target == "value"
    assert len(table.select([0, 2]).ids) == 2


def test_the_column_of_ids_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "alloys.csv"
    path.write_text("name,sample,formula,y\nx,007,Fe,1\nx,08,Ni,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="occur more than once"):
        open_rows(path)
    table = open_rows(path, target="y", id_column="sample")
    assert table.ids == ("007", "08")
    assert table.columns == ["y"]
    assert table.notes == {"name": ("x", "x")}
    with pytest.raises(UnknownNameError, match=r"column of alloys\.csv called 'smple'"):
        open_rows(path, id_column="smple")
