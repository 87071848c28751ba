import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.cgcnn import Cgcnn
from matmill.predict.networks import make_network
from matmill.predict.pretrain.encoder import (
    encoder_path,
    is_encoder,
    load_encoder,
    save_encoder,
    shipped_encoders,
)
from matmill.predict.pretrain.train import PretrainSettings, pretrain
from matmill.predict.settings import TrainSettings
from matmill.predict.start import open_start
from matmill.predict.train import train_predictor
from matmill.training import checkpoint

SMALL = {"width": 8, "hidden": 16, "n_layers": 1, "batch": 16, "precision": "fp32"}


@pytest.fixture(scope="module")
def table(salts):
    batch = salts(80)
    gap = (batch.atomic_numbers.view(-1, 2) == 8).any(1).double()
    crystals = replace(
        batch, properties={"band_gap_ev": gap}, ids=tuple(f"c{i}" for i in range(80))
    )
    return LabelledCrystals(crystals=crystals, source="salts.parquet")


@pytest.fixture(scope="module")
def run(table):
    def make(folder, **changes):
        settings = PretrainSettings(**{**SMALL, "epochs": 3, **changes})
        return pretrain(table, settings=settings, folder=folder, seed=4)

    return make


@pytest.mark.parametrize("objective", ["barlow", "supervised-simclr", "multi-task"])
def test_an_encoder_is_written_with_its_card(tmp_path, table, run, objective):
    found = run(tmp_path / "work", objective=objective)
    path = found.save(tmp_path / "enc")
    tensors, card = load_encoder(path)
    assert card["kind"] == "matmill encoder"
    assert card["network"] == "cgcnn"
    assert card["n_neighbors"] == 12
    assert card["cutoff_angstrom"] == 8.0
    assert card["training"]["epochs"] == 3
    n_gapped = int(table.column("band_gap").sum())
    counts = {"metal": {"metal": 80 - n_gapped, "non-metal": n_gapped}}
    assert card["surrogates"] == ({} if objective == "barlow" else counts)
    network = Cgcnn(2, **card["network_settings"])
    result = network.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    assert {name.split(".")[0] for name in result.missing_keys} == {"hidden", "out", "noise"}
    trained = found.network.state_dict()
    assert all(torch.equal(tensors[name], trained[name]) for name in tensors)


def test_a_transformer_is_pretrained_as_well(tmp_path, run):
    found = run(tmp_path / "work", network="transformer", objective="supervised-barlow")
    tensors, card = load_encoder(found.save(tmp_path / "enc"))
    network = make_network({**card, "columns_trained": ["none"]})
    result = network.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    assert {name.split(".")[0] for name in result.missing_keys} == {"hidden", "out", "noise"}


@pytest.mark.parametrize("network", ["cgcnn", "transformer"])
def test_a_predictor_starts_from_it(tmp_path, table, run, network):
    path = run(tmp_path / "work", network=network).save(tmp_path / "enc")
    start = open_start(str(path), TrainSettings(network=network))
    assert start.rate_factor == 1.0
    settings = TrainSettings(network=network, n_members=1, epochs=1, accelerator="cpu")
    model = train_predictor(
        table, ["band_gap"], settings=settings, folder=tmp_path / "tune", start_from=str(path)
    )
    assert model.card["network_settings"]["width"] == 8
    assert model.card["started_from"] == str(path)


class Interrupts:
    """A tracker that stands for a user who presses Ctrl-C."""

    def log(self, step, values):  # noqa: ARG002
        raise KeyboardInterrupt

    def close(self):
        pass


def test_an_interrupted_pretraining_goes_on_to_the_same_encoder(tmp_path, table, run):
    whole = run(tmp_path / "one", epochs=8).network.state_dict()
    settings = PretrainSettings(**SMALL, epochs=8)
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            table, settings=settings, folder=tmp_path / "two", seed=4, trackers=(Interrupts(),)
        )
    found = run(tmp_path / "two", epochs=8)
    assert found.card["training"]["epochs"] == 8
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, whole[name])


def test_a_folder_is_for_one_pretraining(tmp_path, run):
    run(tmp_path / "work")
    with pytest.raises(InputError, match="other data, seed or settings"):
        run(tmp_path / "work", delta=0.25)


def test_random_and_wrong_labels_change_the_encoder_but_not_the_counts(tmp_path, run):
    plain = run(tmp_path / "a")
    dealt = run(tmp_path / "b", random_labels=True)
    wrong = run(tmp_path / "c", wrong_labels=0.3)
    assert plain.card["surrogates"] == dealt.card["surrogates"]
    weights = [one.network.state_dict()["embed.weight"] for one in (plain, dealt, wrong)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_health_is_shown_while_it_trains(tmp_path, table, monkeypatch):
    monkeypatch.setattr("matmill.training.report._EMIT_SECONDS", 0.0)
    events = []
    settings = PretrainSettings(**SMALL, epochs=12)
    pretrain(table, settings=settings, folder=tmp_path, on_event=events.append)
    shown = [event.values for event in events if event.stage == "pretrain"]
    assert any({"loss", "rank", "spread", "separation"} <= set(values) for values in shown)
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert {"rank", "spread"} <= set(header)


def test_mistakes_are_named(tmp_path, table, run):
    with pytest.raises(UnknownNameError, match="pretraining objective"):
        run(tmp_path, objective="simcrl")
    with pytest.raises(InputError, match="exactly one surrogate"):
        run(tmp_path, surrogates=("metal", "magnetic"))
    with pytest.raises(DataError, match="needs a column 'total_magnetization'"):
        run(tmp_path, surrogates=("magnetic",))
    with pytest.raises(InputError, match="reads no structures"):
        run(tmp_path, network="composition")
    with pytest.raises(DataError, match="Only 3 of 3 crystals"):
        pretrain(table.select([0, 1, 2]), settings=PretrainSettings(**SMALL), folder=tmp_path)
    assert not list(tmp_path.glob("*"))  # nothing half-written


def test_files_that_are_no_encoders_are_refused(tmp_path):
    checkpoint.save(tmp_path / "other", {"a": torch.zeros(1)}, {"kind": "matmill predictor"})
    with pytest.raises(DataError, match="not an encoder"):
        load_encoder(tmp_path / "other")
    assert not is_encoder(tmp_path / "other")
    assert not is_encoder("nothing")
    with pytest.raises(UnknownNameError, match="No encoder called 'nothing'"):
        encoder_path("nothing")
    path = save_encoder(tmp_path / "mine", Cgcnn(1, width=8, hidden=8), {"network": "cgcnn"})
    assert is_encoder(path)


def test_shipped_encoders_open_and_fit_their_network():
    for path in shipped_encoders():
        tensors, card = load_encoder(path.stem)
        network = make_network({**card, "columns_trained": ["none"]})
        assert not network.load_state_dict(tensors, strict=False).unexpected_keys
        assert path.stat().st_size <= 16 * 2**20


def test_the_command(tmp_path, table):
    table.save(tmp_path / "salts.parquet")
    out = tmp_path / "enc.safetensors"
    arguments = ["pretrain", str(tmp_path / "salts.parquet"), "--epochs", "2", "--batch", "16"]
    found = CliRunner().invoke(app, [*arguments, "--out", str(out), "--json", "--quiet"])
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert printed["epochs"] == 2
    assert load_encoder(out)[1]["settings"]["delta"] == 0.5
    found = CliRunner().invoke(app, [*arguments, "--surrogate", "gap-type", "--quiet"])
    assert found.exit_code == 2
    assert "needs a column 'is_gap_direct'" in found.output
    assert len(found.output.strip().splitlines()) == 1
