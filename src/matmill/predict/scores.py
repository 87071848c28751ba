"""Scores of predictors on held-out rows: accuracy, and honesty of the error bars."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.data.compositions import Table, items
from matmill.data.parts import is_tested
from matmill.errors import DataError
from matmill.graphs.graph import Graph
from matmill.predict import calibrate
from matmill.predict.calibrate import COVERAGES
from matmill.predict.chemistry import FAMILIES, families
from matmill.predict.domain import elements_of
from matmill.predict.ensemble import EnsembleModel
from matmill.predict.protocol import Prediction, Predictor, kinds_of
from matmill.quantities import BY_COLUMN

_FEW = 20  # rows of a family, below which its coverage is not stated


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What was predicted beside what is true, for rows whose value is known.

    σ, intervals, truth and mean are on the scale on which the error bars are meant: log10 for
    quantities that are learned so, the column's unit otherwise.

    Attributes:
        column: Name with unit.
        is_log: True when the scale is log10 of the unit.
        truth: True values, ``(n,)``.
        mean: Best guesses.
        std: Standard deviations.
        ends: By coverage, lower and upper ends of the intervals.
        truth_unit: True values in the column's unit.
        mean_unit: Best guesses in the column's unit.
        in_domain: Which rows the predictor takes for known ground.
        families: Family of each compound, see `predict.chemistry`.
        effective_size: Calibration rows behind the intervals; NaN when not told.
    """

    column: str
    is_log: bool
    truth: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]
    std: Float[Tensor, " n"]
    ends: dict[float, tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]
    truth_unit: Float[Tensor, " n"]
    mean_unit: Float[Tensor, " n"]
    in_domain: Bool[Tensor, " n"]
    families: Int[Tensor, " n"]
    effective_size: float = math.nan


def scores_of(outcome: Outcome) -> dict[str, Any]:
    """Return the scores of predictions.

    Errors are in the unit of the column; ``mae_log10`` is added for logarithmic ones, and there
    σ, widths, NLL and CRPS refer to the logarithm (base 10).
    """
    truth, mean = outcome.truth, outcome.mean
    # A σ of 0 (a computed value) must not divide by zero.
    std = outcome.std.clamp_min(1e-12)
    error = (outcome.mean_unit - outcome.truth_unit).abs()
    inner = outcome.in_domain
    intervals = {}
    for level, (low, high) in outcome.ends.items():
        width = high - low
        finite = torch.isfinite(width)
        intervals[f"{level:.2f}"] = {
            "covered": calibrate.coverage(truth, low, high),
            "mean_width": float(width[finite].mean()) if bool(finite.any()) else math.inf,
            "share_infinite": float((~finite).double().mean()),
        }
    scores: dict[str, Any] = {
        "n_test": len(truth),
        "mae": float(error.mean()),
        "median_error": float(error.median()),
        "rmse": float(error.square().mean().sqrt()),
        "r2": _r2(outcome.mean_unit, outcome.truth_unit),
        "intervals": intervals,
        "miscalibration_area": calibrate.miscalibration_area(truth, mean, std),
        "nll": calibrate.gaussian_nll(truth, mean, std),
        "crps": calibrate.crps(truth, mean, std),
        "rank_correlation_error_std": calibrate.rank_correlation((truth - mean).abs(), std),
        "sparsification_error": calibrate.sparsification_error(truth - mean, std),
        "z_std": float(((truth - mean) / std).std(correction=0)),
        "share_in_domain": float(inner.double().mean()),
        "mae_in_domain": float(error[inner].mean()) if bool(inner.any()) else None,
        "mae_out_of_domain": float(error[~inner].mean()) if bool((~inner).any()) else None,
        "covered_by_family": _by_family(outcome),
    }
    if math.isfinite(outcome.effective_size):
        scores["effective_size"] = outcome.effective_size
    if outcome.is_log:
        scores["mae_log10"] = float((truth - mean).abs().mean())
    if bool(((outcome.truth_unit == 0) | (outcome.truth_unit == 1)).all()):
        chance = outcome.mean_unit.clamp(1e-6, 1 - 1e-6)
        likelihood = torch.where(outcome.truth_unit == 1, chance, 1 - chance)
        scores["accuracy"] = float(((chance >= 0.5) == (outcome.truth_unit == 1)).double().mean())
        scores["log_loss"] = float(-likelihood.log().mean())
        scores["brier"] = float(error.square().mean())
        scores["calibration_error"] = calibrate.class_calibration_error(chance, outcome.truth_unit)
    return scores


