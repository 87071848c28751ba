"""Hulls of files that people bring, and which energies may meet which hull."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import parse_formula
from matmill.crystals.elements import number
from matmill.errors import DataError, InputError
from matmill.verify import schemes
from matmill.verify.corrections import mp2020
from matmill.verify.hull import Hull
from matmill.verify.hull_entries import HullEntries
from matmill.verify.hull_reference import read_hull

PER_ATOM = {"Na": -1.0, "Cl": -2.0, "NaCl": -2.2, "NaCl3": -2.0}


class Fake:
    """The part of a potential that schemes look at."""

    def __init__(self, name: str, scheme: str | None = None) -> None:
        self.name = name
        if scheme is not None:
            self.scheme = scheme


def crystal(formula: str) -> CrystalBatch:
    numbers = [number(s) for s, n in parse_formula(formula).items() for _ in range(n)]
    frac = np.linspace(0, 1, len(numbers), endpoint=False)[:, None] * np.ones(3)
    return CrystalBatch.from_lists([np.eye(3) * 9.0], [frac.tolist()], [numbers])


def write(path, rows):
    if path.suffix == ".csv":
        heads = list(rows[0])
        lines = [",".join("" if row[k] is None else str(row[k]) for k in heads) for row in rows]
        path.write_text("\n".join([",".join(heads), *lines]) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def totals(formulas=PER_ATOM):
    return [{"formula": f, "energy_per_atom_ev": e} for f, e in formulas.items()]


@pytest.mark.parametrize("name", ["mine.parquet", "mine.csv", "mine.json"])
def test_total_energies_of_any_kind_of_file(tmp_path, name):
    hull = read_hull(write(tmp_path / name, totals()), scheme="mp-raw")
    assert hull.name == f"{name}/energy_per_atom_ev/mp-raw"
    assert (hull.scheme, hull.potential) == ("mp-raw", None)
    assert hull.elements == {"Na", "Cl"}
    above = hull.energy_above(torch.tensor([-4.0, -3.0]), _batch("NaCl", "Na2Cl"))
    # Na2Cl lies on the tie line from Na to NaCl: (-1.0 + 2 * -2.2) / 3.
    assert above.tolist() == pytest.approx([0.2, -1.0 + 5.4 / 3], abs=1e-9)


def _batch(*formulas):
    from matmill.crystals.batch import concatenate

    return concatenate([crystal(f) for f in formulas])


def test_lists_of_elements_and_energies_of_cells(tmp_path):
    rows = [
        {"elements_z": [11], "counts": [2], "energy_ev": -2.0},
        {"elements_z": [17], "counts": [4], "energy_ev": -8.0},
        {"elements_z": [11, 17], "counts": [4, 4], "energy_ev": -17.6},
        {"elements_z": [11, 17], "counts": [1, 1], "energy_ev": -4.2},
    ]
    hull = read_hull(write(tmp_path / "cells.parquet", rows), scheme="mp-raw")
    assert float(hull.energy_above(torch.tensor([-4.0]), crystal("NaCl"))[0]) == pytest.approx(0.2)
    assert hull.n_competitors(crystal("NaCl")).tolist() == [2]


def test_formation_energies_need_the_elements(tmp_path, monkeypatch):
    monkeypatch.delenv("MATMILL_DATA", raising=False)
    rows = [
        {"formula": "NaCl", "formation_energy_per_atom_ev": -2.0, "recommended": True},
        {"formula": "NaCl3", "formation_energy_per_atom_ev": -9.0, "recommended": False},
        {"formula": "KCl", "formation_energy_per_atom_ev": -2.1, "recommended": True},
    ]
    elements = [{"formula": "Na", "energy_per_atom_ev": -1.3},
                {"formula": "Cl2", "energy_per_atom_ev": -1.8}]  # fmt: skip
    path = write(tmp_path / "dft.parquet", rows)
    write(tmp_path / "element_references.parquet", elements)
    hull = read_hull(path)
    expected = "dft.parquet/formation_energy_per_atom_ev/mp2020-corrected+elements("
    assert hull.name == expected + "element_references.parquet)"
    assert hull.elements == {"Na", "Cl"}
    # The total energy of the compound is its formation energy above the elements.
    energy = 2 * (-2.0 + (-1.3 - 1.8) / 2)
    above = hull.energy_above(torch.tensor([energy + 0.1, -1.0]), _batch("NaCl", "KCl"))
    assert float(above[0]) == pytest.approx(0.05)
    assert math.isnan(above[1])
    # The row that is not recommended is not there: NaCl3 decomposes into NaCl and Cl.
    mixture = (energy + 2 * -1.8) / 4
    assert hull.value(_counts("NaCl3")) == pytest.approx(mixture)
    # Elsewhere the elements are the embedded potential's own, and the hull is for that one only.
    (tmp_path / "element_references.parquet").unlink()
    own = read_hull(path)
    assert own.potential == "chgnet-0.3.0"
    assert "elements(chgnet" in own.name
    assert own.hash != hull.hash


def _counts(formula):
    from matmill.crystals.composition import element_counts

    return element_counts(crystal(formula)).numpy()[0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"formula": "NaCl", "energy": -1.0}], "no column of energies"),
        ([{"energy_per_atom_ev": -1.0}], "needs formula"),
        ([{"formula": "NaCl", "energy_per_atom_ev": float("nan")}], "row 1: energy_per_atom_ev"),
        ([*totals(), {"formula": "NaQq", "energy_per_atom_ev": -1.0}], "row 5"),
        ([{"formula": "Na", "energy_per_atom_ev": "low"}], "not all numbers"),
        ([{"formula": "", "energy_per_atom_ev": -1.0}], "row 1"),
        ([{"formula": "Na", "energy_per_atom_ev": None}], "no row with an energy"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_bad_files_are_one_line(tmp_path, rows, words, kind):
    path = write(tmp_path / f"bad.{kind}", rows)
    with pytest.raises(DataError, match="bad") as caught:
        read_hull(path, scheme="mp-raw")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_counted_as_in_the_file(tmp_path):
    rows = [{"formula": "Na", "energy_per_atom_ev": None}, *totals()]
    rows.append({"formula": "Na", "energy_per_atom_ev": float("inf")})
    with pytest.raises(DataError, match="row 6"):
        read_hull(write(tmp_path / "bad.json", rows), scheme="mp-raw")


@pytest.mark.parametrize("lists", [([0], [1]), ([11], [0]), ([200], [1]), ([], [])])
def test_bad_lists_are_one_line(tmp_path, lists):
    rows = [{"elements_z": lists[0], "counts": lists[1], "energy_per_atom_ev": -1.0}]
    with pytest.raises(DataError) as caught:
        read_hull(write(tmp_path / "bad.json", rows), scheme="mp-raw")
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"missing\.csv"):
        read_hull(tmp_path / "missing.csv")
    (tmp_path / "text.xlsx").write_text("x")
    with pytest.raises(DataError, match="can be read"):
        read_hull(tmp_path / "text.xlsx")
    for name in ("broken.parquet", "broken.json"):
        (tmp_path / name).write_text("{")
        with pytest.raises(DataError, match="broken"):
            read_hull(tmp_path / name)
    (tmp_path / "number.json").write_text("3")
    with pytest.raises(DataError, match=r"number\.json"):
        read_hull(tmp_path / "number.json")
    with pytest.raises(DataError, match="no column mace"):
        read_hull(write(tmp_path / "a.csv", totals()), energy="mace", scheme="mp-raw")


def test_the_scheme_of_total_energies_must_be_named(tmp_path):
    path = write(tmp_path / "a.csv", totals())
    with pytest.raises(InputError, match="--hull-scheme"):
        read_hull(path)
    hull = read_hull(path, scheme="mace-mp-0")
    assert hull.potential == "mace-mp-0"
    assert schemes.step(Fake("mace-mp-0", "mp-raw"), hull) == "none"
    with pytest.raises(InputError, match="mace-mp-0"):
        schemes.step(Fake("mace-mp-1", "mp-raw"), hull)


def hull_of(scheme: str | None = None, potential: str | None = None) -> Hull:
    counts = np.stack([_counts(f) for f in ("Na", "O", "Fe", "Fe2O3")])
    return Hull(
        HullEntries(
            counts=counts,
            energy_ev_per_atom=np.array([-1.0, -5.0, -8.0, -7.0]),
            relaxed=np.zeros(4, bool),
            n_crystals=np.ones(4, np.int64),
            ids=["a", "b", "c", "d"],
        ),
        name="toy",
        hash="0",
        scheme=scheme,
        potential=potential,
    )


def test_a_scheme_meets_only_its_own_or_is_corrected():
    corrected, raw = hull_of("mp2020-corrected"), hull_of("mp-raw")
    assert schemes.step(Fake("a", "mp2020-corrected"), corrected) == "none"
    assert schemes.step(Fake("a", "mp-raw"), corrected) == "mp2020"
    assert schemes.step(Fake("a", "mp-raw"), hull_of("tri110-2024")) == "tri110"
    assert schemes.step(Fake("a", "mp-raw"), raw) == "none"
    assert schemes.step(Fake("a"), hull_of()) == "none"
    for potential, hull in (
        (Fake("a", "mp2020-corrected"), raw),  # corrections are never taken back
        (Fake("a", "mp2020-corrected"), hull_of("tri110-2024")),
        (Fake("a", "other"), corrected),
        (Fake("a"), corrected),
        (Fake("a", "other"), hull_of("other")),
        (Fake("a", "mp2020-corrected"), hull_of("mp2020-corrected", "chgnet-0.3.0")),
    ):
        assert not schemes.fits(potential, hull)
        with pytest.raises(InputError) as caught:
            schemes.energy_above(hull, potential, torch.tensor([-34.0]), crystal("Fe2O3"))
        assert "\n" not in str(caught.value)
        assert "a" in str(caught.value)


def test_raw_energies_are_corrected_once_and_the_record_says_so():
    batch, raw = crystal("Fe2O3"), Fake("seven", "mp-raw")
    added = float(mp2020(batch).energy_ev[0])
    assert added < -6.0
    hull = hull_of("mp2020-corrected")
    plain = float(hull.energy_above(torch.tensor([-34.0]), batch)[0])
    found = float(schemes.energy_above(hull, raw, torch.tensor([-34.0]), batch)[0])
    assert found == pytest.approx(plain + added / 5)
    assert schemes.hull_name(hull, raw) == "toy+mp2020(seven)"
    done = Fake("chgnet", "mp2020-corrected")
    again = float(schemes.energy_above(hull, done, torch.tensor([-34.0]), batch)[0])
    assert again == pytest.approx(plain)
    assert schemes.hull_name(hull, done) == "toy"
    tri = float(schemes.energy_above(hull_of("tri110-2024"), raw, torch.tensor([-34.0]), batch)[0])
    assert tri == pytest.approx(plain + (-34.0 * 0.108 - 2 * 3.189) / 5)


def test_the_hull_that_ships_is_for_its_potential_only():
    hull = Hull.load()
    assert hull.potential == "chgnet-0.3.0"
    assert schemes.step(Fake("chgnet-0.3.0"), hull) == "none"
    with pytest.raises(InputError, match="sevennet"):
        schemes.step(Fake("sevennet-0", "mp-raw"), hull)


def test_a_potential_gets_its_own_hull_or_one_that_fits():
    dft, own = hull_of("mp2020-corrected"), hull_of("mp-raw", "seven")
    seven, chgnet = Fake("seven", "mp-raw"), Fake("chgnet-0.3.0", "mp2020-corrected")
    assert schemes.choose(seven, [dft, own]) is own
    assert schemes.choose(seven, [dft]) is dft
    assert schemes.choose(chgnet, [own, dft]) is dft
    assert schemes.choose(chgnet).name == Hull.load().name
    # Where several vote, what ships for a potential comes before what merely fits.
    assert schemes.choose(chgnet, [dft], own_first=True).name == Hull.load().name
    assert schemes.choose(seven, [dft], own_first=True) is dft
    with pytest.raises(InputError, match="No hull of seven ships"):
        schemes.choose(seven)
    with pytest.raises(InputError, match="do not compare"):
        schemes.choose(chgnet, [own])
