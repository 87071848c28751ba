"""The charts of reports as inline SVG."""

import html
import math
from collections.abc import Sequence

from matmill.svg import BLUE, GREEN, RED, Frame, axis_of, picture


def bars(counts: dict[str, int], *, title: str, width: int = 640) -> str:
    """Return horizontal bars, one a count, in the given order.

    Args:
        counts: Name and count of each bar.
        title: What is counted, for readers that do not see.
        width: In pixels.
    """
    label_width, row, top = 250, 28, max([*counts.values(), 1])
    parts = []
    for i, (name, count) in enumerate(counts.items()):
        y = i * row
        length = (width - label_width - 60) * count / top
        parts.append(
            f'<text x="{label_width - 8}" y="{y + 19}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{label_width}" y="{y + 5}" width="{max(length, 1):.1f}" height="{row - 10}" '
            f'fill="{BLUE}" rx="2"/>'
            f'<text x="{label_width + length + 6:.1f}" y="{y + 19}">{count:,}</text>'
        )
    return picture(width, max(len(counts), 1) * row, parts, title)


def histogram(
    values: Sequence[float],
    *,
    title: str,
    limit: float | None = None,
    n_bins: int = 24,
    width: int = 420,
    height: int = 240,
) -> str:
    """Return a histogram of finite values.

    Args:
        values: What to count.
        title: Label of the axis, with the unit.
        limit: Where to draw a dashed line.
        n_bins: Number of bins.
        width: In pixels.
        height: In pixels.
    """
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return "<p>No values.</p>"
    low, high = axis_of([*values, *([] if limit is None else [limit])])
    counts = [0] * n_bins
    for value in values:
        counts[min(int((value - low) / (high - low) * n_bins), n_bins - 1)] += 1
    frame = Frame((low, high), (0.0, float(max(counts))), width, height)
    step = (high - low) / n_bins
    parts = frame.axes(title, "crystals")
    for i, count in enumerate(counts):
        if count:
            parts.append(frame.bar(low + i * step, low + (i + 1) * step, count))
    if limit is not None:
        x, _ = frame.point(limit, 0.0)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{frame.bottom}" stroke="{RED}" '
            'stroke-dasharray="4 3"/>'
        )
    return picture(width, height, parts, title)


def intervals(
    rows: Sequence[tuple[str, float, float]],
    *,
    title: str,
    low: float,
    high: float,
    width: int = 420,
) -> str:
    """Return predicted means with one standard deviation each, over the range that is wanted.

    Args:
        rows: (name, mean, standard deviation) of each crystal.
        title: Label of the axis, with the unit.
        low: Lower end of the target; -inf for none.
        high: Upper end; inf for none.
        width: In pixels.
    """
    rows = [(name, mean, std or 0.0) for name, mean, std in rows if math.isfinite(mean)]
    if not rows:
        return "<p>No values.</p>"
    ends = [x for _, mean, std in rows for x in (mean - std, mean + std)]
    start, end = axis_of([*ends, *(x for x in (low, high) if math.isfinite(x))])
    height = 60 + 16 * len(rows)
    frame = Frame((start, end), (0.0, float(len(rows))), width, height, left=110)
    left, _ = frame.point(max(low, start), 0.0)
    right, _ = frame.point(min(high, end), 0.0)
    parts = [
        f'<rect x="{left:.1f}" y="12" width="{max(right - left, 1):.1f}" '
        f'height="{frame.bottom - 12}" fill="{GREEN}"/>',
        *frame.axes(title, "", has_y=False),
    ]
    for i, (name, mean, std) in enumerate(rows):
        x, y = frame.point(mean, len(rows) - i - 0.5)
        before, _ = frame.point(mean - std, 0.0)
        after, _ = frame.point(mean + std, 0.0)
        parts.append(
            f'<text x="102" y="{y + 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
            f'<line x1="{before:.1f}" x2="{after:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#345"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{BLUE}"/>'
        )
    return picture(width, height, parts, title)


def compared(
    mine: Sequence[float],
    reference: Sequence[float],
    *,
    title: str,
    n_bins: int = 24,
    width: int = 420,
    height: int = 240,
) -> str:
    """Return a histogram of shares, with that of a reference as a line over it.

    The axis spans the middle 99 % of both, so that one absurd value hides nothing; the bins at
    the ends hold what lies beyond. Whole numbers of a small range get a bin each.

    Args:
        mine: Values, drawn as bars.
        reference: Values to compare with, drawn as a line; may be empty.
        title: Label of the axis, with the unit.
        n_bins: Number of bins of other values.
        width: In pixels.
        height: In pixels.
    """
    sides = [sorted(v for v in side if math.isfinite(v)) for side in (mine, reference)]
    if not sides[0]:
        return "<p>No values.</p>"
    ends = [v for side in sides if side for v in _middle(side)]
    low, high = axis_of(ends)
    if all(v == int(v) for side in sides for v in side) and max(ends) - min(ends) <= 2 * n_bins:
        low, high = min(ends) - 0.5, max(ends) + 0.5
        n_bins = int(high - low)
    shares = [_binned(side, low, high, n_bins) for side in sides]
    frame = Frame((low, high), (0.0, 100 * max(map(max, shares))), width, height)
    step = (high - low) / n_bins
    parts = frame.axes(title, "% of crystals", is_count=False)
    parts += [
        frame.bar(low + i * step, low + (i + 1) * step, 100 * share)
        for i, share in enumerate(shares[0])
        if share
    ]
    if sides[1]:
        x = [low + (i + k) * step for i in range(n_bins) for k in (0, 1)]
        parts.append(frame.line(x, [100 * share for share in shares[1] for _ in (0, 1)], color=RED))
    return picture(width, height, parts, title)


def paired_bars(
    mine: dict[str, float], reference: dict[str, float], *, title: str, width: int = 420
) -> str:
    """Return two horizontal bars a name, shares in [0, 1] of a set and of its reference.

    Args:
        mine: Share by name, in the order of the bars.
        reference: Share by name; may be empty.
        title: What is shown.
        width: In pixels.
    """
    label_width, row, top = 120, 28, max([*mine.values(), *reference.values(), 1e-9])
    parts = []
    for i, (name, share) in enumerate(mine.items()):
        y = i * row
        parts.append(
            f'<text x="{label_width - 8}" y="{y + 18}" text-anchor="end">{html.escape(name)}</text>'
        )
        for offset, value, color in ((4, share, BLUE), (15, reference.get(name), RED)):
            if value is None:
                continue
            length = (width - label_width - 70) * value / top
            parts.append(
                f'<rect x="{label_width}" y="{y + offset}" width="{max(length, 1):.1f}" '
                f'height="9" fill="{color}"/>'
                f'<text x="{label_width + length + 6:.1f}" y="{y + offset + 9}">'
                f"{100 * value:.1f} %</text>"
            )
    return picture(width, max(len(mine), 1) * row, parts, title)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the middle 99 % of sorted values."""
    cut = len(values) // 200
    return values[cut], values[len(values) - 1 - cut]


def _binned(values: Sequence[float], low: float, high: float, n_bins: int) -> list[float]:
    counts = [0] * n_bins
    for value in values:
        place = int((value - low) / (high - low) * n_bins)
        counts[min(max(place, 0), n_bins - 1)] += 1
    return [count / max(len(values), 1) for count in counts]
