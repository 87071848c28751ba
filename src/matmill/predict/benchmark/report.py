"""What a benchmark found: tables beside the published figures, learning curves, one page."""

import html
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matmill.predict.benchmark.plots import curves
from matmill.predict.benchmark.published import SCORES, rank
from matmill.predict.benchmark.runner import BASELINE
from matmill.predict.benchmark.tasks import TASKS, Task
from matmill.training.checkpoint import write_atomically

_LEADERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model on one task, split and training size: means over folds and seeds.

    Attributes:
        task: Name of the task.
        split: How rows were divided.
        size: Training rows; None for all.
        model: Name of the model.
        metric: Name of the score: ``mae``, or for classes ``balanced_accuracy``.
        value: Mean over the cells.
        spread: Standard deviation over the cells; NaN for one.
        cells: Value of each cell, by seed and fold.
        covered: Mean coverage of the intervals; NaN for classes.
        seconds: Mean time to fit.
        n_train: Mean number of training rows.
        n_failed: Cells that ended in an error.
        others: Further scores, means.
        is_official: All cells are published folds.
        is_whole: Every fold was measured.
    """

    task: str
    split: str
    size: int | None
    model: str
    metric: str
    value: float
    spread: float
    cells: tuple[float, ...]
    covered: float
    seconds: float
    n_train: float
    n_failed: int
    others: dict[str, float]
    is_official: bool
    is_whole: bool

    @property
    def is_classification(self) -> bool:
        """Whether larger is better."""
        return self.metric != "mae"


def summarise(results: Sequence[dict[str, Any]]) -> list[Line]:
    """Return one line per task, split, size and model, best first within each group."""
    groups: dict[tuple[str, str, int | None, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        cell = result["cell"]
        groups[cell["task"], cell["split"], cell["size"], cell["model"]].append(result)
    lines = [_line(key, found) for key, found in groups.items()]
    order = list(dict.fromkeys((line.task, line.split, line.size) for line in lines))

    def place(line: Line) -> tuple[int, float]:
        sign = -1 if line.is_classification else 1
        value = math.inf if math.isnan(line.value) else sign * line.value
        return order.index((line.task, line.split, line.size)), value

    return sorted(lines, key=place)


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[object]]]:
    """Return headings and rows for people, one row a line, with the rank that ours would take."""
    headings = ["task", "split", "rows", "model", "score", "± folds", "covered", "s/fit", "rank"]
    rows: list[list[object]] = []
    for line in lines:
        place = _place(line)
        rows.append(
            [
                line.task,
                line.split if line.split != "official" or line.is_official else "own folds",
                round(line.n_train),
                line.model + (f" ({line.n_failed} failed)" if line.n_failed else ""),
                _number(line.value),
                _number(line.spread),
                None if math.isnan(line.covered) else round(line.covered, 3),
                round(line.seconds, 1),
                None if place is None else f"{place[0]} of {place[1]}",
            ]
        )
    return headings, rows


def leaders(task: str) -> str:
    """Return the best published scores of a task as one line, empty when there are none."""
    listed = SCORES.get(_published(task), ())
    text = ", ".join(
        f"{score.model} {score.value:g}" + (f" ± {score.spread:g}" if score.spread else "")
        for score in listed[:_LEADERS]
    )
    return f"{text}" if text else ""


def write(folder: Path, results: Sequence[dict[str, Any]], command: str) -> Path:
    """Write ``report.html``, ``table.md`` and ``scores.json`` into the folder; returns the page."""
    lines = summarise(results)
    markdown = as_markdown(lines)
    write_atomically(folder / "table.md", markdown.encode())
    plain = [{name: getattr(line, name) for name in line.__slots__} for line in lines]
    write_atomically(folder / "scores.json", json.dumps(plain, indent=1).encode())
    page = folder / "report.html"
    write_atomically(page, _page(lines, results, command).encode())
    return page


def as_markdown(lines: Sequence[Line]) -> str:
    """Return the table as Markdown, with the published leaders below each task."""
    parts = []
    for task in dict.fromkeys(line.task for line in lines):
        headings, rows = table([line for line in lines if line.task == task])
        parts.append("| " + " | ".join(headings) + " |")
        parts.append("|" + "---|" * len(headings))
        parts += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
        best = leaders(task)
        if best:
            parts.append(f"\nPublished ({task}): {best}.{_caveat(task)}")
        parts.append("")
    return "\n".join(parts)


def _line(key: tuple[str, str, int | None, str], results: Sequence[dict[str, Any]]) -> Line:
    task, split, size, model = key
    good = [result for result in results if "error" not in result]
    names = sorted({name for result in good for name in result["scores"]})
    means = {
        name: fmean([result["scores"][name] for result in good if name in result["scores"]])
        for name in names
    }
    metric = "balanced_accuracy" if "roc_auc" in means else "mae"
    values = tuple(result["scores"][metric] for result in good)
    return Line(
        task=task,
        split=split,
        size=size,
        model=model,
        metric=metric,
        value=fmean(values) if values else math.nan,
        spread=stdev(values) if len(values) > 1 else math.nan,
        cells=values,
        covered=means.get("covered", math.nan),
        seconds=fmean([result["fit_seconds"] for result in good]) if good else math.nan,
        n_train=fmean([result["n_train"] for result in good]) if good else math.nan,
        n_failed=len(results) - len(good),
        others={name: value for name, value in means.items() if name != metric},
        is_official=bool(good) and all(result["is_official"] for result in good),
        is_whole=all(
            {result["cell"]["fold"] for result in good} == set(range(result["cell"]["n_folds"]))
            for result in results
        ),
    )


def _place(line: Line) -> tuple[int, int] | None:
    if line.size is not None or line.split != "official" or line.model == BASELINE:
        return None
    if math.isnan(line.value) or not line.is_whole:
        return None  # a few folds are no score: they differ by a factor of two
    return rank(_published(line.task), line.value, is_classification=line.is_classification)


def _published(task: str) -> str:
    return TASKS[task].published if task in TASKS else ""


def _caveat(task: str) -> str:
    known: Task | None = TASKS.get(task)
    return f" Note: {known.note}." if known is not None and known.note else ""


def _page(lines: Sequence[Line], results: Sequence[dict[str, Any]], command: str) -> str:
    sections = []
    for task in dict.fromkeys(line.task for line in lines):
        own = [line for line in lines if line.task == task]
        headings, rows = table(own)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in headings[1:])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row[1:]) + "</tr>"
            for row in rows
        )
        best = leaders(task)
        text = f"<p>Published: {html.escape(best)}.{html.escape(_caveat(task))}</p>" if best else ""
        unit = TASKS[task].unit if task in TASKS else ""
        metric = "balanced accuracy" if own[0].is_classification else f"MAE {unit}".strip()
        sections.append(
            f"<h2>{html.escape(task)}</h2><p>Score: {html.escape(metric)}, mean over folds and "
            f"seeds.</p><table><tr>{head}</tr>{body}</table>{text}{_curves(own, metric)}"
        )
    failed = [result for result in results if "error" in result]
    if failed:
        items = "".join(
            f"<li>{html.escape(result['cell']['task'])} {html.escape(result['cell']['model'])} "
            f"fold {result['cell']['fold']}: {html.escape(result['error'])}</li>"
            for result in failed
        )
        sections.append(f"<h2>Failed</h2><ul>{items}</ul>")
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
        "color:#222}table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:right;"
        "border-bottom:1px solid #ddd}td:nth-child(3),th:nth-child(3){text-align:left}"
        "svg text{font:12px system-ui,sans-serif;fill:#333}"
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Prediction benchmark</title>"
        f"<style>{style}</style><h1>Prediction benchmark</h1>"
        f"<p>Command: <code>{html.escape(command)}</code></p>{''.join(sections)}</html>"
    )


def _curves(lines: Sequence[Line], metric: str) -> str:
    """Return learning curves where several training sizes were measured."""
    if len({line.size for line in lines}) < 3:
        return ""
    parts = []
    for split in dict.fromkeys(line.split for line in lines):
        points: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for line in sorted((x for x in lines if x.split == split), key=lambda x: x.n_train):
            if math.isfinite(line.value):
                spread = line.spread if math.isfinite(line.spread) else 0.0
                points[line.model].append((line.n_train, line.value, spread))
        parts.append(f"<h3>Learning curves, split: {html.escape(split)}</h3>")
        parts.append(curves(points, x_title="training rows", y_title=metric))
    return "".join(parts)


def _number(value: float) -> object:
    if math.isnan(value):
        return None
    return float(f"{value:.4g}")


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:g}" if isinstance(cell, float) else str(cell)
