import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from salt_tables import SMALL, make_table

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.data.parts import with_parts
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.ensemble import load_model
from matmill.predict.protocol import load_predictor, predict_many
from matmill.predict.task import GraphBatches, LabelledGraphs, PropertyTask, expected_draws
from matmill.predict.train import TrainSettings, train_predictor


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    settings = TrainSettings(**SMALL, epochs=40, learning_rate=5e-3, batch_crystals=32)
    model = train_predictor(
        make_table(),
        ["formation_energy", "bulk_modulus"],
        settings=settings,
        folder=folder / "work",
        seed=1,
    )
    model.save(folder / "salts")
    return folder


def test_it_learns_and_beats_the_median(trained):
    card = json.loads((trained / "salts.json").read_text())
    table = make_table()
    for column, scores in card["scores"].items():
        values = table.column(column)
        train, test = values[:120], values[180:]
        train, test = train[torch.isfinite(train)], test[torch.isfinite(test)]
        median_error = float((test - train.median()).abs().mean())
        assert scores["mae"] < 0.5 * median_error
        assert scores["intervals"]["0.90"]["covered"] >= 0.75
    assert card["scores"]["bulk_modulus_vrh_gpa"]["n_test"] == 30
    assert card["data"]["labels"]["bulk_modulus_vrh_gpa"] == {"train": 60, "val": 30, "test": 30}
    assert card["elements_z"] == [3, 8, 11, 17, 26, 30]


def test_scores_can_be_recomputed_from_the_file(trained):
    card = json.loads((trained / "salts.json").read_text())
    table = make_table()
    test = table.crystals.select(torch.arange(180, 240))
    found = load_model(trained / "salts").predict_all(test)["formation_energy_per_atom_ev"]
    error = (found.mean - test.properties["formation_energy_per_atom_ev"]).abs().mean()
    expected = card["scores"]["formation_energy_per_atom_ev"]["mae"]
    assert float(error) == pytest.approx(expected, rel=1e-4)


def test_unseen_elements_and_strange_cells_are_flagged(trained):
    table = make_table()
    usual = table.crystals.select([0, 1])
    numbers = usual.atomic_numbers.clone()
    numbers[0] = 92
    odd = CrystalBatch(
        lattice=usual.lattice,
        frac_coords=usual.frac_coords,
        atomic_numbers=numbers,
        n_atoms=usual.n_atoms,
    )
    predictor = load_predictor(trained / "salts", column="bulk_modulus")
    assert predictor.predict(odd).in_domain.tolist() == [False, True]
    squeezed = CrystalBatch(
        lattice=usual.lattice * 0.3,
        frac_coords=usual.frac_coords,
        atomic_numbers=usual.atomic_numbers,
        n_atoms=usual.n_atoms,
    )
    assert not bool(predictor.predict(squeezed).in_domain.any())


def test_views_share_their_work(trained, monkeypatch):
    names = ["formation_energy_per_atom_ev", "bulk_modulus_vrh_gpa"]
    views = [load_predictor(trained / "salts", column=name) for name in names]
    assert views[0].model is views[1].model
    calls = []
    original = type(views[0].model).raw
    monkeypatch.setattr(
        type(views[0].model), "raw", lambda self, graph: calls.append(1) or original(self, graph)
    )
    batch = make_table().crystals.select([0, 1, 2])
    together = predict_many(batch, views)
    assert len(calls) == 1
    assert list(together) == names
    alone = views[1].predict(batch)
    assert torch.equal(together[names[1]].mean, alone.mean)
    assert bool((alone.low >= 0).all())


def test_requests_that_cannot_be_met_are_explained(trained):
    with pytest.raises(InputError, match="several properties"):
        load_predictor(trained / "salts")
    with pytest.raises(UnknownNameError, match="band_gap"):
        load_predictor(trained / "salts", column="band_gap")
    with pytest.raises(UnknownNameError, match="No predictor called 'colour'"):
        load_predictor("colour")
    with pytest.raises(DataError, match="no predictor"):
        load_predictor(trained / "nothing.safetensors")
    predictor = load_predictor(trained / "salts", column="bulk_modulus")
    batch = make_table().crystals.select([0])
    with pytest.raises(InputError, match="coverage"):
        predictor.predict(batch, coverage=1.0)
    masked = CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords,
        atomic_numbers=torch.tensor([0, 8]),
        n_atoms=batch.n_atoms,
    )
    with pytest.raises(InputError, match="no element"):
        predictor.predict(masked)


def test_repeating_gives_the_same_and_other_data_are_refused(tmp_path):
    settings = TrainSettings(**SMALL, epochs=2)
    kwargs = {"settings": settings, "folder": tmp_path / "work", "seed": 1}
    table = make_table()
    first = train_predictor(table, ["formation_energy"], **kwargs)
    again = train_predictor(table, ["formation_energy"], **kwargs)
    batch = table.crystals.select([0, 5])
    column = "formation_energy_per_atom_ev"
    a, b = (m.predict_all(batch)[column] for m in (first, again))
    assert torch.equal(a.mean, b.mean)
    fresh = train_predictor(
        table, ["formation_energy"], settings=settings, folder=tmp_path / "other", seed=1
    )
    assert torch.equal(fresh.predict_all(batch)[column].mean, a.mean)
    with pytest.raises(InputError, match="other data"):
        train_predictor(table.select(torch.arange(230)), ["formation_energy"], **kwargs)


def test_members_can_start_from_another_predictor(trained, tmp_path):
    settings = TrainSettings(**SMALL, epochs=1)
    model = train_predictor(
        make_table(),
        ["bulk_modulus"],
        settings=settings,
        folder=tmp_path / "a",
        start_from=str(trained / "salts.safetensors"),
    )
    assert model.card["started_from"].endswith("salts.safetensors")
    source = load_model(trained / "salts").members[0].embed.weight
    own = model.members[0].embed.weight
    cold = train_predictor(make_table(), ["bulk_modulus"], settings=settings, folder=tmp_path / "b")
    assert (own - source).norm() < 0.5 * (cold.members[0].embed.weight - source).norm()
    with pytest.raises(InputError, match="another kind or size"):
        train_predictor(
            make_table(),
            ["bulk_modulus"],
            settings=settings.model_copy(update={"width": 8}),
            folder=tmp_path / "c",
            start_from=str(trained / "salts.safetensors"),
        )


def test_a_killed_training_goes_on(tmp_path):
    settings = TrainSettings(**SMALL, epochs=25)
    folder = tmp_path / "work"
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        deadline = time.monotonic() + 300  # a busy machine starts processes slowly
        while not (folder / "member-1" / "log.csv").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    stamp = (folder / "member-0" / "last.safetensors").stat().st_mtime_ns
    kwargs = {"settings": settings, "seed": 1}
    resumed = train_predictor(make_table(), ["formation_energy"], folder=folder, **kwargs)
    assert (folder / "member-0" / "last.safetensors").stat().st_mtime_ns == stamp
    whole = train_predictor(make_table(), ["formation_energy"], folder=tmp_path / "w", **kwargs)
    for one, other in zip(resumed.members, whole.members, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
        )


def test_rows_without_split_are_divided_by_formula(tmp_path):
    table = make_table()
    table = LabelledCrystals(crystals=table.crystals, source="salts.csv")
    model = train_predictor(
        table, ["formation_energy"], settings=TrainSettings(**SMALL, epochs=1), folder=tmp_path
    )
    labels = model.card["data"]["labels"]["formation_energy_per_atom_ev"]
    assert sum(labels.values()) == 240
    assert min(labels.values()) > 5


def test_test_rows_stay_out_of_a_table_that_names_no_validation_rows(tmp_path):
    table = make_table()
    is_test = torch.tensor([part == "test" for part in table.notes["split"]])
    table = with_parts(table, ["test" if flag else "train" for flag in is_test.tolist()])
    model = train_predictor(
        table, ["formation_energy"], settings=TrainSettings(**SMALL, epochs=1), folder=tmp_path
    )
    labels = model.card["data"]["labels"]["formation_energy_per_atom_ev"]
    assert labels["test"] == int(is_test.sum())
    assert labels["val"] > 5
    known = table.column("formation_energy")
    assert model.card["scales"][0]["high"] <= float(known[~is_test].max())


def test_too_few_or_constant_labels_are_refused(tmp_path):
    table = make_table()
    with pytest.raises(DataError, match="at least 10 are needed"):
        train_predictor(table.select(torch.arange(8)), ["formation_energy"], folder=tmp_path)
    constant = table.crystals.with_properties(band_gap_ev=torch.ones(240).double())
    flat = LabelledCrystals(crystals=constant, notes=table.notes, source="x")
    with pytest.raises(DataError, match="nothing can be learned"):
        train_predictor(flat, ["band_gap"], folder=tmp_path)
    with pytest.raises(InputError, match="only once"):
        train_predictor(table, ["bulk_modulus", "bulk_modulus_vrh_gpa"], folder=tmp_path)


def test_rare_labels_are_drawn_more_often_and_large_cells_less():
    labels = torch.full((100, 2), torch.nan)
    labels[:, 0] = 1.0
    labels[:4, 1] = 1.0
    n_atoms = torch.full((100,), 4)
    n_atoms[50:] = 40
    draws = expected_draws(n_atoms, labels)
    assert draws[:4].tolist() == pytest.approx([4.0] * 4)  # root of 25, at most 4
    assert draws[4:50].tolist() == pytest.approx([1.0] * 46)
    assert draws[50:].tolist() == pytest.approx([0.5] * 50)


def test_an_epoch_draws_as_expected_and_repeats_itself():
    from matmill.graphs.graph import build

    table = make_table(60)
    graph = build(table.crystals, k=4)
    labels = torch.stack(list(table.crystals.properties.values()), dim=1).float()
    batches = GraphBatches(graph, labels, n_crystals=16)
    one, two = (list(batches.epoch(3, torch.Generator().manual_seed(1))) for _ in range(2))
    assert all(
        torch.equal(a.labels.nan_to_num(), b.labels.nan_to_num())
        for a, b in zip(one, two, strict=True)
    )
    total = sum(len(b.graph) for b in one)
    assert abs(total - float(batches.draws.sum())) < 15
    assert max(len(b.graph) for b in one) <= 16


def test_no_crystal_of_a_small_table_is_a_batch_of_its_own():
    from matmill.graphs.graph import build

    crystals = make_table(60).crystals
    large = CrystalBatch(
        lattice=12.0 * torch.eye(3)[None].double(),
        frac_coords=torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).double(),
        atomic_numbers=torch.full((40,), 11),
        n_atoms=torch.tensor([40]),
    )
    graph = build(concatenate([replace(crystals, properties={}), large]), k=4)
    labels = torch.arange(61.0)[:, None]
    batches = GraphBatches(graph, labels, n_crystals=16)
    beside = []
    for number in range(2):
        epoch = list(batches.epoch(number, torch.Generator().manual_seed(number)))
        assert sorted(len(b.graph) for b in epoch) == [15, 15, 15, 16]
        assert sorted(torch.cat([b.labels for b in epoch]).flatten().tolist()) == list(range(61))
        beside += [set(b.labels.flatten().tolist()) for b in epoch if 60.0 in b.labels]
    assert beside[0] != beside[1]  # by size it would have the same neighbours in every epoch


def test_the_loss_ignores_missing_labels():
    class Fixed(torch.nn.Module):
        def forward(self, graph):
            n = len(graph)
            return torch.full((n, 2), 2.0), torch.zeros(n, 2)

    from matmill.graphs.graph import build

    graph = build(make_table(12).crystals.select([0, 1]), k=4)
    labels = torch.tensor([[1.0, torch.nan], [5.0, 4.0]])
    task = PropertyTask(Fixed(), shares=torch.tensor([1.0, 0.5]), weights=torch.tensor([1.0, 0.3]))
    parts = task.loss(LabelledGraphs(graph, labels), torch.Generator())
    assert float(parts["mean_error"]) == pytest.approx((1 + 3 + 2) / 3)
    errors = (1 + 3) / 2 + 0.3 * 2 / (0.5 * 2)
    assert float(parts["loss"]) == pytest.approx(1.2 * errors)


if __name__ == "__main__":  # a process that a test can kill
    train_predictor(
        make_table(),
        ["formation_energy"],
        settings=TrainSettings(**SMALL, epochs=25),
        folder=Path(sys.argv[1]),
        seed=1,
    )


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """A predictor of few rows with default members, and the rows that each member was given."""
    from matmill.predict import train

    given, original = [], train._train_members

    def noting(card, start, learned, val, **rest):
        given.extend(learned)
        return original(card, start, learned, val, **rest)

    folder = tmp_path_factory.mktemp("folds")
    small = {name: value for name, value in SMALL.items() if name != "n_members"}
    settings = TrainSettings(**small, epochs=30, learning_rate=5e-3, batch_crystals=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_train_members", noting)
        model = train_predictor(
            make_table(), ["formation_energy"], settings=settings, folder=folder / "work", seed=1
        )
    model.save(folder / "salts")
    return model, folder / "salts", given


def test_with_few_rows_each_member_leaves_out_its_own_and_all_calibrate(folded):
    model, _, given = folded
    calibration = model.card["calibration"]["formation_energy_per_atom_ev"]
    assert calibration["method"] == "folds"
    assert calibration["n_calibration"] == 180  # the training and the validation rows
    assert model.card["n_members"] == len(model.members) == len(given) == 5
    assert sum(len(graph) for graph, _, _ in given) == 4 * 180
    seen = torch.cat([labels for _, labels, _ in given])[:, 0]
    _, counts = seen.unique(return_counts=True)
    assert bool((counts % 4 == 0).all())  # every row sits out once
    formulas = make_table().crystals.formula
    folds = model.calibration_rows.folds
    for formula in set(formulas[:180]):
        rows = [i for i, other in enumerate(formulas[:180]) if other == formula]
        assert len(set(folds[rows].tolist())) == 1


def test_intervals_over_folds_cover_and_survive_the_file(folded):
    model, path, _ = folded
    test = make_table().crystals.select(torch.arange(180, 240))
    truth = test.properties["formation_energy_per_atom_ev"]
    found = model.predict_all(test)["formation_energy_per_atom_ev"]
    covered = ((found.low <= truth) & (truth <= found.high)).double().mean()
    assert covered >= 0.75
    assert set(found.interval) == {"CV+"}
    assert bool((found.effective_size == 180).all())
    again = load_model(path).predict_all(test)["formation_energy_per_atom_ev"]
    assert torch.equal(found.low, again.low)
    assert torch.equal(found.high, again.high)
    scores = model.card["scores"]["formation_energy_per_atom_ev"]
    assert scores["intervals"]["0.90"]["covered"] == pytest.approx(float(covered))
    wider = model.predict_all(test, coverage=0.95)["formation_energy_per_atom_ev"]
    assert bool((wider.high - wider.low >= found.high - found.low).all())
    family = model.predict_all(test, intervals="family")["formation_energy_per_atom_ev"]
    assert "CV+" not in set(family.interval)


def test_how_an_ensemble_calibrates_depends_on_rows_and_on_what_was_asked():
    few, many = TrainSettings().for_rows(999), TrainSettings().for_rows(1000)
    assert (few.calibration, few.n_members) == ("folds", 5)
    assert (many.calibration, many.n_members) == ("held-out", 3)
    assert TrainSettings(n_members=2).for_rows(50).calibration == "held-out"
    assert TrainSettings(n_members=8).for_rows(50).n_members == 8
    asked = TrainSettings(calibration="folds", n_members=2).for_rows(50_000)
    assert (asked.calibration, asked.n_members) == ("folds", 2)
    assert TrainSettings(preset="reference").for_rows(50).calibration == "held-out"
    assert TrainSettings(seconds=60.0).for_rows(50).seconds_per_member == 12.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"calibration": "folds", "keeps_best": True},
        {"calibration": "folds", "stem_seconds": 5.0},
        {"calibration": "folds", "n_members": 1},
        {"seconds": 5.0, "seconds_per_member": 5.0},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match=r"calibration='folds'|not both"):
        TrainSettings(**wrong)
