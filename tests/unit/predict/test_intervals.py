import pytest
import torch

from matmill.errors import DataError, UnknownNameError
from matmill.predict.calibrate import conformal_quantile
from matmill.predict.intervals import CalibrationRows, plain_factors


def _rows(n=600, seed=0):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 4, generator=rng)
    scores = torch.randn(n, generator=rng).abs() * (0.5 + features[:, 0].abs())
    scores[::7] = torch.nan  # values that nobody knows
    return CalibrationRows(
        features=features, families=torch.arange(n) % 3, scores={"band_gap_ev": scores}
    )


def _asked(n, shift=0.0, seed=1):
    features = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    features[:, 0] += shift
    return features, torch.zeros(n).long()


def test_plain_and_family_factors_come_from_known_scores_only():
    rows = _rows()
    scores = rows.scores["band_gap_ev"]
    known = torch.isfinite(scores)
    plain = rows.factors("band_gap_ev", 0.9, *_asked(5))
    assert plain.factor.tolist() == [conformal_quantile(scores[known], 0.9)] * 5
    assert plain.effective_size.tolist() == [float(known.sum())] * 5
    family = rows.factors("band_gap_ev", 0.9, *_asked(5), kind="family")
    own = scores[known & (rows.families == 0)]
    assert family.factor.tolist() == [conformal_quantile(own, 0.9)] * 5
    assert set(family.names) == {"conformal within family"}


def test_crystals_alike_keep_the_promise_and_a_handful_does_not():
    rows = _rows()
    many = rows.factors("band_gap_ev", 0.9, *_asked(300), kind="shifted")
    assert set(many.names) == {"weighted conformal"}
    few = rows.factors("band_gap_ev", 0.9, *_asked(10), kind="shifted")
    assert set(few.names) == {"weighted conformal, no guarantee"}


def test_without_overlap_nothing_is_promised_and_no_interval_is_narrower_than_the_plain_one():
    rows = _rows()
    plain = rows.factors("band_gap_ev", 0.9, *_asked(200)).factor
    far = rows.factors("band_gap_ev", 0.9, *_asked(200, shift=6.0), kind="shifted")
    assert set(far.names) == {"weighted conformal, no guarantee"}
    assert float(far.effective_size.max()) < 50
    assert bool((far.factor >= plain).all())


def test_too_few_rows_are_no_promise():
    assert plain_factors(2.0, 49, 2).names == ("conformal, no guarantee",) * 2
    assert plain_factors(2.0, 50, 2).names == ("conformal",) * 2


def test_wrong_names_and_incomplete_files_are_told():
    rows = _rows()
    with pytest.raises(UnknownNameError, match="kind of interval"):
        rows.factors("band_gap_ev", 0.9, *_asked(2), kind="wide")  # pyright: ignore
    with pytest.raises(UnknownNameError, match="bulk"):
        rows.factors("bulk", 0.9, *_asked(2))
    tensors = rows.tensors()
    again = CalibrationRows.of(tensors)
    assert torch.equal(again.features, rows.features)
    assert list(again.scores) == ["band_gap_ev"]
    with pytest.raises(DataError, match="families"):
        CalibrationRows.of({"features": tensors["features"]})
