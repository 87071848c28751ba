"""Charts that show whether error bars are honest, as inline SVG."""

import math
from statistics import NormalDist

import torch

from matmill.predict.calibrate import rank_correlation, residual_scores, sparsification
from matmill.predict.scores import Outcome
from matmill.svg import BLUE, GREY, RED, Frame, picture

_WIDTH, _HEIGHT = 400, 300
_BINS = 12
_MOST_DOTS = 400
_FARTHEST = 5.0  # standard deviations; what is beyond is counted in the last bar


def all_plots(outcome: Outcome) -> dict[str, str]:
    """Return every chart with its caption as key."""
    return {
        "Coverage: dots are the intervals, the line Gaussian ±σ; honest is the diagonal.": (
            reliability(outcome)
        ),
        "Error against σ: dots are single crystals, the line groups of equal size; honest groups "
        "lie on the diagonal.": error_against_std(outcome),
        "Errors in units of σ; honest is the normal curve.": z_histogram(outcome),
        "Mean error of what is left when the most uncertain are set aside (blue), in the ideal "
        "order (dashed), and at random (grey).": sparsification_curve(outcome),
    }


def reliability(outcome: Outcome) -> str:
    """Return observed against expected coverage."""
    frame = Frame((0.0, 1.0), (0.0, 1.0), _WIDTH, _HEIGHT)
    scores = residual_scores(outcome.truth - outcome.mean, outcome.std.clamp_min(1e-12)).double()
    normal = NormalDist()
    expected = [i / 100 for i in range(1, 100)]
    observed = [
        float((scores <= normal.inv_cdf(0.5 + level / 2)).double().mean()) for level in expected
    ]
    held = [
        float(((outcome.truth >= low) & (outcome.truth <= high)).double().mean())
        for low, high in outcome.ends.values()
    ]
    parts = [
        *frame.axes("expected coverage", "observed coverage", is_count=False),
        frame.line([0, 1], [0, 1], color=GREY, is_dashed=True),
        frame.line(expected, observed),
        frame.dots(list(outcome.ends), held, color=RED, radius=4),
    ]
    return picture(_WIDTH, _HEIGHT, parts, "Observed against expected coverage")


def error_against_std(outcome: Outcome) -> str:
    """Return absolute errors against σ, and their root mean square in groups of equal size."""
    error, std = (outcome.truth - outcome.mean).abs(), outcome.std
    order = std.argsort()
    groups = [g for g in order.chunk(_BINS) if len(g)]
    across = [float(std[g].square().mean().sqrt()) for g in groups]
    up = [float(error[g].square().mean().sqrt()) for g in groups]
    # The last in a hundred would squeeze all others into a corner.
    top = 1.05 * max(*across, *up, float(error.quantile(0.99)), 1e-9)
    frame = Frame((0.0, top), (0.0, top), _WIDTH, _HEIGHT, left=56)
    step = max(1, len(error) // _MOST_DOTS)
    shown = [i for i in order[::step].tolist() if error[i] <= top and std[i] <= top]
    unit = _unit(outcome)
    parts = [
        *frame.axes(f"predicted σ ({unit})", f"error ({unit})", is_count=False),
        frame.line([0, top], [0, top], color=GREY, is_dashed=True),
        frame.dots(
            [float(std[i]) for i in shown],
            [float(error[i]) for i in shown],
            radius=1.5,
            opacity=0.35,
        ),
        frame.line(across, up, color=RED),
        frame.dots(across, up, color=RED),
        f'<text x="{frame.left + 8}" y="24">rank correlation {rank_correlation(error, std):.2f}'
        "</text>",
    ]
    return picture(_WIDTH, _HEIGHT, parts, "Error against predicted standard deviation")


def z_histogram(outcome: Outcome) -> str:
    """Return a histogram of errors in units of σ beside the normal law."""
    z = ((outcome.truth - outcome.mean) / outcome.std.clamp_min(1e-12)).clamp(-_FARTHEST, _FARTHEST)
    n_bins = 4 * int(_FARTHEST)
    counts = torch.histc(z.double(), bins=n_bins, min=-_FARTHEST, max=_FARTHEST)
    step = 2 * _FARTHEST / n_bins
    shares = (counts / counts.sum()).tolist()
    normal = NormalDist()
    grid = [-_FARTHEST + i * _FARTHEST / 50 for i in range(101)]
    curve = [step * normal.pdf(x) for x in grid]
    frame = Frame((-_FARTHEST, _FARTHEST), (0.0, 1.05 * max(*shares, *curve)), _WIDTH, _HEIGHT)
    parts = frame.axes("error / σ", "share of crystals", is_count=False)
    for i, share in enumerate(shares):
        if share:
            parts.append(frame.bar(-_FARTHEST + i * step, -_FARTHEST + (i + 1) * step, share))
    parts.append(frame.line(grid, curve, color=RED))
    return picture(_WIDTH, _HEIGHT, parts, "Errors in units of the standard deviation")


def sparsification_curve(outcome: Outcome) -> str:
    """Return how the mean error falls when the most uncertain crystals are set aside."""
    set_aside, own, ideal = sparsification(outcome.truth - outcome.mean, outcome.std)
    x = set_aside.tolist()
    top = 1.05 * max(1.0, float(own[:-1].max()) if len(own) > 1 else 1.0)
    frame = Frame((0.0, 1.0), (0.0, top if math.isfinite(top) else 1.05), _WIDTH, _HEIGHT)
    # With one crystal left the curve is luck.
    inner = [i for i, share in enumerate(x) if share <= 0.97]
    parts = [
        *frame.axes("share set aside", "mean error of the rest / of all", is_count=False),
        frame.line([0, 1], [1, 1], color=GREY),
        frame.line([x[i] for i in inner], [float(ideal[i]) for i in inner], is_dashed=True),
        frame.line([x[i] for i in inner], [float(own[i]) for i in inner], color=BLUE),
    ]
    return picture(_WIDTH, _HEIGHT, parts, "Sparsification curve")


def _unit(outcome: Outcome) -> str:
    return f"log10 of {outcome.column}" if outcome.is_log else outcome.column
