"""Scorecards as a whole: counts, statuses, files, comparison, and the commands."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from crystals_for_tests import perturbed, prototypes
from typer.testing import CliRunner

from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.files import write
from matmill.errors import DataError, InputError
from matmill.verify import evaluation, metrics, presets
from matmill.verify.evaluation import Against, evaluate, evaluate_files
from matmill.verify.novelty import KnownIndex
from matmill.verify.samples import as_samples, read_samples
from matmill.verify.scorecard import output
from matmill.verify.scorecard.card import Scorecard
from matmill.verify.scorecard.compare import compare
from matmill.verify.scorecard.groups import GROUPS
from matmill.verify.scorecard.page import ranked

pytestmark = pytest.mark.filterwarnings("ignore")
INDEX = KnownIndex.load(structures=[])


def cube(a: float, coords: list[list[float]], numbers: list[int]) -> CrystalBatch:
    return CrystalBatch.from_lists([[[a, 0, 0], [0, a, 0], [0, 0, a]]], [coords], [numbers])


MEETING = cube(5.0, [[0, 0, 0], [0.03, 0, 0]], [11, 17]).with_ids(["meeting"])
HEAVY = cube(4.0, [[0, 0, 0]], [100]).with_ids(["fermium"])
ODD = cube(5.0, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]], [11, 11, 17]).with_ids(["Na2Cl"])


def small_card(**options) -> Scorecard:
    batch = concatenate([prototypes().select([3, 3]), MEETING, ODD])
    return evaluate(batch, Against(index=INDEX), **options)


def test_denominators_and_statuses():
    samples = as_samples(concatenate([prototypes(), MEETING, HEAVY, ODD]), n_requested=15)
    card = evaluate(samples, Against(index=INDEX), n_relax=0)
    assert card.counts == {"n_requested": 15, "n_parsed": 12, "n_valid": 10, "n_relaxed": 0}
    assert card.statuses == {"ok": 11, "invalid_geometry": 1, "missing": 3}
    numbers = card.numbers
    geometry = numbers["geometry"]
    assert (geometry.numerator, geometry.denominator, geometry.of) == (11, 15, "requested")
    assert numbers["parsed"].value == pytest.approx(12 / 15)
    unique = numbers["unique"]
    assert (unique.numerator, unique.denominator) == (11, 15)
    assert unique.per_valid == pytest.approx(1.0)
    assert unique.low < unique.value < unique.high
    kinds = [numbers[f"composition_{k}"].numerator for k in ("element", "metals", "neutral")]
    assert sum(kinds) == numbers["composition"].numerator == 11
    assert numbers["composition_invalid"].numerator == 1
    by_valid = evaluate(samples, Against(index=INDEX), protocol="lemat-genbench").numbers
    assert by_valid["unique"].of == "valid"
    assert by_valid["geometry"].of == "requested"


def test_statuses_of_relaxation_come_from_where_samples_fell():
    far = prototypes().select([3]).with_ids(["stretched"])
    far = CrystalBatch(
        lattice=far.lattice * 6,
        frac_coords=far.frac_coords,
        atomic_numbers=far.atomic_numbers,
        n_atoms=far.n_atoms,
        ids=far.ids,
    )
    rules = presets.find("matmill-1")
    impatient = rules.model_copy(
        update={"relaxation": rules.relaxation.model_copy(update={"max_steps": 1})}
    )
    batch = concatenate([prototypes().select([3]), MEETING, HEAVY, far, ODD])
    polonium = cube(3.35, [[0, 0, 0]], [84]).with_ids(["Po"])  # the hull lacks it
    wide = prototypes().select([4]).with_ids(["W"])
    batch = concatenate([batch, polonium, wide])
    card = evaluate(batch, Against(index=INDEX), n_relax=6, protocol=impatient)
    status = {row["name"]: row["status"] for row in card.rows}
    assert status["Cu"] == "ok"
    assert status["meeting"] == "invalid_geometry"
    assert status["fermium"] == "out_of_domain"
    assert status["stretched"] == "relax_diverged"
    assert status["Na2Cl"] == "relax_maxsteps"
    assert status["Po"] in ("hull_missing_element", "relax_maxsteps")
    assert status["W"] == "ok"  # its turn never came
    converged = card.numbers["converged"]
    assert (converged.denominator, converged.of) == (6, "requested, the first")
    stable = card.numbers["stable_0.1"]
    assert stable.numerator >= 1
    assert card.numbers["sun"].numerator == 0  # copper is known
    column = {row["name"]: row["energy_above_hull_ev_per_atom"] for row in card.rows}
    assert column["Cu"] < 0.1
    assert column["W"] is None or np.isnan(column["W"])
    assert ranked(card)[0]["name"] == "Cu"
    assert ranked(card)[-1]["name"] == "meeting"


def test_training_set_and_index_are_told_apart():
    rng = torch.Generator().manual_seed(0)
    noisy = perturbed(prototypes(), step=0.01, strain=0.0, rng=rng)
    card = evaluate(noisy, Against(index=INDEX, reference=prototypes().select([0, 1, 2])))
    new = {row["name"]: row["is_train_novel"] for row in card.rows}
    assert [name for name, is_new in new.items() if not is_new] == ["NaCl", "CsCl", "diamond"]
    numbers = card.numbers
    assert numbers["train_novel"].numerator == 6
    assert numbers["unique_novel"].numerator <= min(6, numbers["novel"].numerator)
    assert card.numbers["w1_density"].low <= card.numbers["w1_density"].value
    assert "w1_density_floor" in numbers


def test_coverage_of_a_set_with_itself_and_with_copies():
    """T-22."""
    test = prototypes().select([0, 1, 3, 8])
    itself = evaluate(test, Against(index=INDEX, test=test)).numbers
    assert itself["cov_r"].value == itself["cov_p"].value == 1.0
    assert itself["amsd_r"].value == pytest.approx(0.0, abs=1e-6)
    copies = evaluate(test.select([0, 0, 0]), Against(index=INDEX, test=test)).numbers
    assert copies["cov_p"].value == 1.0
    assert copies["cov_r"].numerator < 4
    lost = concatenate([test, MEETING])
    card = evaluate(lost, Against(index=INDEX, test=test))
    assert card.numbers["cov_p"].value == pytest.approx(4 / 5)
    assert card.numbers["cov_r"].value == 1.0


def test_metre_and_match_rate():
    """T-26: two polymorphs P and Q of one formula."""
    p = CrystalBatch.from_lists(
        [[[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]],
        [[[0, 0, 0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    q = cube(3.3, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])
    truth = concatenate([p, q])
    for made, match, metre in (((p, p), 0.5, 0.5), ((q, p), 0.0, 1.0), ((p, q), 1.0, 1.0)):
        card = evaluate(
            concatenate(made), Against(index=INDEX, test=truth), is_prediction=True
        ).numbers
        assert card["csp_match"].value == match
        assert card["metre"].value == metre
        missed = 1 - match
        assert card["csp_crmse"].value == pytest.approx(0.5 * missed, abs=1e-6)
    two_rounds = concatenate([q, p, p, q])
    best = evaluate(two_rounds, Against(index=INDEX, test=truth), is_prediction=True)
    assert best.numbers["csp_match"].value == 1.0
    with pytest.raises(InputError, match="whole number of rounds"):
        evaluate(concatenate([p, q, p]), Against(index=INDEX, test=truth), is_prediction=True)


def test_distances_agree_with_scipy_and_validity_with_smact():
    stats = pytest.importorskip("scipy.stats")
    screening = pytest.importorskip("smact.screening")
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 300), rng.normal(0.3, 2, 500)
    found = metrics.wasserstein(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-9)
    batch = concatenate([prototypes(), ODD])
    card = evaluate(batch, Against(index=INDEX))
    from matmill.crystals.convert import to_structure

    expected = [
        screening.smact_validity(to_structure(batch, i).composition) for i in range(len(batch))
    ]
    assert [row["composition_kind"] != "invalid" for row in card.rows] == expected
    from matmill.crystals.facts import density

    own = [row["density_g_cm3"] for row in card.rows]
    structures = [to_structure(batch, i) for i in range(len(batch))]
    # Standard masses of 2016 against older ones: zinc differs by 4e-4.
    assert own == pytest.approx([float(s.density) for s in structures], rel=5e-4)
    assert own == pytest.approx(density(batch).tolist())
    for row, structure in zip(card.rows, structures, strict=True):
        matrix = structure.distance_matrix + np.diag(np.full(len(structure), np.inf))
        images = min(structure.lattice.get_niggli_reduced_lattice().abc)
        expected_distance = min(float(matrix.min()), images)
        assert row["smallest_distance_a"] == pytest.approx(expected_distance, abs=1e-6)


def test_intervals_and_draws_follow_the_seed():
    one, two = small_card(seed=1), small_card(seed=1)
    assert one.as_dict()["groups"] == two.as_dict()["groups"]
    rules = presets.find("cdvae")
    some = rules.model_copy(
        update={"distributions": rules.distributions.model_copy(update={"draws": 5})}
    )
    against = Against(index=INDEX, test=prototypes())
    cards = [evaluate(prototypes(), against, protocol=some, seed=s) for s in (1, 1, 2)]
    values = [card.numbers["w1_density"].value for card in cards]
    assert values[0] == values[1] != values[2]
    few = evaluate(prototypes(), against, protocol="cdvae")
    assert "w1_density" not in few.numbers
    assert any("1000" in note for note in few.notes)


def test_relaxed_protocols_need_relaxation():
    card = small_card(protocol="mattergen")
    assert "unique" not in card.numbers
    assert any("--relax" in note for note in card.notes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    write(concatenate([prototypes(), MEETING, ODD]), folder / "samples.extxyz")
    write(prototypes(), folder / "train.extxyz")
    card = evaluate_files(
        [folder / "samples.extxyz"],
        reference=folder / "train.extxyz",
        n_relax=2,
        out=folder / "out",
    )
    return folder, card


def test_the_files_of_a_scorecard(written):
    folder, card = written
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(output.FILES)
    again = Scorecard.read(folder / "out")
    assert again.as_dict() == {**card.as_dict(), "seconds": again.as_dict()["seconds"]}
    table = pq.read_table(folder / "out" / "structures.parquet")
    assert table.num_rows == 11
    about = json.loads(table.schema.metadata[b"matmill"])
    assert about["protocol_id"] == card.basis.id
    assert about["counts"]["n_requested"] == 11
    assert table["status"].to_pylist().count("invalid_geometry") == 1
    rows = pq.read_table(folder / "out" / "metrics.parquet").to_pylist()
    assert {row["key"] for row in rows} == set(card.numbers)
    changed = json.loads((folder / "out" / "scorecard.json").read_text(encoding="utf-8"))
    changed["basis"]["protocol"]["geometry"]["self_images"] = False
    (folder / "forged.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(DataError, match="was changed"):
        Scorecard.read(folder / "forged.json")
    with pytest.raises(DataError, match="no scorecard"):
        Scorecard.read(folder / "samples.extxyz")


def test_the_report_is_one_file_without_links(written):
    folder, card = written
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://", page)
    assert "<script src" not in page
    assert "<link" not in page
    assert "<img" not in page
    assert page.count("<svg") >= 8
    assert "class CrystalView" in page
    assert card.basis.id in page
    assert "invalid_geometry" in page
    assert "microsoft/mattergen" in page
    assert "recalled, unverified" in page
    crystals = json.loads(re.findall(r"const CRYSTALS = (.*);\n", page)[0])
    assert crystals[0]["name"].startswith("best 1")
    assert crystals[-1]["name"].startswith("worst")
    assert any("meeting" in crystal["name"] for crystal in crystals)
    assert len(crystals) == 11


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    path = tmp_path / "samples.extxyz"
    write(prototypes().select([0, 3]), path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(output.page, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_files([path], out=tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["samples.extxyz"]
    with pytest.raises(InputError, match="cannot be written"):
        evaluate_files([path], out=tmp_path / "card.xlsx")


def test_scorecards_are_compared_only_when_they_were_judged_alike(written):
    _, card = written
    one, two = small_card(name="a"), small_card(name="b")
    found = compare([one, two])
    assert found.names == ["a", "b"]
    assert found.protocol == ("matmill-1", one.basis.id)
    assert len(found.rows) == len(one.numbers)
    other = small_card(protocol="cdvae", name="c")
    with pytest.raises(InputError, match=r"geometry\.self_images: True / False") as error:
        compare([one, other])
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="reference: none / "):
        compare([one, card])
    with pytest.raises(InputError, match="two scorecards"):
        compare([one])


def test_one_bad_crystal_among_many_is_reported_and_skipped(tmp_path):
    path = tmp_path / "many.jsonl"
    write(concatenate([prototypes().with_ids(())] * 20), path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[100] = '{"lattice": null, "sites": 3}'
    path.write_text("\n".join(lines), encoding="utf-8")
    card = evaluate(read_samples([path]), Against(index=INDEX))
    assert card.statuses == {"ok": 179, "parse_error": 1}
    assert card.rows[100]["status"] == "parse_error"
    assert card.numbers["unique"].numerator == 9


def test_a_new_group_is_one_line(monkeypatch):
    from matmill.verify.scorecard.findings import Findings
    from matmill.verify.scorecard.number import Number

    def counting(subject):
        number = Number(key="n", label="how many", value=len(subject.batch), denominator=4, of="x")
        return Findings(numbers=[number], columns={"twice": subject.batch.n_atoms * 2})

    monkeypatch.setattr(evaluation, "GROUPS", (*GROUPS, ("Counting", counting)))
    card = small_card()
    assert card.numbers["n"].value == 4
    assert card.rows[0]["twice"] == 8


def test_the_commands(tmp_path):
    samples, train = tmp_path / "samples.extxyz", tmp_path / "train.extxyz"
    write(concatenate([prototypes().select([0])] * 20), samples)
    write(prototypes(), train)
    runner = CliRunner()
    argv = ["evaluate", str(samples), "--reference", str(train), "--quiet"]
    shown = runner.invoke(app, [*argv, "--out", str(tmp_path / "a.json")])
    assert shown.exit_code == 0, shown.output
    assert "1 of 20 requested" in shown.stdout
    assert "FOUND" in shown.stdout
    assert "drop the repeats" in " ".join(shown.stdout.split())
    printed = runner.invoke(app, [*argv, "--json"])
    report = json.loads(printed.stdout)
    assert report["protocol_id"] == json.loads((tmp_path / "a.json").read_text())["protocol_id"]
    found = {s["name"]: s["is_found"] for s in report["signatures"]}
    assert found["duplicated outputs"]
    assert not found["symmetry collapse to P1"]
    runner.invoke(app, [*argv, "--protocol", "cdvae", "--out", str(tmp_path / "b.json")])
    files = [str(tmp_path / name) for name in ("a.json", "a.json", "b.json")]
    alike = runner.invoke(app, ["compare", *files[:2]])
    assert alike.exit_code == 0, alike.output
    assert "Protocol matmill-1" in alike.stdout
    assert (
        len(json.loads(runner.invoke(app, ["compare", *files[:2], "--json"]).stdout)["rows"]) > 20
    )
    refused = runner.invoke(app, ["compare", *files[1:]])
    assert refused.exit_code == 2
    assert "share no column" in refused.output
    wrong = runner.invoke(app, [*argv, "--relax", "many"])
    assert wrong.exit_code == 2
    assert "--relax 'many'" in wrong.output
    no_truth = runner.invoke(app, [*argv, "--csp"])
    assert no_truth.exit_code == 2


def test_copies_are_less_varied_than_different_crystals():
    different = prototypes()
    copies = concatenate([different.select([3])] * len(different))
    own = Against(index=INDEX, reference=different)
    varied, alike = evaluate(different, own).numbers, evaluate(copies, own).numbers
    for key in ("elements", "space_groups", "formulas", "crystals"):
        assert varied[f"effective_{key}"].value > alike[f"effective_{key}"].value
    assert alike["effective_crystals"].value == pytest.approx(1.0, abs=1e-6)
    assert alike["continuous_uniqueness"].value == pytest.approx(0.0, abs=1e-6)
    assert varied["continuous_uniqueness"].value > 0.5
    # All are in the training set.
    assert varied["continuous_novelty"].value == pytest.approx(0.0, abs=1e-6)
    some = Against(index=INDEX, reference=different.select([3]))
    assert evaluate(different, some).numbers["continuous_novelty"].value > 0.3
    card = evaluate(different, Against(index=INDEX))
    assert "continuous_novelty" not in card.numbers
    broken = evaluate(concatenate([MEETING, different]), own).numbers
    assert broken["continuous_uniqueness"].denominator == len(different)
