"""Scores of an ensemble on held-out rows: accuracy and honesty of the error bars."""

from typing import Any

import torch
from torch import Tensor

from matmill.graphs.graph import Graph
from matmill.predict.calibrate import (
    COVERAGES,
    coverage,
    crps,
    factor_for,
    gaussian_nll,
    miscalibration_area,
    rank_correlation,
)
from matmill.predict.ensemble import EnsembleModel


def score_model(model: EnsembleModel, graph: Graph, values: Tensor) -> dict[str, dict[str, Any]]:
    """Return scores by column.

    Errors are in the unit of the column; ``mae_log10`` is added for logarithmic ones, and there
    σ, NLL and CRPS refer to the logarithm (base 10).

    Args:
        model: Calibrated ensemble.
        graph: Graphs of held-out crystals.
        values: True values in the columns' units, ``(n_crystals, n_targets)``, NaN unknown.
    """
    if not len(graph):
        return {}
    raw = model.raw(graph)
    in_domain = model.in_domain(graph, raw.distance)
    scores = {}
    for target, column in enumerate(model.columns):
        known = torch.isfinite(values[:, target])
        if int(known.sum()) < 2:
            continue
        scale, calibration = model.scales[target], model.card["calibration"][column]
        truth_unit = values[known, target].double()
        truth = scale.to_learned(truth_unit) * scale.spread
        mean = raw.mean[known, target] * scale.spread
        std = raw.std[known, target] * scale.spread * calibration["std_factor"]
        error = (scale.from_learned(raw.mean[known, target]) - truth_unit).abs()
        members = scale.from_learned(raw.members[:, known, target])
        inner = in_domain[known]
        intervals = {}
        for level in COVERAGES:
            reach = std * factor_for(calibration["conformal_factors"], level)
            intervals[f"{level:.2f}"] = {
                "covered": coverage(truth, mean - reach, mean + reach),
                "mean_width": float(2 * reach.mean()),
            }
        entry: dict[str, Any] = {
            "n_test": int(known.sum()),
            "mae": float(error.mean()),
            "median_error": float(error.median()),
            "rmse": float(error.square().mean().sqrt()),
            "r2": _r2(scale.from_learned(raw.mean[known, target]), truth_unit),
            "mae_of_single_members": (members - truth_unit).abs().mean(1).tolist(),
            "intervals": intervals,
            "miscalibration_area": miscalibration_area(truth, mean, std),
            "nll": gaussian_nll(truth, mean, std),
            "crps": crps(truth, mean, std),
            "rank_correlation_error_std": rank_correlation((truth - mean).abs(), std),
            "share_in_domain": float(inner.double().mean()),
            "mae_in_domain": float(error[inner].mean()) if bool(inner.any()) else None,
            "mae_out_of_domain": float(error[~inner].mean()) if bool((~inner).any()) else None,
        }
        if scale.is_log:
            entry["mae_log10"] = float((truth - mean).abs().mean())
        scores[column] = entry
    return scores


def _r2(guess: Tensor, truth: Tensor) -> float:
    residual = (guess - truth).square().sum()
    return float(1.0 - residual / (truth - truth.mean()).square().sum())
