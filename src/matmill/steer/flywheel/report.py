"""The page of a flywheel study: the table, differences, learning of the wheel, quality, cost."""

import json
import math
from importlib.resources import files
from typing import Any

import numpy as np

from matmill import charts
from matmill.quantities import BY_COLUMN
from matmill.steer.flywheel.study import (
    BOTH,
    LONGER,
    PSEUDO,
    SHUFFLED,
    SYNTHETIC,
    Row,
    Study,
    Synthesis,
)

MEASURES = {
    "valid": "valid geometry, share",
    "neutral": "valid and charge-neutral, share",
    "novel": "valid and no copy of a training row, share",
    "unique": "valid and not a repeat, share",
    "formulas_of_training": "formulas of training rows, share",
    "reached": "training rows with a near synthetic crystal, share",
    "density_w1_g_cm3": "density, Wasserstein distance to training, g/cm³",
    "n_elements_w1": "number of elements, Wasserstein distance",
    "elements_entropy_bits": "entropy of the elements, bits",
    "training_entropy_bits": "the same of the training rows, bits",
    "condition_error": "mean distance of an independent prediction to the condition",
    "judge_error": "error of that independent predictor on real rows",
    "condition_correlation": "rank correlation of prediction and condition",
}


def render(study: Study, record: dict[str, Any]) -> str:
    """Return the page, self-contained."""
    import jinja2

    source = files("matmill.steer.flywheel").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(source)
    return template.render(
        title=f"Flywheel on {label(study.column)}",
        study=study,
        unit=unit(study.column),
        heads=HEADS,
        rows=[cells(row) for row in study.rows],
        charts=[_differences(study, mode) for mode in study.settings.modes],
        rounds=_rounds(study),
        quality=quality_rows(study.syntheses),
        dropped=dropped(study.syntheses),
        cost=study.cpu_seconds(),
        verdicts=verdicts(study),
        record=json.dumps(record, indent=2, ensure_ascii=False),
    )


HEADS = ("mode", "predictor", "arm", "turn", "MAE", "± std", "runs", "against real rows alone",
         "95 % interval", "p", "would detect")  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table as texts."""
    found = row.against_real
    if found is None:
        rest = ("", "", "", "")
    else:
        rest = (
            f"{found.mean:+.4g} ({found.n_better} of {found.n} better)",
            f"{found.low:+.3g} … {found.high:+.3g}",
            "–" if math.isnan(found.p_value) else f"{found.p_value:.3g}",
            f"±{found.detectable:.3g}",
        )
    runs = str(len(row.maes)) + (f" ({row.n_failed} failed)" if row.n_failed else "")
    return (row.mode, row.predictor or "–", row.arm, str(row.round), f"{row.mean:.4g}",
            f"{row.std:.3g}", runs, *rest)  # fmt: skip


def verdicts(study: Study) -> list[str]:
    """Return one sentence for each arm, and for each control that the wheel must beat."""
    texts = []
    for row in study.rows:
        found = row.against_real
        if found is None or row.arm not in (SYNTHETIC, BOTH, SHUFFLED, PSEUDO, LONGER):
            continue
        who = f"{row.mode}, {row.predictor}, turn {row.round}: {row.arm}"
        if found.high < 0 and row.arm == LONGER:
            texts.append(
                f"{who} is better than real rows alone ({found.mean:+.3g}): {row.predictor} is not "
                "trained to its end, and so much of a gain is none of synthetic rows. Give it more "
                "epochs (cgcnn-long has 300)."
            )
        elif found.high < 0:
            texts.append(f"{who} is better than real rows alone ({found.mean:+.3g}).")
        elif found.low > 0:
            texts.append(f"{who} is worse than real rows alone ({found.mean:+.3g}).")
        else:
            texts.append(
                f"{who} cannot be told from real rows alone; {found.n} runs would detect "
                f"±{found.detectable:.3g}."
            )
    for each in study.contrasts:
        found = each.found
        texts.append(
            f"{each.mode}, {each.predictor}, turn {each.round}: {BOTH} against {each.control}: "
            f"{found.mean:+.3g} ({found.low:+.3g} … {found.high:+.3g})."
        )
    for (mode, predictor), (wheel, ensemble) in study.extra_cpu_s.items():
        texts.append(
            f"{mode}, {predictor}: beyond real rows alone a run of the wheel takes {wheel:.0f} CPU "
            f"seconds, its ensemble of {study.settings.control_members} {ensemble:.0f}."
        )
    return texts


def quality_rows(syntheses: tuple[Synthesis, ...]) -> list[tuple[str, ...]]:
    """Return mean ± standard deviation over runs of each measure, by mode and turn."""
    groups: dict[tuple[str, int], dict[str, Synthesis]] = {}
    for each in syntheses:  # predictors that share a set have it once
        groups.setdefault((each.mode, each.round), {}).setdefault(each.content, each)
    rows = []
    for (mode, turn), members in groups.items():
        for name, text in MEASURES.items():
            values = [
                m.quality[name]
                for m in members.values()
                if math.isfinite(m.quality.get(name, math.nan))
            ]
            if values:
                spread = f"± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
                rows.append((mode, str(turn), text, f"{np.mean(values):.3g} {spread}"))
    return rows


def dropped(syntheses: tuple[Synthesis, ...]) -> dict[str, int]:
    """Return how many synthetic crystals fell for which reason, and how many may teach.

    A set that several predictors learn from, judged by the same one, counts once.
    """
    counts: dict[str, int] = {}
    once = {(each.content, each.judged_by, each.round): each for each in syntheses}
    for each in once.values():
        for reason, number in each.dropped.items():
            counts[reason] = counts.get(reason, 0) + number
    return {**counts, "left to teach": sum(each.n_kept for each in once.values())}


def unit(column: str) -> str:
    """Return the unit of a column; empty when it is not known."""
    found = BY_COLUMN.get(column)
    return found.unit if found else ""


def label(column: str) -> str:
    """Return what a column is called."""
    found = BY_COLUMN.get(column)
    return found.label if found else column


def _differences(study: Study, mode: str) -> str:
    rows = [
        (f"{row.predictor}: {row.arm} {row.round}", row.against_real.mean, _half(row))
        for row in study.rows
        if row.mode == mode and row.against_real is not None
    ]
    title = f"{mode}: difference of the MAE to real rows alone, {unit(study.column)}"
    return charts.intervals(rows, title=title, low=-math.inf, high=0.0, width=720)


def _half(row: Row) -> float:
    found = row.against_real
    return 0.0 if found is None or math.isnan(found.low) else 0.5 * (found.high - found.low)


def _rounds(study: Study) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return the error of real + synthetic over the turns, by predictor, where there are turns."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in study.rows:
        if row.mode == "semi-supervised" and row.arm == BOTH:
            found.setdefault(row.predictor, []).append((row.round, row.mean))
    return [(name, turns) for name, turns in found.items() if len(turns) > 1]
