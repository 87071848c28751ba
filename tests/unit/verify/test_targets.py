"""Targets: hits by two predictors against hand counts, and what keeps a judge independent."""

import json

import numpy as np
import pytest
import torch
from crystals_for_tests import prototypes
from typer.testing import CliRunner

from matmill.campaign.aims import aims
from matmill.cli.main import app
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.facts import density
from matmill.crystals.files import write
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.predict.judges import judge_names, load_judge
from matmill.predict.protocol import load_predictor
from matmill.verify.evaluation import Against, evaluate
from matmill.verify.judging import Aim, Judge, Known, Opinion, expected_hits, kappa, true_hits
from matmill.verify.novelty import KnownIndex

pytestmark = pytest.mark.filterwarnings("ignore")
INDEX = KnownIndex.load(structures=[])
MEETING = CrystalBatch.from_lists(
    [5.0 * np.eye(3)], [[[0, 0, 0], [0.03, 0, 0]]], [[11, 17]]
).with_ids(["meeting"])


def says(shift: float, std: float = 0.5) -> Judge:
    """Return a predictor that says the density plus something."""

    def look(batch: CrystalBatch) -> Opinion:
        mean = density(batch) + shift
        return Opinion(mean=mean, std=torch.full_like(mean, std), in_domain=batch.n_atoms > 1)

    return Judge(name=f"density + {shift:g}", look=look)


def aim(low=2.0, high=6.0, **changes) -> Aim:
    settings = {
        "name": "density",
        "text": "density = 4",
        "unit": "g/cm³",
        "low": low,
        "high": high,
        "value": 4.0,
        "steering": says(0.0),
        "judge": says(1.0),
    }
    return Aim(**{**settings, **changes})


def test_hits_by_hand():
    batch = concatenate([prototypes(), MEETING])
    card = evaluate(batch, Against(index=INDEX, aims=(aim(),)))
    values = density(prototypes())
    mine = (values >= 2) & (values <= 6)
    theirs = (values + 1 >= 2) & (values + 1 <= 6)
    assert int(mine.sum()) != int(theirs.sum())
    numbers = card.numbers
    assert numbers["hit_density"].numerator == int(mine.sum())
    assert numbers["hit_density_judge"].numerator == int(theirs.sum())
    assert numbers["hit_density_both"].numerator == int((mine & theirs).sum())
    assert numbers["hit_density"].denominator == 10  # the crystal that meets itself misses
    assert numbers["agree_density"].numerator == int((mine == theirs).sum())
    assert numbers["agree_density"].denominator == 9
    assert numbers["apart_density"].value == pytest.approx(1.0)
    assert card.rows[-1]["density_judge"] is None or np.isnan(card.rows[-1]["density_judge"])
    assert any("no known crystals" in note for note in card.notes)
    assert card.basis.targets == ("density = 4: density + 0 / density + 1",)


def test_what_a_hit_is_worth():
    truth = torch.tensor([1.0, 3.0, 4.0, 5.0, 9.0], dtype=torch.float64)
    known = Known(
        truth=truth,
        steering=torch.tensor([3.0, 3.0, 4.0, 9.0, 5.0], dtype=torch.float64),
        judge=torch.tensor([0.0, 3.0, 8.0, 5.0, 5.0], dtype=torch.float64),
        judge_coverage=0.9,
    )
    wish = aim(known=known)
    hits = [wish.is_hit(known.steering), wish.is_hit(known.judge)]
    assert true_hits(wish, known, hits[:1]) == (4, 2, 3)
    assert true_hits(wish, known, hits[1:]) == (3, 2, 3)
    assert true_hits(wish, known, hits) == (2, 1, 3)
    numbers = evaluate(prototypes(), Against(index=INDEX, aims=(wish,))).numbers
    assert (numbers["true_density_both"].numerator, numbers["true_density_both"].denominator) == (
        1,
        2,
    )
    assert numbers["error_density_judge"].value == pytest.approx((1 + 4 + 4) / 5)
    assert "90.0 % are inside" in numbers["error_density_judge"].note


