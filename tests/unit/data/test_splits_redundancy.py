import json

import pytest
import torch
from data_crystals import many
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.cli.main import run
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import LabelledCompositions, open_compositions
from matmill.data.redundancy.reduce import reduce
from matmill.data.redundancy.report import report
from matmill.data.splits import Split, split
from matmill.data.table import LabelledCrystals, open_table
from matmill.errors import InputError, UnknownNameError

kinds = st.sampled_from(["crystals", "compositions"])


def table_of(form, n=60, seed=0):
    crystals = many(n, seed)
    if form == "crystals":
        return LabelledCrystals(crystals=crystals)
    return LabelledCompositions(compositions=CompositionBatch.of(crystals))


@given(kinds, st.integers(0, 1000), st.sampled_from([0.5, 2.0]))
@settings(max_examples=10)
def test_no_two_parts_of_a_redundancy_split_are_near(form, seed, threshold):
    table = table_of(form, seed=seed)
    division = split(table, "redundancy", seed=seed, threshold=threshold, fractions=(0.6, 0.2, 0.2))
    rows = torch.cat(list(division.parts.values())).sort().values
    assert torch.equal(rows, reduce(table, threshold=threshold).keep)
    assert len(division.train) > len(division.test) > 0
    for part in ("val", "test"):
        found = report(
            table.select(division.train), table.select(division.parts[part]), threshold=threshold
        )
        assert found.near_share == 0
        assert found.known_formulas == 0


@given(kinds, st.integers(0, 1000))
@settings(max_examples=10)
def test_no_cluster_is_in_two_parts(form, seed):
    table = table_of(form, seed=seed)
    clusters = reduce(table, threshold=1.0).cluster_id
    for kind, options in (("cluster", {}), ("redundancy", {"dropped": "with_kept"})):
        division = split(table, kind, seed=seed, threshold=1.0, **options)
        owned = [set(clusters[rows].tolist()) for rows in division.parts.values()]
        assert not owned[0] & owned[1]
        assert not owned[0] & owned[2]
        assert not owned[1] & owned[2]
        assert sum(len(rows) for rows in division.parts.values()) == 60


@pytest.mark.parametrize("kind", ["redundancy", "cluster"])
def test_folds_test_every_used_row_once(kind):
    table = table_of("crystals", 80)
    folds = [split(table, kind, seed=3, n_folds=4, fold=f, threshold=0.5) for f in range(4)]
    tested = torch.cat([division.test for division in folds]).sort().values
    used = reduce(table, threshold=0.5).keep if kind == "redundancy" else torch.arange(80)
    assert torch.equal(tested, used)
    clusters = reduce(table, threshold=0.5).cluster_id
    for division in folds:
        kept = set(clusters[division.test].tolist())
        assert not kept & set(clusters[division.train].tolist())


def test_structures_too_and_the_settings_are_kept(tmp_path):
    table = table_of("crystals", 60)
    division = split(table, "cluster", by="structure", metric="ofm", threshold=2.0)
    assert division.settings["metric"] == "ofm"
    assert division.settings["clusters"] == len(reduce(table, "structure", 2.0, "ofm"))
    division.save(tmp_path / "s.json")
    assert Split.load(tmp_path / "s.json", table).settings == division.settings


def test_mistakes_are_named():
    table = table_of("compositions")
    with pytest.raises(InputError, match="only formulas"):
        split(table, "cluster", by="structure")
    with pytest.raises(UnknownNameError, match="place for dropped rows"):
        split(table, "redundancy", dropped="with")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"1 group\(s\) cannot fill 3 parts"):
        split(table, "redundancy", threshold=1000.0)


def test_the_commands_reduce_divide_and_report(tmp_path, capsys):
    source = tmp_path / "all.parquet"
    table_of("crystals", 60).save(source)
    kept = tmp_path / "kept.parquet"
    run_ok(["data", "reduce", str(source), "--threshold", "0.5", "--out", str(kept), "--json"])
    facts = json.loads(capsys.readouterr().out)
    table = open_table(source)
    expected = reduce(table, threshold=0.5)
    assert open_table(kept).ids == tuple(table.ids[row] for row in expected.keep.tolist())
    assert (facts["rows"], facts["kept"]) == (60, len(expected))
    for kind in ("redundancy", "cluster", "random"):
        file = tmp_path / f"{kind}.json"
        run_ok(
            [
                *("data", "split", str(source), "--kind", kind, "--threshold", "0.5"),
                *("--leaks", "--json", "--quiet", "--out", str(file)),
            ]
        )
        facts = json.loads(capsys.readouterr().out)
        division = Split.load(file, table)
        assert facts["test"] == len(division.test)
        sides = (table.select(division.train), table.select(division.test))
        assert facts["leaks"] == json.loads(json.dumps(report(*sides, threshold=0.5).as_dict()))
    run_ok(["data", "split", str(source), "--kind", "cluster", "--out", str(file), "--quiet"])
    assert "test rows within the threshold of training" in capsys.readouterr().out


def test_the_commands_take_formulas(tmp_path, capsys):
    source = tmp_path / "formulas.csv"
    lines = [f"m{i},{text}" for i, text in enumerate(["NaCl", "KCl", "SiO2", "TiO2", "Fe2O3"])]
    source.write_text("id,formula\n" + "\n".join(lines), encoding="utf-8")
    kept = tmp_path / "kept.parquet"
    run_ok(["data", "reduce", str(source), "--threshold", "1.5", "--out", str(kept), "--quiet"])
    assert open_compositions(kept).ids == ("m0", "m2", "m3", "m4")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(
            [
                "data",
                "reduce",
                str(source),
                "--by",
                "structure",
                "--out",
                str(tmp_path / "x.parquet"),
            ]
        )
    assert "only formulas" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def run_ok(arguments):
    with pytest.raises(SystemExit) as end:
        run(arguments)
    assert not end.value.code
