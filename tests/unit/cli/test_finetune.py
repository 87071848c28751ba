"""`matmill finetune generator` from a table to a file, and one clear line for each bad table."""

import csv
import json

import pytest
import torch
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import write
from matmill.generate.conditions import SCALARS, ConditionEncoder, ScalarSchema
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.state import LatticeScale
from matmill.training import checkpoint


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def salts(n, **columns):
    """Caesium chloride cells of growing size."""
    a = torch.linspace(2.6, 5.0, n).double()
    return CrystalBatch(
        lattice=torch.eye(3).double() * a[:, None, None],
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=torch.tensor([55, 17, 37, 35, 11, 9]).repeat(n)[: 2 * n],
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"salt-{i}" for i in range(n)),
        properties={"softness_mev_atom": 10 * a, **columns},
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untrained generator that knows the elements of the salts."""
    unknown = ScalarSchema(mean=0.0, std=1.0, low=0.0, high=0.0, count=0)
    size = SIZES["tiny"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Denoiser(
            size,
            LatticeScale.fit(salts(20)),
            ConditionEncoder(size.width, dict.fromkeys(SCALARS, unknown)),
        )
        for parameter in net.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    nothing = {"mean": 0.0, "std": 1.0, "low": None, "high": None, "count": 0}
    card = {
        "kind": "flow",
        "format": 1,
        "size": "tiny",
        "max_atoms": 20,
        "conditions": dict.fromkeys(SCALARS, nothing),
        "elements": [9, 11, 17, 35, 37, 55],
        "shapes": [[2, 221, 6]],
    }
    return checkpoint.save(tmp_path_factory.mktemp("base") / "base", net.state_dict(), card)


def test_a_table_becomes_an_adapter_that_says_what_it_learnt(base, tmp_path):
    write(salts(40), tmp_path / "salts.parquet")
    out = tmp_path / "run"
    words = ("finetune", "generator", tmp_path / "salts.parquet", "-p", "softness", "--from", base)
    made = run(*words, "--minutes", 0.01, "--out", out, "--device", "cpu", "-q", "--json")
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert (told["property"], told["unit"]) == ("softness", "meV/atom")
    assert told["labels_used"] == 40
    assert told["ended_by"] == "max_seconds"
    tensors, card = checkpoint.load(out / "softness")
    assert card["kind"] == "flow adapter"
    assert card["base_sha256"] == checkpoint.hash_of(base)
    assert card["attribution"]
    assert bool(tensors["up"].any())

    again = run(*words, "--minutes", 0.01, "--out", out, "--device", "cpu", "-q")
    assert again.exit_code == 0, again.output
    assert "of 40 labels" in again.stdout
    assert '--target "softness = ' in again.stdout


def test_a_sheet_and_a_folder_of_structures_do_as_well(base, tmp_path):
    batch = salts(32)
    (tmp_path / "cifs").mkdir()
    for i, name in enumerate(batch.ids):
        write(batch.select([i]), tmp_path / "cifs" / f"{name}.cif")
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        values = batch.properties["softness_mev_atom"].tolist()
        rows = [(name, value) for name, value in zip(batch.ids, values, strict=True)]
        csv.writer(file).writerows([("id", "measured"), *rows])
    made = run(
        "finetune", "generator", tmp_path / "labels.csv", "--structures", tmp_path / "cifs",
        "-p", "softness", "--column", "measured", "--unit", "K", "--from", base,
        "--minutes", 0.005, "--out", tmp_path / "run", "--device", "cpu", "-q", "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["unit"] == "K"


@pytest.mark.parametrize(
    ("crystals", "words", "says"),
    [
        (salts(40), ("-p", "hardness"), "No column of"),
        (salts(40), ("-p", "softness", "--column", "sofness"), "No column of"),
        (salts(3), ("-p", "softness"), "Only 3 of 3 rows"),
        (salts(40, flat=torch.ones(40).double()), ("-p", "flat"), "all alike"),
        (salts(40, gone=torch.full((40,), torch.nan).double()), ("-p", "gone"), "Only 0 of 40"),
        (salts(40), ("-p", "band_gap"), "know band_gap without an adapter"),
        (salts(40), ("-p", "no way"), "No column of"),
        (salts(40), ("-p", "3d"), "cannot name a property"),
        (salts(40), ("-p", "softness", "--from", "random"), "not a flow generator"),
    ],
)
def test_bad_tables_and_options_are_one_line(base, tmp_path, crystals, words, says):
    write(crystals, tmp_path / "salts.parquet")
    given = words if "--from" in words else (*words, "--from", base)
    made = run(
        "finetune", "generator", tmp_path / "salts.parquet", *given, "--out", tmp_path / "run", "-q"
    )
    assert made.exit_code == 2, made.output
    lines = made.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert says in lines[0]
    assert not (tmp_path / "run").exists()
