"""``report.html`` about one predictor on one table: are its error bars honest?"""

from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from matmill import __version__
from matmill.predict.plots import all_plots
from matmill.predict.scores import Outcome
from matmill.training.checkpoint import write_atomically


def write_page(
    path: Path, outcome: Outcome, scores: dict[str, Any], *, model: str, table: str, kind: str
) -> None:
    """Write the page: tables and charts in one file that needs nothing else.

    Args:
        path: Where to write.
        outcome: Predictions beside the truth.
        scores: Those of the outcome.
        model: What was judged.
        table: On which rows.
        kind: Kind of the intervals.
    """
    import jinja2

    source = resources("matmill.predict").joinpath("calibration.html.j2")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    text = environment.from_string(source.read_text(encoding="utf-8")).render(
        title=f"Calibration of {outcome.column}",
        version=__version__,
        model=model,
        table=table,
        kind=kind,
        n=len(outcome.truth),
        coverages=coverage_rows(scores),
        facts=fact_rows(scores, is_log=outcome.is_log),
        families=family_rows(scores),
        plots=all_plots(outcome),
    )
    write_atomically(path, text.encode())


def coverage_rows(scores: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return wanted coverage, what was found, its width and the verdict, as texts."""
    rows = []
    for level, entry in scores["intervals"].items():
        gap = entry["covered"] - float(level)
        # Two standard errors of a share, at least two points: what chance alone does.
        slack = max(0.02, 2 * (float(level) * (1 - float(level)) / scores["n_test"]) ** 0.5)
        verdict = "as promised" if abs(gap) <= slack else "too narrow" if gap < 0 else "too wide"
        width = f"{entry['mean_width']:.4g}"
        if entry["share_infinite"]:
            width += f" ({entry['share_infinite']:.1%} without bounds)"
        rows.append((f"{float(level):.0%}", f"{entry['covered']:.1%}", width, verdict))
    return rows


def fact_rows(scores: dict[str, Any], *, is_log: bool) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of the other scores, as texts."""
    unit = " (of log10)" if is_log else ""
    known = {
        "mae": ("mean absolute error", "in the unit of the column"),
        "rmse": ("root mean square error", "in the unit of the column"),
        "r2": ("R²", "1 is perfect, 0 always the mean"),
        "miscalibration_area": ("miscalibration area", "of Gaussian ±σ; 0 is honest, 0.5 worst"),
        "z_std": ("spread of error / σ", "1 is honest, above 1 too sure"),
        "nll": (f"negative log-likelihood{unit}", "of a Gaussian; lower is better"),
        "crps": (f"CRPS{unit}", "lower is better; the mean absolute error where σ is 0"),
        "rank_correlation_error_std": (
            "rank correlation of error and σ",
            "does a large σ mean a large error? 1 is always, 0 never",
        ),
        "sparsification_error": ("area under the sparsification error", "0 is the ideal order"),
        "effective_size": ("effective calibration rows", "below 50 nothing is promised"),
        "share_in_domain": ("share in domain", "like the training crystals"),
        "mae_in_domain": ("mean absolute error in domain", ""),
        "mae_out_of_domain": ("mean absolute error out of domain", ""),
        "accuracy": ("accuracy", "at probability 0.5"),
        "log_loss": ("log loss", "in nats"),
        "brier": ("Brier score", "mean squared error of the probability"),
        "calibration_error": ("calibration error", "of the probabilities, over 10 bins"),
    }
    return [
        (title, f"{scores[name]:.4g}", meaning)
        for name, (title, meaning) in known.items()
        if scores.get(name) is not None
    ]


def family_rows(scores: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return family, rows and what the 90 % intervals hold there."""
    return [
        (name, entry["n"], f"{entry['covered']:.1%}")
        for name, entry in scores["covered_by_family"].items()
    ]
