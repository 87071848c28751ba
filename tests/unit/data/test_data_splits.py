import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_crystals import batches, many
from hypothesis import given
from hypothesis import strategies as st
from sklearn import model_selection

from matmill.crystals import symmetry
from matmill.crystals.composition import anonymous_formulas, element_counts
from matmill.crystals.elements import number
from matmill.data.splits import Split, matbench_folds, shared_groups, split
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError

seeds = st.integers(0, 1000)


def assert_partition(division, n_rows):
    rows = torch.cat(list(division.parts.values()))
    assert sorted(rows.tolist()) == list(range(n_rows))
    for part in division.parts.values():
        assert part.tolist() == sorted(part.tolist())


@given(batches(), seeds, st.sampled_from(["random", "matbench", "formula", "element"]))
def test_every_row_is_in_one_part_and_the_seed_decides(batch, seed, kind):
    division = split(batch, kind, seed=seed)
    assert_partition(division, len(batch))
    assert len(division.train)
    assert len(division.test)
    assert split(batch, kind, seed=seed).hash == division.hash


@given(batches(min_size=20), seeds)
def test_random_parts_have_the_asked_sizes(batch, seed):
    division = split(batch, "random", seed=seed, fractions=(0.6, 0.1, 0.3))
    n = len(batch)
    for rows, share in zip(division.parts.values(), (0.6, 0.1, 0.3), strict=True):
        assert abs(len(rows) - share * n) <= 1


@given(batches(min_size=20), seeds)
def test_no_formula_is_in_two_parts(batch, seed):
    division = split(batch, "formula", seed=seed)
    sets = [{batch.formula[row] for row in rows.tolist()} for rows in division.parts.values()]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert shared_groups(batch.formula, division) == 0


@given(batches(min_size=20, max_size=40), seeds)
def test_no_prototype_is_in_two_parts(batch, seed):
    division = split(batch, "prototype", seed=seed)
    numbers = symmetry.find(batch, symprec=0.1).number.tolist()
    keys = list(zip(anonymous_formulas(batch), numbers, strict=True))
    assert shared_groups(keys, division) == 0
    assert_partition(division, len(batch))


def test_space_groups_of_the_table_are_used_and_completed():
    batch = many(60)
    own = torch.arange(60) % 7 + 1.0
    own[::5] = float("nan")
    division = split(batch.with_properties(spacegroup=own), "prototype", seed=1)
    found = symmetry.find(batch, symprec=0.1).number.double()
    numbers = torch.where(own.isnan(), found, own.double()).tolist()
    keys = list(zip(anonymous_formulas(batch), numbers, strict=True))
    assert shared_groups(keys, division) == 0


@given(batches(min_size=20), seeds)
def test_folds_of_groups_test_every_row_once(batch, seed):
    tested = [split(batch, "formula", seed=seed, n_folds=3, fold=f).test for f in range(3)]
    assert sorted(torch.cat(tested).tolist()) == list(range(len(batch)))


@given(batches(min_size=20), st.sampled_from(["H", "Li", "C", "O"]))
def test_held_out_elements_are_only_tested_on(batch, element):
    z = number(element)
    has = element_counts(batch)[:, z] > 0
    if not has.any() or has.all():
        return
    division = split(batch, "element", elements=[element], fractions=(0.9, 0.0, 0.1))
    assert torch.equal(division.test, torch.nonzero(has).flatten())


def test_drawn_elements_fill_at_most_the_test_fraction():
    batch = many(400)
    batch = replace(batch, atomic_numbers=torch.randint(1, 90, (int(batch.n_atoms.sum()),)))
    division = split(batch, "element", seed=5, fractions=(0.7, 0.1, 0.2))
    assert 0.15 * 400 < len(division.test) <= 0.2 * 400
    assert len(division.settings["elements"]) > 1


@pytest.mark.parametrize("n_rows", [23, 636, 1265])
def test_matbench_folds_equal_shuffled_kfold(n_rows):
    folds = model_selection.KFold(5, shuffle=True, random_state=18012019)
    for ours, (_, theirs) in zip(matbench_folds(n_rows), folds.split(range(n_rows)), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("n_rows", "share"), [(101, 0.5), (1000, 0.71), (777, 0.05)])
def test_matbench_folds_of_classes_equal_stratified_kfold(n_rows, share):
    labels = (np.random.default_rng(n_rows).random(n_rows) < share).astype(float)
    folds = model_selection.StratifiedKFold(5, shuffle=True, random_state=18012019)
    ours = matbench_folds(n_rows, torch.from_numpy(labels))
    for mine, (_, theirs) in zip(ours, folds.split(labels, labels), strict=True):
        assert mine.tolist() == theirs.tolist()


def test_matbench_split_is_stratified_for_flags_only():
    batch = many(100)
    flags = (torch.arange(100) % 4 == 0).double()
    batch = batch.with_properties(is_metal=flags)
    division = split(batch, "matbench", target="is_metal", fold=2)
    assert division.settings["stratified"]
    assert torch.equal(division.test, matbench_folds(100, flags)[2])
    assert float(flags[division.test].mean()) == pytest.approx(0.25)
    regression = split(batch, "matbench", target="band_gap", fold=2)
    assert not regression.settings["stratified"]
    assert torch.equal(regression.test, matbench_folds(100)[2])


def test_without_validation_the_rest_is_trained_on():
    division = split(many(50), "matbench", fractions=(1.0, 0.0, 0.0))
    assert len(division.train) == 40
    assert len(division.val) == 0


def test_stored_split_comes_back_and_guards_its_table(tmp_path):
    table = LabelledCrystals(crystals=many(40), source="mine.parquet")
    division = split(table, "formula", seed=7)
    path = tmp_path / "split.json"
    division.save(path)
    again = Split.load(path, table)
    assert again.hash == division.hash
    assert again.settings == division.settings
    assert torch.equal(again.train, division.train)
    relabelled = replace(
        table, crystals=table.crystals.with_properties(extra=torch.zeros(len(table)))
    )
    Split.load(path, relabelled)  # new labels, same crystals
    with pytest.raises(DataError, match=r"divides other crystals than those of mine\.parquet"):
        Split.load(path, table.select(range(39)))
    content = json.loads(path.read_text())
    content["train"].append(content["test"].pop())
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="was changed after it was written"):
        Split.load(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="is not a split"):
        Split.load(path)


def test_mistakes_are_named():
    batch = many(30)
    with pytest.raises(UnknownNameError, match="Did you mean 'formula'"):
        split(batch, "formulas")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="add up to 1"):
        split(batch, fractions=(0.8, 0.1, 0.2))
    with pytest.raises(InputError, match="Fold 5 of 5"):
        split(batch, "matbench", fold=5)
    with pytest.raises(InputError, match="No crystal has Xe"):
        split(batch, "element", elements=["Xe"])
    with pytest.raises(InputError, match="at least 2"):
        split(batch.select([0]))
    same = batch.select([0, 0, 0])
    with pytest.raises(InputError, match=r"1 group\(s\) cannot fill 3 parts"):
        split(same, "formula")
