import json

import pytest
import torch
from data_crystals import many
from local_server import Answer, serve
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.data.catalogue import CATALOGUE
from matmill.data.splits import Split
from matmill.data.summary import unit_of
from matmill.data.table import LabelledCrystals, open_table


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.fixture
def file(tmp_path):
    batch = many(60).with_properties(
        bulk_modulus_vrh_gpa=torch.tensor([100.0, float("nan"), 300.0] * 20)
    )
    path = tmp_path / "mine.parquet"
    LabelledCrystals(crystals=batch, notes={"split": ("train",) * 50 + ("test",) * 10}).save(path)
    return path


def optimade(batch: CrystalBatch) -> bytes:
    entries = []
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        symbols = [SYMBOLS[z] for z in batch.atomic_numbers[rows].tolist()]
        species = [{"name": s, "chemical_symbols": [s], "concentration": [1]} for s in set(symbols)]
        attributes = {
            "lattice_vectors": batch.lattice[i].tolist(),
            "cartesian_site_positions": batch.cart_coords[rows].tolist(),
            "species": species,
            "species_at_sites": symbols,
            "nperiodic_dimensions": 3,
        }
        entries.append({"id": batch.ids[i], "type": "structures", "attributes": attributes})
    return json.dumps({"data": entries, "links": {"next": None}, "meta": {}}).encode()


def test_list_names_every_source():
    listed = json.loads(run("list", "--json").stdout)
    assert [source["name"] for source in listed["sources"]] == list(CATALOGUE)
    assert all(source["licence"] and source["citation"] for source in listed["sources"])
    table = run("list").stdout
    assert all(name in table for name in CATALOGUE)
    assert "optimade:https://" in table


def test_get_writes_a_table_and_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MATMILL_CACHE", str(tmp_path / "cache"))
    batch = many(9)
    with serve({"/v1/structures": lambda _: Answer(optimade(batch))}) as site:
        out = tmp_path / "got.parquet"
        name = f"optimade:{site.url}"
        facts = json.loads(run("get", name, "--out", out, "--json", "--quiet").stdout)
        assert facts["crystals"] == 9
        assert facts["left_out"] == 0
        assert facts["citation"]
        monkeypatch.chdir(tmp_path)
        run("get", name, "--limit", 4, "--quiet")
        (default,) = tmp_path.glob("optimade*.parquet")
        assert len(open_table(default)) == 4
        assert run("get", name, "--query", "no-equals-sign", code=2).stderr.startswith("Error: ")
    table = open_table(out)
    assert table.ids == batch.ids
    assert table.crystals.formula == batch.formula


def test_show_counts_what_is_there(file):
    shown = json.loads(run("show", file, "--json", "--quiet").stdout)
    batch = many(60)
    assert shown["n_crystals"] == 60
    assert shown["n_atoms_total"] == int(batch.n_atoms.sum())
    assert shown["n_formulas"] == len(set(batch.formula))
    columns = {column["name"]: column for column in shown["columns"]}
    assert columns["bulk_modulus_vrh_gpa"]["unit"] == "GPa"
    assert columns["bulk_modulus_vrh_gpa"]["missing_share"] == pytest.approx(1 / 3)
    assert columns["bulk_modulus_vrh_gpa"]["high"] == 300.0
    assert sum(shown["sizes"].values()) == 60
    assert shown["sizes"]["1-4"] == int((batch.n_atoms <= 4).sum())
    assert shown["splits"]["split"] == {"train": 50, "test": 10}
    assert {finding["check"] for finding in shown["findings"]} == {"shared_formulas"}
    text = run("show", file, "--quiet", "--target", "bulk_modulus").stdout
    assert "60 crystals" in text
    assert "33.3%" in text
    assert "20 of 60 rows have no value of 'bulk_modulus_vrh_gpa'" in text


def test_split_writes_what_it_says(file, tmp_path):
    out = tmp_path / "split.json"
    arguments = ("split", file, "--kind", "formula", "--seed", 3, "--quiet", "--json")
    facts = json.loads(run(*arguments, "--out", out).stdout)
    division = Split.load(out, open_table(file))
    assert [facts[part] for part in ("train", "val", "test")] == [
        len(rows) for rows in division.parts.values()
    ]
    assert facts["formulas_in_train_and_test"] == 0
    assert facts["hash"] == division.hash
    again = json.loads(run(*arguments).stdout)
    assert again["hash"] == facts["hash"]
    assert Split.load(tmp_path / "mine.formula.split.json").hash == facts["hash"]
    assert "formulas_in_train_and_test" in run("split", file, "--kind", "random").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "mp_21"), "Did you mean 'mp_20'"),
        (("show", "nothing.parquet"), "There is no file or folder 'nothing.parquet'"),
        (("split", "FILE", "--kind", "formulas"), "Did you mean 'formula'"),
        (("split", "FILE", "--fractions", "0.8,0.2"), "is not three numbers"),
        (("split", "FILE", "--kind", "element", "--hold-out", "Xe"), "No crystal has Xe"),
        (("show", "FILE", "--target", "gpa"), "Known: "),
    ],
)
def test_mistakes_are_one_line(file, arguments, message):
    result = run(*(str(file) if a == "FILE" else a for a in arguments), "--quiet", code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("band_gap_ev", "eV"),
        ("formation_energy_per_atom_ev", "eV/atom"),
        ("exfoliation_energy_mev_atom", "meV/atom"),
        ("last_phdos_peak_cm1", "1/cm"),
        ("refractive_index", ""),
    ],
)
def test_units_are_read_off_names(column, unit):
    assert unit_of(column) == unit