def score_model(model: EnsembleModel, graph: Graph, values: Tensor) -> dict[str, dict[str, Any]]:
    """Return scores by column, with those of the single members.

    Args:
        model: Calibrated ensemble.
        graph: Graphs of held-out crystals.
        values: True values in the columns' units, ``(n_crystals, n_targets)``, NaN unknown.
    """
    if not len(graph):
        return {}
    raw = model.raw(graph)
    in_domain, _ = model.judge(graph, raw.distance)
    kinds = families(elements_of(graph))
    scores = {}
    for target, column in enumerate(model.columns):
        known = torch.isfinite(values[:, target])
        if int(known.sum()) < 2:
            continue
        scale, calibration = model.scales[target], model.card["calibration"][column]
        truth_unit = values[known, target].double()
        mean = raw.mean[known, target] * scale.spread
        std = raw.std[known, target] * scale.spread * calibration["std_factor"]
        ends = {}
        for level in COVERAGES:
            # Through the unit and back: what is shown ends at the floor of the column.
            low, high = (
                scale.to_learned(scale.from_learned(end[known])) * scale.spread
                for end in model.ends(raw, kinds, column, level)[:2]
            )
            ends[level] = (low, high)
        outcome = Outcome(
            column=column,
            is_log=scale.is_log,
            truth=scale.to_learned(truth_unit) * scale.spread,
            mean=mean,
            std=std,
            ends=ends,
            truth_unit=truth_unit,
            mean_unit=scale.from_learned(raw.mean[known, target]),
            in_domain=in_domain[known],
            families=kinds[known],
        )
        members = scale.from_learned(raw.members[:, known, target])
        errors = (members - truth_unit).abs().mean(1)
        apart = members.std(0).mean() if len(members) > 1 else torch.tensor(0.0)
        scores[column] = {
            **scores_of(outcome),
            "mae_of_single_members": errors.tolist(),
            # How far the members differ, against how far they err: 0 means they are copies.
            "diversity": float(apart / errors.mean().clamp_min(1e-12)),
        }
    return scores


def evaluate_predictor(
    predictor: Predictor, table: Table, target: str | None = None, *, intervals: str = "split"
) -> dict[str, Any]:
    """Return the scores of any predictor on the rows of a table whose value is known.

    Args:
        predictor: What to score.
        table: Rows that it did not train on.
        target: Column with the true values; by default the predictor's own.
        intervals: Kind of interval, see `predict.intervals`.

    Raises:
        DataError: If fewer than two rows have a value.
        UnknownNameError: If there is no such column.
    """
    return scores_of(outcome_of(predictor, table, target, intervals=intervals))


def outcome_of(
    predictor: Predictor,
    table: Table,
    target: str | None = None,
    *,
    coverages: Sequence[float] = COVERAGES,
    intervals: str = "split",
) -> Outcome:
    """Return predictions beside the truth; arguments and errors of `evaluate_predictor`."""
    column = table.column_name(target or predictor.column)
    values = table.column(column).double()
    known = torch.isfinite(values)
    if int(known.sum()) < 2:
        raise DataError(
            f"{int(known.sum())} row(s) of {table.source or 'the table'} have a value of "
            f"'{column}'; scores need at least 2."
        )
    rows = items(table.select(known))
    amounts = element_counts(rows) if isinstance(rows, CrystalBatch) else rows.amounts
    levels = predictions_at(predictor, rows, coverages, intervals)
    first = levels[coverages[0]]
    quantity = BY_COLUMN.get(predictor.column)
    is_log = quantity is not None and quantity.log

    def on_scale(numbers: Tensor) -> Tensor:
        # The same floor as training has; a logarithm needs one.
        return numbers.clamp_min(0.1).log10() if is_log else numbers

    truth = values[known]
    std = first.std
    if is_log:
        std = std / (first.mean.clamp_min(0.1) * math.log(10.0))
    size = first.effective_size
    return Outcome(
        column=column,
        is_log=is_log,
        truth=on_scale(truth),
        mean=on_scale(first.mean),
        std=std,
        ends={level: (on_scale(p.low), on_scale(p.high)) for level, p in levels.items()},
        truth_unit=truth,
        mean_unit=first.mean,
        in_domain=first.in_domain,
        families=families(amounts),
        effective_size=math.nan if size is None or not len(size) else float(size.min()),
    )


def predictions_at(
    predictor: Predictor,
    rows: Any,  # noqa: ANN401 - crystals or compositions, as the predictor reads
    coverages: Sequence[float],
    intervals: str = "split",
) -> dict[float, Prediction]:
    """Return predictions with intervals of several coverages, with one pass where possible."""
    kind = {"intervals": intervals} if intervals in kinds_of(predictor) else {}
    at_once = getattr(predictor, "predict_levels", None)
    if at_once is not None:
        return at_once(rows, coverages, **kind)
    return {level: predictor.predict(rows, coverage=level, **kind) for level in coverages}


def score_on_test(predictor: Predictor, table: Table) -> dict[str, dict[str, Any]]:
    """Return the scores by column on the rows whose note ``split`` is ``test``.

    Empty when there are fewer than two of them with a value.
    """
    column = table.column_name(predictor.column)
    is_test = is_tested(table) & torch.isfinite(table.column(column))
    if int(is_test.sum()) < 2:
        return {}
    return {predictor.column: evaluate_predictor(predictor, table.select(is_test), column)}


def _by_family(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Return what the 90 % intervals hold within each family of compounds."""
    if 0.9 not in outcome.ends:
        return {}
    low, high = outcome.ends[0.9]
    found = {}
    for place, name in enumerate(FAMILIES):
        own = outcome.families == place
        if int(own.sum()) >= _FEW:
            covered = calibrate.coverage(outcome.truth[own], low[own], high[own])
            found[name] = {"n": int(own.sum()), "covered": covered}
    return found


def _r2(guess: Tensor, truth: Tensor) -> float:
    around = (truth - truth.mean()).square().sum()
    return float(1.0 - (guess - truth).square().sum() / around) if float(around) else math.nan
