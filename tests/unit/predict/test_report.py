import csv
import json

import pytest
import torch
from typer.testing import CliRunner

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import write
from matmill.data.table import LabelledCrystals
from matmill.errors import InputError, UnknownNameError
from matmill.predict.report import predict_files
from matmill.predict.train import TrainSettings, train_predictor

N = 36
ENDINGS = ("", "_std", "_low", "_high", "_interval", "_effective_size", "_in_domain", "_reason")


def _salts():
    rng = torch.Generator().manual_seed(0)
    edge = 2.4 + torch.rand(N, generator=rng).double()
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    numbers = torch.tensor([3, 11, 19, 12])[torch.randint(4, (N,), generator=rng)]
    return CrystalBatch(
        lattice=edge[:, None, None] * cubic,
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(N, 1),
        atomic_numbers=torch.stack([numbers, torch.full((N,), 8)], dim=1).flatten(),
        n_atoms=torch.full((N,), 2),
        ids=tuple(f"salt{i:02d}" for i in range(N)),
        properties={"band_gap_ev": edge},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    batch = _salts()
    write(batch, folder / "cifs/")
    (folder / "cifs" / "broken.cif").write_text("data_x\n_cell_length_a oops\n")
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "my_gap_ev", "split"])
        for i, name in enumerate(batch.ids):
            part = "train" if i < 24 else "val" if i < 30 else "test"
            writer.writerow([name, float(batch.properties["band_gap_ev"][i]), part])
    return folder


