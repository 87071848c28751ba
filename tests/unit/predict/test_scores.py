import dataclasses
import math

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError
from matmill.predict import plots
from matmill.predict.calibration_page import coverage_rows
from matmill.predict.protocol import Prediction
from matmill.predict.scores import evaluate_predictor, outcome_of, score_on_test, scores_of

N = 400
Z90 = 1.6448536269514722


def _table(column, values, split=()):
    return LabelledCrystals(
        crystals=CrystalBatch(
            lattice=(4 * torch.eye(3)).double().repeat(N, 1, 1),
            frac_coords=torch.zeros(N, 3).double(),
            atomic_numbers=torch.tensor([8, 26]).repeat(N // 2),
            n_atoms=torch.ones(N).long(),
            properties={column: values},
        ),
        notes={"split": split} if split else {},
        source="table",
    )


@dataclasses.dataclass
class Honest:
    """Says a mean and the true spread around it."""

    mean: torch.Tensor
    std: torch.Tensor
    column: str = "band_gap_ev"
    card: dict = dataclasses.field(default_factory=dict)

    def predict(self, batch, *, coverage=0.9):
        mean, std = self.mean[: len(batch)], self.std[: len(batch)]
        reach = std * float(
            torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5 + coverage / 2))
        )
        return Prediction(
            mean=mean,
            std=std,
            low=mean - reach,
            high=mean + reach,
            column=self.column,
            coverage=coverage,
            in_domain=torch.ones(len(batch), dtype=torch.bool),
        )


def _honest(column="band_gap_ev"):
    rng = torch.Generator().manual_seed(0)
    mean = 100 + 10 * torch.randn(N, generator=rng).double()
    std = 0.2 + 2 * torch.rand(N, generator=rng).double()
    truth = mean + std * torch.randn(N, generator=rng).double()
    return Honest(mean, std, column), truth


def test_an_honest_predictor_of_any_kind_scores_honest():
    predictor, truth = _honest()
    scores = evaluate_predictor(predictor, _table("band_gap_ev", truth))
    assert scores["intervals"]["0.90"]["covered"] == pytest.approx(0.9, abs=0.04)
    width = float(2 * Z90 * predictor.std.mean())
    assert scores["intervals"]["0.90"]["mean_width"] == pytest.approx(width, rel=1e-4)
    assert scores["z_std"] == pytest.approx(1.0, abs=0.08)
    assert scores["miscalibration_area"] < 0.03
    assert set(scores["covered_by_family"]) == {"oxide", "intermetallic"}
    assert all(row[3] == "as promised" for row in coverage_rows(scores))


def test_too_small_a_deviation_is_found_out():
    predictor, truth = _honest()
    predictor.std = predictor.std / 4
    scores = evaluate_predictor(predictor, _table("band_gap_ev", truth))
    assert scores["z_std"] == pytest.approx(4.0, rel=0.1)
    assert all(row[3] == "too narrow" for row in coverage_rows(scores))


def test_logarithmic_quantities_are_judged_on_their_logarithm():
    predictor, truth = _honest("bulk_modulus_vrh_gpa")
    outcome = outcome_of(predictor, _table("bulk_modulus_vrh_gpa", truth))
    assert outcome.is_log
    assert torch.allclose(outcome.truth, truth.log10())
    slope = predictor.std / (predictor.mean * math.log(10))
    assert torch.allclose(outcome.std, slope)
    assert scores_of(outcome)["mae"] == pytest.approx(float((predictor.mean - truth).abs().mean()))


def test_classes_get_scores_of_probabilities():
    rng = torch.Generator().manual_seed(1)
    chance = torch.rand(N, generator=rng).double()
    truth = (torch.rand(N, generator=rng) < chance).double()
    predictor = Honest(chance, (chance * (1 - chance)).sqrt(), "is_metal")
    scores = evaluate_predictor(predictor, _table("is_metal", truth))
    assert scores["brier"] == pytest.approx(float((chance - truth).square().mean()))
    assert scores["accuracy"] == pytest.approx(float(((chance > 0.5) == truth).double().mean()))
    assert scores["calibration_error"] < 0.12
    shuffled = dataclasses.replace(predictor, mean=1 - chance)
    assert evaluate_predictor(shuffled, _table("is_metal", truth))["calibration_error"] > 0.3


def test_test_rows_are_those_of_the_split_column():
    predictor, truth = _honest()
    split = tuple("test" if i < 100 else "train" for i in range(N))
    scores = score_on_test(predictor, _table("band_gap_ev", truth, split))
    assert scores["band_gap_ev"]["n_test"] == 100
    assert score_on_test(predictor, _table("band_gap_ev", truth)) == {}


def test_a_table_without_values_is_refused():
    predictor, truth = _honest()
    with pytest.raises(DataError, match="at least 2"):
        evaluate_predictor(predictor, _table("band_gap_ev", torch.full_like(truth, torch.nan)))


def test_every_chart_is_one_picture_of_finite_numbers():
    predictor, truth = _honest()
    outcome = outcome_of(predictor, _table("band_gap_ev", truth))
    for caption, svg in plots.all_plots(outcome).items():
        assert svg.startswith("<svg"), caption
        assert svg.count("<svg") == 1
        assert "nan" not in svg
        assert "inf" not in svg