def test_error_bars_share_a_hit_with_both_sides():
    wish = aim(low=1.0, high=float("inf"))
    opinion = Opinion(
        mean=torch.tensor([1.0, 1.5, -9.0, torch.nan], dtype=torch.float64),
        std=torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64),
        in_domain=torch.ones(4, dtype=torch.bool),
    )
    normal = 0.8413447460685429  # of one standard deviation
    assert expected_hits(opinion, wish).tolist() == pytest.approx([0.5, normal, 0.0, 0.0])


def test_kappa_by_hand():
    a = torch.tensor([True, True, False, False])
    assert kappa(a, a) == 1.0
    assert kappa(a, torch.tensor([True, False, True, False])) == 0.0
    assert np.isnan(kappa(a[:2], a[:2]))


def test_asking_without_effect_is_found_by_the_judge():
    batch = prototypes()
    same = Against(index=INDEX, reference=batch, aims=(aim(),), unasked=batch)
    card = evaluate(batch, same)
    sign = next(s for s in card.signatures if "without effect" in s.name)
    assert sign.is_found
    assert sign.value == pytest.approx(0.5)
    assert card.numbers["hit_density_judge_unasked"].value == pytest.approx(
        card.numbers["hit_density_judge"].value
    )


def test_shipped_judges_are_of_another_family_and_know_crystals():
    assert "band_gap" in judge_names()
    for name in judge_names():
        judge, known = load_judge(name)
        steering = load_predictor(name)
        assert judge.column == steering.column
        assert judge.card["kind"] != steering.card["kind"]
        assert judge.card["disjoint_from"] == steering.card["weights_sha256"][:16]
        told = judge.card["agreement"]
        errors = {key: float((known[key] - known["truth"]).abs().mean()) for key in known}
        assert errors["judge"] == pytest.approx(told["mae_judge"], rel=1e-4)
        assert errors["steering"] == pytest.approx(told["mae_steering"], rel=1e-4)
        # Better than the best constant, or a verdict of it would mean nothing.
        constant = float((known["truth"] - known["truth"].median()).abs().mean())
        assert errors["judge"] < 0.7 * constant


def test_what_cannot_be_judged_is_refused(tmp_path):
    (wish,) = aims(["band_gap = 2 eV"])
    assert (wish.low, wish.high, wish.value) == pytest.approx((1.8, 2.2, 2.0))
    assert wish.known is not None
    assert wish.steering.name != wish.judge.name
    for targets, options, words in (
        (["max band_gap"], {}, "no range to hit"),
        (["density = 4"], {}, "read off the crystal"),
        (["bulk_modulus > 100 GPa"], {}, "Give --judge FILE"),
        ([], {"judges": ["band_gap"]}, "need --target"),
        (["band_gap = 2"], {"judges": ["formation_energy_per_atom"]}, "no target is of it"),
    ):
        with pytest.raises(InputError, match=words):
            aims(targets, **options)
    with pytest.raises(UnknownNameError):
        load_judge("band_gop")
    with pytest.raises(DataError):
        load_judge(tmp_path / "none.safetensors")
    from matmill.predict.protocol import shipped_files

    with pytest.raises(InputError, match="agree with itself"):
        aims(["band_gap = 2 eV"], steering=[str(_saved_judge())], judges=[str(_saved_judge())])
    assert shipped_files()


def _saved_judge():
    from matmill.predict.judges import SHIPPED

    return SHIPPED / "band_gap.safetensors"


def test_the_command_judges_targets(tmp_path):
    samples, free = tmp_path / "asked.extxyz", tmp_path / "free.extxyz"
    write(prototypes().select([0, 2, 5, 6]), samples)
    write(prototypes(), free)
    argv = ["evaluate", str(samples), "--target", "band_gap > 1 eV", "--json", "--quiet"]
    shown = CliRunner().invoke(app, [*argv, "--unasked", str(free)])
    assert shown.exit_code == 0, shown.output
    card = json.loads(shown.stdout)
    keys = {number["key"] for numbers in card["groups"].values() for number in numbers}
    assert {
        "hit_band_gap",
        "hit_band_gap_judge",
        "true_band_gap_both",
        "hit_band_gap_unasked",
    } <= keys
    wrong = CliRunner().invoke(app, ["evaluate", str(samples), "--unasked", str(free), "--quiet"])
    assert wrong.exit_code == 2
    assert "--unasked needs --target" in wrong.output
