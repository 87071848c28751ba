"""``matmill generate``: how options are read, and whole runs with few steps."""

import json
import math
import re

import pytest
import torch
from typer.testing import CliRunner

from matmill.cli import generate_wishes as wishes
from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import read, write
from matmill.errors import InputError
from matmill.generate.protocol import load_generator


@pytest.fixture(scope="module")
def generator():
    return load_generator("flow")


@pytest.fixture
def rutile(tmp_path):
    u = 0.305
    batch = CrystalBatch.from_lists(
        [[[4.594, 0, 0], [0, 4.594, 0], [0, 0, 2.959]]],
        [
            [
                [0, 0, 0],
                [0.5, 0.5, 0.5],
                [u, u, 0],
                [1 - u, 1 - u, 0],
                [0.5 + u, 0.5 - u, 0.5],
                [0.5 - u, 0.5 + u, 0.5],
            ]
        ],
        [[22, 22, 8, 8, 8, 8]],
        ids=["rutile"],
    )
    path = tmp_path / "rutile.extxyz"
    write(batch, path)
    return path


def run(*arguments):
    result = CliRunner().invoke(app, ["generate", "-q", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("quality", "steps", "expected"),
    [(None, None, 50), (None, 7, 7), ("preview", None, 30), ("standard", None, 100)],
)
def test_steps_and_presets(quality, steps, expected):
    assert wishes.pick_steps(quality, steps) == expected


def test_contradicting_or_unknown_presets_are_refused():
    with pytest.raises(InputError, match="not both"):
        wishes.pick_steps("best", 10)
    with pytest.raises(InputError, match=r"best \(250 steps\)"):
        wishes.pick_steps("superb", None)


def test_lists_of_sites_count_from_one():
    assert wishes.parse_sites("2-3, 5", 6).tolist() == [False, True, True, False, True, False]
    assert wishes.parse_sites("all", 2).tolist() == [True, True]
    for text in ("0", "3-7", "4-2"):
        with pytest.raises(InputError, match="1 to 6"):
            wishes.parse_sites(text, 6)
    with pytest.raises(InputError, match="no list of sites"):
        wishes.parse_sites("two", 6)


def test_scales_are_read_by_column():
    found = wishes.parse_scales(["band_gap=2", "space_group = 3.5", "elements=0", "hardness=1"])
    assert found == {"band_gap_ev": 2.0, "symmetry": 3.5, "elements": 0.0, "hardness": 1.0}
    for text in ("band_gap", "band_gap=much", "band_gap=nan"):
        with pytest.raises(InputError, match="NAME=WEIGHT"):
            wishes.parse_scales([text])


def test_unknown_conditions_list_the_known_ones_with_units_ranges_and_counts(generator):
    targets = wishes.parse_targets(["fermi_energy = 2 eV"], generator)
    gap = generator.card["conditions"]["band_gap_ev"]
    known = f"band_gap (0 to {gap['high']:.3g} eV, {gap['count']} crystals)"
    with pytest.raises(InputError, match=re.escape(known)):
        wishes.conditions_for(targets, generator)
    assert wishes.conditions_for(targets, generator, others=["fermi_energy_ev"]) == {}


def test_targets_are_ranges_for_a_judge(generator):
    texts = ["band_gap = 2 eV", "max bulk_modulus", "density < 5"]
    ranges = [
        (wish.low, wish.high)
        for wish in wishes.judges_for(wishes.parse_targets(texts, generator), None, generator)
    ]
    assert ranges[0] == pytest.approx((1.8, 2.2))
    assert ranges[1][0] > 200
    assert ranges[1][1] == math.inf
    assert ranges[2] == (-math.inf, 5.0)


def test_a_guide_needs_a_gradient_and_a_target(generator):
    targets = wishes.parse_targets(["density = 5", "n_elements = 2"], generator)
    guide, column = wishes.guide_for(targets, "density", generator, strength=0.5)
    assert column == "density_g_cm3"
    assert guide.low < 5.0 < guide.high
    assert guide.strength == 0.5
    with pytest.raises(InputError, match="no gradient"):
        wishes.guide_for(targets, "n_elements", generator, strength=1.0)
    with pytest.raises(InputError, match="add a --target"):
        wishes.guide_for(targets, "band_gap", generator, strength=1.0)


def test_exact_systems_with_groups_in_table_file_and_record(tmp_path):
    out = tmp_path / "new.extxyz"
    code, text, errors = run(
        "-n", 2, "--system", "Ga-N", "--n-atoms", "2-4", "--space-group", 186, "--steps", 3,
        "--precision", "fp32", "--out", out,
    )  # fmt: skip
    assert code == 0, errors
    assert "group asked" in text
    assert "found (0.1 Å)" in text
    back = read(out).crystals
    assert back.properties["space_group_requested"].tolist() == [186.0] * 2
    assert all(set(back.atomic_numbers[back.atoms_of(i)].tolist()) == {31, 7} for i in range(2))
    record = json.loads((tmp_path / "new.extxyz.json").read_text())
    assert record["request"]["system"] == ["Ga", "N"]


def test_decoration_and_inpainting(rutile, tmp_path):
    seed = read(rutile).crystals
    out = tmp_path / "decorated.extxyz"
    code, _, errors = run(
        "--decorate", rutile, "--elements", "Sn,O,F", "-n", 2, "--steps", 3, "--out", out
    )
    assert code == 0, errors
    made = read(out).crystals
    assert set(made.atomic_numbers.tolist()) <= {50, 8, 9}
    torch.testing.assert_close(made.lattice, seed.lattice.expand(2, 3, 3))
    torch.testing.assert_close(made.frac_coords.view(2, 6, 3), seed.frac_coords.expand(2, 6, 3))

    out = tmp_path / "inpainted.extxyz"
    code, _, errors = run(
        "--like", rutile, "--free-sites", "3-4", "--keep-species", "-n", 2, "--steps", 3,
        "--out", out,
    )  # fmt: skip
    assert code == 0, errors
    made = read(out).crystals
    assert made.formula == ("TiO2", "TiO2")
    f = made.frac_coords.view(2, 6, 3)
    torch.testing.assert_close(f[:, [0, 1, 4, 5]], seed.frac_coords[[0, 1, 4, 5]].expand(2, 4, 3))
    assert not torch.isclose(f[:, 2:4], seed.frac_coords[2:4]).all()


def test_structures_of_a_formula_by_energy(tmp_path):
    out = tmp_path / "gan.extxyz"
    code, text, errors = run(
        "--formula", "GaN", "-k", 4, "--n-atoms", "2-4", "--rank", "energy", "--steps", 4,
        "--json", "--out", out,
    )  # fmt: skip
    assert code == 0, errors
    found = json.loads(text)
    assert found["samples"] == 4
    assert found["potential"] == "chgnet-0.3.0"
    above = [row["energy_above_best_ev"] for row in found["structures"]]
    assert above[0] == 0.0
    assert above == sorted(above)
    assert read(out).crystals.ids == tuple(row["id"] for row in found["structures"])


def test_the_best_of_two_is_reported_beside_the_first():
    code, text, errors = run(
        "-n", 3, "--target", "density = 6", "--best-of", 2, "--steps", 3, "--n-atoms", "1-4",
        "--json",
    )  # fmt: skip
    assert code == 0, errors
    best = json.loads(text)["best_of"]
    assert best["k"] == 2
    assert best["raw"][0]["n"] == best["kept"][0]["n"] == 3
    assert best["kept"][0]["hits"] >= best["raw"][0]["hits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--relax",), "--rank energy"),
        (("--rank", "beauty"), "Use energy"),
        (("--rank", "energy"), "for a formula"),
        (("--best-of", 2), "needs a --target"),
        (("--judge", "band_gap"), "goes with --best-of"),
        (("--free-sites", "1"), "need --like"),
        (("--keep-species",), "need --like"),
        (("--precision", "fp8"), "auto or bf16 or fp32"),
        (("--n-atoms", "40-50"), "supercell"),
        (("--target", "band_gap = 2", "--scale", "density=2"), "not asked for"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    code, _, errors = run(*arguments)
    assert code == 2
    assert message in errors
    assert errors.strip().count("\n") == 0