@pytest.fixture(scope="module")
def model(folder):
    """Train through the command line, from a CSV and a folder of CIFs."""
    from matmill.cli.main import app

    arguments = ["train", "predictor", str(folder / "labels.csv"), "--structures"]
    arguments += [str(folder / "cifs"), "--target", "my_gap_ev", "--members", "2", "--quiet"]
    arguments += ["--model", "cgcnn"]
    arguments += ["--epochs", "3", "--out", str(folder / "gap.safetensors"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["scores"]
    assert scores["my_gap_ev"]["n_test"] == 6
    again = CliRunner().invoke(app, arguments)  # finished: nothing to train, the same result
    assert json.loads(again.stdout)["scores"] == scores
    return folder / "gap.safetensors"


def test_rows_complaints_and_order(folder, model):
    report = predict_files([folder / "cifs"], ["my_gap"], model=model)
    assert [row["id"] for row in report.rows] == sorted(_salts().ids)
    assert len(report.complaints) == 1
    assert "broken.cif" in report.complaints[0].file
    assert report.rows[0]["file"].endswith("salt00.cif")
    assert set(report.rows[0]) == {
        "id",
        "file",
        "formula",
        *(f"my_gap_ev{end}" for end in ENDINGS),
    }
    assert len(report.models["my_gap_ev"]) == 64


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_tables_are_written(folder, model, tmp_path, suffix):
    report = predict_files([folder / "cifs" / "salt03.cif"], model=model)
    path = tmp_path / f"table{suffix}"
    report.write(path)
    if suffix == ".csv":
        with path.open() as file:
            (row,) = csv.DictReader(file)
        value = float(row["my_gap_ev"])
    elif suffix == ".json":
        value = json.loads(path.read_text())["predictions"][0]["my_gap_ev"]
    else:
        import pyarrow.parquet as pq

        value = pq.read_table(path).to_pylist()[0]["my_gap_ev"]
    assert value == pytest.approx(report.rows[0]["my_gap_ev"])


def test_unknown_suffix_is_refused(folder, model, tmp_path):
    report = predict_files([folder / "cifs" / "salt03.cif"], model=model)
    with pytest.raises(InputError, match=r"\.csv, \.json or \.parquet"):
        report.write(tmp_path / "table.xls")


def test_command_prints_values_with_intervals(folder, model):
    from matmill.cli.main import app

    arguments = ["predict", str(folder / "cifs"), "--model", str(model), "--property", "my_gap_ev"]
    result = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert result.exit_code == 0, result.output
    assert "±" in result.stdout
    assert "salt00" in result.stdout
    assert "broken.cif" in result.stderr
    answer = CliRunner().invoke(app, [*arguments, "--json", "--coverage", "0.5"])
    content = json.loads(answer.stdout)
    assert content["coverage"] == 0.5
    assert len(content["predictions"]) == N
    assert len(content["left_out"]) == 1


def test_exact_properties_need_no_model(folder):
    from matmill.cli.main import app

    arguments = ["predict", str(folder / "cifs" / "salt00.cif"), "-p", "density", "--json"]
    result = CliRunner().invoke(app, arguments)
    (row,) = json.loads(result.stdout)["predictions"]
    assert row["density_g_cm3_std"] == 0.0
    assert row["density_g_cm3"] > 0.5


def test_a_wrong_property_is_one_line(folder):
    from matmill.cli.main import app

    result = CliRunner().invoke(app, ["predict", str(folder / "cifs"), "-p", "bandgab"])
    assert result.exit_code == 2
    assert "Error: No predictor called 'bandgab'" in result.stderr


def test_an_unknown_network_is_refused(tmp_path):
    settings = TrainSettings(network="perceiver")
    table = LabelledCrystals(crystals=_salts(), source="x")
    with pytest.raises(UnknownNameError, match="perceiver"):
        train_predictor(table, ["band_gap"], settings=settings, folder=tmp_path)


def test_kinds_of_intervals_are_named_and_infinite_ends_are_null_in_json(folder, model, tmp_path):
    # Six calibration rows carry nothing: the table must say so, and 90 % has no bounds.
    for kind, name in (
        ("split", "conformal, no guarantee"),
        ("family", "conformal, no guarantee"),
        ("shifted", "weighted conformal, no guarantee"),
    ):
        report = predict_files([folder / "cifs"], model=model, intervals=kind)
        assert {row["my_gap_ev_interval"] for row in report.rows} == {name}
        assert all(row["my_gap_ev_effective_size"] <= 6 for row in report.rows)
    predict_files([folder / "cifs"], model=model).write(tmp_path / "table.json")
    (first, *_) = json.loads((tmp_path / "table.json").read_text())["predictions"]
    assert first["my_gap_ev_low"] is None
    assert first["my_gap_ev_std"] > 0


def test_a_crystal_out_of_domain_says_why(model, tmp_path):
    from matmill.cli.main import app

    odd = _salts().select(torch.tensor([0]))
    odd = CrystalBatch(
        lattice=odd.lattice,
        frac_coords=odd.frac_coords,
        atomic_numbers=torch.tensor([43, 8]),
        n_atoms=odd.n_atoms,
        ids=("odd",),
    )
    write(odd, tmp_path / "odd.cif")
    (row,) = predict_files([tmp_path / "odd.cif"], model=model).rows
    assert row["my_gap_ev_in_domain"] is False
    assert "element Tc never seen" in row["my_gap_ev_reason"]
    arguments = ["predict", str(tmp_path / "odd.cif"), "--model", str(model), "--quiet"]
    answer = CliRunner().invoke(app, [*arguments, "--coverage", "0.5"])
    assert "no: element Tc never seen" in answer.stdout
    both = CliRunner().invoke(app, [*arguments, "--shifted", "--by-family"])
    assert both.exit_code == 2
    assert "not both" in both.stderr


def test_shipped_or_old_files_without_calibration_rows_refuse_in_one_line(folder, model, tmp_path):
    from matmill.training import checkpoint

    tensors, card = checkpoint.load(model)
    kept = {name: t for name, t in tensors.items() if not name.startswith("calibration.")}
    checkpoint.save(tmp_path / "old", kept, card)
    with pytest.raises(InputError, match="without calibration rows"):
        predict_files([folder / "cifs"], model=tmp_path / "old.safetensors", intervals="shifted")
    new = predict_files([folder / "cifs"], model=model, coverage=0.5).rows
    old = predict_files([folder / "cifs"], model=tmp_path / "old.safetensors", coverage=0.5).rows
    assert old == new


def test_calibration_command_prints_scores_and_writes_a_page(folder, model, tmp_path):
    from matmill.cli.main import app

    data = [str(folder / "labels.csv"), "--structures", str(folder / "cifs")]
    arguments = ["calibration", str(model), *data, "--target", "my_gap_ev", "--quiet"]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, [*arguments, "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "labels.csv (test rows)" in result.stdout
    text = page.read_text()
    assert text.count("<svg") == 4
    assert "http" not in text.replace("http-equiv", "")  # nothing is fetched
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--rows", "all", "--json"]).stdout)
    assert answer["scores"]["n_test"] == N
    assert set(answer["scores"]["intervals"]) == {"0.50", "0.80", "0.90", "0.95"}
    assert answer["scores"]["z_std"] > 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rows", "nowhere"], "No row has 'nowhere'"),
        (["--out", "page.pdf"], "use .html or .json"),
        (["--shifted", "--by-family"], "not both"),
        (["--target", "my_map"], "my_map"),
    ],
)
def test_calibration_command_refuses_in_one_line(folder, model, extra, message):
    from matmill.cli.main import app

    data = [str(folder / "labels.csv"), "--structures", str(folder / "cifs")]
    arguments = ["calibration", str(model), *data, "--target", "my_gap_ev", *extra]
    result = CliRunner().invoke(app, [*arguments, "--quiet"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
