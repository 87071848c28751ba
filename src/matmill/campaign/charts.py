"""Small charts as inline SVG: they need nothing but a browser, and print well."""

import html
import math
from collections.abc import Sequence

_BLUE, _GREY, _GREEN = "#2f6f9f", "#b9c2c9", "#cfe8d5"


def bars(counts: dict[str, int], *, width: int = 640) -> str:
    """Return horizontal bars, one a count, in the given order."""
    label_width, row, top = 250, 28, max([*counts.values(), 1])
    parts = []
    for i, (name, count) in enumerate(counts.items()):
        y = i * row
        length = (width - label_width - 60) * count / top
        parts.append(
            f'<text x="{label_width - 8}" y="{y + 19}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{label_width}" y="{y + 5}" width="{max(length, 1):.1f}" height="{row - 10}" '
            f'fill="{_BLUE}" rx="2"/>'
            f'<text x="{label_width + length + 6:.1f}" y="{y + 19}">{count:,}</text>'
        )
    return _svg(width, max(len(counts), 1) * row, parts, "Number of candidates after each step")


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
    low, high = _axis([*values, *([] if limit is None else [limit])])
    counts = [0] * n_bins
    for value in values:
        counts[min(int((value - low) / (high - low) * n_bins), n_bins - 1)] += 1
    frame = _Frame(low, high, 0.0, float(max(counts)), width, height)
    step = (high - low) / n_bins
    parts = frame.axes(title, "crystals")
    for i, count in enumerate(counts):
        if count:
            x, y = frame.point(low + i * step, count)
            right, bottom = frame.point(low + (i + 1) * step, 0.0)
            parts.append(
                f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{right - x - 1:.1f}" '
                f'height="{bottom - y:.1f}" fill="{_BLUE}"/>'
            )
    if limit is not None:
        x, _ = frame.point(limit, 0.0)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{frame.bottom}" stroke="#b03a2e" '
            'stroke-dasharray="4 3"/>'
        )
    return _svg(width, height, parts, title)


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
    start, end = _axis([*ends, *(x for x in (low, high) if math.isfinite(x))])
    height = 60 + 16 * len(rows)
    frame = _Frame(start, end, 0.0, float(len(rows)), width, height, left=110)
    left, _ = frame.point(max(low, start), 0.0)
    right, _ = frame.point(min(high, end), 0.0)
    parts = [
        f'<rect x="{left:.1f}" y="12" width="{max(right - left, 1):.1f}" '
        f'height="{frame.bottom - 12}" fill="{_GREEN}"/>',
        *frame.axes(title, "", has_y=False),
    ]
    for i, (name, mean, std) in enumerate(rows):
        x, y = frame.point(mean, len(rows) - i - 0.5)
        before, _ = frame.point(mean - std, 0.0)
        after, _ = frame.point(mean + std, 0.0)
        parts.append(
            f'<text x="102" y="{y + 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
            f'<line x1="{before:.1f}" x2="{after:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#345"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_BLUE}"/>'
        )
    return _svg(width, height, parts, title)


class _Frame:
    """Maps data to pixels and draws the axes."""

    def __init__(
        self,
        low: float,
        high: float,
        bottom: float,
        top: float,
        width: int,
        height: int,
        left: int = 44,
    ) -> None:
        self.x, self.y = (low, high), (bottom, max(top, bottom + 1e-12))
        self.left, self.right = left, width - 14
        self.top, self.bottom = 12, height - 42

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a data point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.right - self.left),
            self.bottom - up * (self.bottom - self.top),
        )

    def axes(self, x_title: str, y_title: str, *, has_y: bool = True) -> list[str]:
        """Return lines, ticks and titles."""
        middle = (self.left + self.right) / 2
        parts = [
            f'<path d="M{self.left} {self.top}V{self.bottom}H{self.right}" stroke="{_GREY}" '
            'fill="none"/>',
            f'<text x="{middle}" y="{self.bottom + 36}" text-anchor="middle">'
            f"{html.escape(x_title)}</text>",
        ]
        for tick in _ticks(*self.x):
            x, _ = self.point(tick, self.y[0])
            parts.append(
                f'<text x="{x:.1f}" y="{self.bottom + 17}" text-anchor="middle">{tick:g}</text>'
            )
        if has_y:
            for tick in (t for t in _ticks(*self.y) if t == int(t)):
                _, y = self.point(self.x[0], tick)
                parts.append(
                    f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
                )
            parts.append(
                f'<text x="12" y="{(self.top + self.bottom) / 2}" text-anchor="middle" '
                f'transform="rotate(-90 12 {(self.top + self.bottom) / 2})">'
                f"{html.escape(y_title)}</text>"
            )
        return parts


def _axis(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(abs(low) * 0.1, 0.1)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )
