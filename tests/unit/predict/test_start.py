import pytest
import torch
from salt_tables import SMALL, make_table

from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import LabelledCompositions
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError
from matmill.predict.ensemble import load_model
from matmill.predict.pretrain.encoder import save_encoder
from matmill.predict.start import open_start
from matmill.predict.task import PropertyTask
from matmill.predict.train import TrainSettings, train_predictor
from matmill.training.fit import FitSettings
from matmill.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    settings = TrainSettings(**{**SMALL, "n_members": 1}, epochs=3)
    model = train_predictor(
        make_table(), ["formation_energy"], settings=settings, folder=folder / "work", seed=1
    )
    model.save(folder / "salts")
    return folder


@pytest.fixture(scope="module")
def encoder(trained):
    """The lower layers of the trained network in a file, as pretraining writes them."""
    model = load_model(trained / "salts")
    card = {
        "network": "cgcnn",
        "network_settings": model.card["network_settings"],
        "n_neighbors": 12,
        "cutoff_angstrom": 8.0,
    }
    return save_encoder(trained / "salts-encoder", model.members[0], card)


def test_members_start_from_an_encoder_with_its_sizes(trained, encoder, tmp_path):
    settings = TrainSettings(n_members=1, epochs=1, precision="fp32")
    assert settings.width != SMALL["width"]
    model = train_predictor(
        make_table(),
        ["bulk_modulus"],
        settings=settings,
        folder=tmp_path / "a",
        start_from=str(encoder),
    )
    assert model.card["network_settings"]["width"] == SMALL["width"]
    assert model.card["started_from"] == str(encoder)
    source = load_model(trained / "salts").members[0]
    own = model.members[0]
    assert (own.embed.weight - source.embed.weight).norm() < 0.2 * source.embed.weight.norm()
    assert not torch.allclose(own.hidden.weight, source.hidden.weight, atol=0.05)
    with pytest.raises(InputError, match="width 8 \\(there 16\\)"):
        train_predictor(
            make_table(),
            ["bulk_modulus"],
            settings=TrainSettings(width=8),
            folder=tmp_path / "b",
            start_from=str(encoder),
        )
    assert not (tmp_path / "b").exists()


def test_taken_layers_learn_at_a_fifth_of_the_rate(encoder):
    start = open_start(str(encoder), TrainSettings())
    settings = start.settings(TrainSettings())
    card = {
        "network": "cgcnn",
        "network_settings": settings.network_settings(),
        "columns_trained": ["a"],
    }
    network, factors = start.network(card, seed=0)
    task = PropertyTask(network, torch.ones(1), torch.ones(1), rate_factors=factors)
    optimizer = make_optimizer(task, FitSettings(max_steps=1))
    rates = {
        id(parameter): group["factor"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    fresh = {"hidden", "out", "noise"}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (1.0 if name.split(".")[0] in fresh else 0.2), name
    other = open_start(str(encoder), TrainSettings(taken_rate=0.5))
    assert other.rate_factor == 0.5


def test_an_encoder_of_another_network_is_refused(encoder, tmp_path):
    with pytest.raises(InputError, match="network cgcnn-reference \\(there cgcnn\\)"):
        train_predictor(
            make_table(),
            ["bulk_modulus"],
            settings=TrainSettings(preset="reference"),
            folder=tmp_path / "work",
            start_from=str(encoder),
        )


def test_compositions_train_what_reads_compositions(tmp_path):
    table = make_table()
    rows = LabelledCompositions(
        compositions=CompositionBatch.of(table.crystals), notes=table.notes, source="salts.csv"
    )
    settings = TrainSettings(**{**SMALL, "network": "composition"}, epochs=2)
    model = train_predictor(rows, ["formation_energy"], settings=settings, folder=tmp_path / "a")
    column = "formation_energy_per_atom_ev"
    of_formulas = model.predict_all(rows.compositions)[column].mean
    of_crystals = model.predict_all(table.crystals)[column].mean
    torch.testing.assert_close(of_formulas, of_crystals, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="reads structures"):
        train_predictor(
            rows, ["formation_energy"], settings=TrainSettings(**SMALL), folder=tmp_path / "b"
        )
    assert not (tmp_path / "b").exists()


def test_a_table_without_test_rows_has_no_scores(tmp_path):
    table = make_table().select(torch.arange(180))
    assert set(table.notes["split"]) == {"train", "val"}
    settings = TrainSettings(**SMALL, epochs=1)
    model = train_predictor(table, ["formation_energy"], settings=settings, folder=tmp_path)
    assert model.card["scores"] == {}
    assert model.card["data"]["labels"]["formation_energy_per_atom_ev"]["test"] == 0


@pytest.mark.parametrize("problem", ["three rows", "no labels", "constant", "no validation"])
def test_what_cannot_be_learned_is_said_before_anything_is_written(problem, tmp_path):
    table = make_table()
    values = table.column("formation_energy").clone()
    if problem == "three rows":
        table, values = table.select(torch.arange(3)), values[:3]
    elif problem == "no labels":
        values[:] = torch.nan
    elif problem == "constant":
        values[:] = 1.5
    else:
        values[120:180] = torch.nan
    crystals = table.crystals.with_properties(formation_energy_per_atom_ev=values)
    table = LabelledCrystals(crystals=crystals, notes=table.notes, source="salts.csv")
    with pytest.raises(DataError) as caught:
        train_predictor(table, ["formation_energy"], folder=tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_rows_without_a_label_are_left_out(tmp_path):
    table = make_table()
    values = table.column("formation_energy").clone()
    values[::3] = torch.nan
    crystals = table.crystals.with_properties(formation_energy_per_atom_ev=values)
    table = LabelledCrystals(crystals=crystals, notes=table.notes, source="salts.csv")
    settings = TrainSettings(**SMALL, epochs=1)
    model = train_predictor(table, ["formation_energy"], settings=settings, folder=tmp_path)
    assert model.card["data"]["n_crystals"] == 160
    assert all(bool(torch.isfinite(p).all()) for p in model.members[0].parameters())
