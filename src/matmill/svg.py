"""The parts of small charts as inline SVG: they need nothing but a browser, and print well."""

import html
import math
from collections.abc import Sequence

BLUE, GREY, GREEN, RED = "#2f6f9f", "#b9c2c9", "#cfe8d5", "#b03a2e"


class Frame:
    """Maps data to pixels and draws the axes.

    Args:
        x: Lower and upper end of the horizontal axis.
        y: Lower and upper end of the vertical axis.
        width: In pixels.
        height: In pixels.
        left: Room for the labels of the vertical axis, in pixels.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        width: int,
        height: int,
        left: int = 44,
    ) -> None:
        self.x, self.y = x, (y[0], max(y[1], y[0] + 1e-12))
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

    def axes(
        self, x_title: str, y_title: str, *, has_y: bool = True, is_count: bool = True
    ) -> list[str]:
        """Return lines, ticks and titles; ticks of counts are whole numbers."""
        middle = (self.left + self.right) / 2
        parts = [
            f'<path d="M{self.left} {self.top}V{self.bottom}H{self.right}" stroke="{GREY}" '
            'fill="none"/>',
            f'<text x="{middle}" y="{self.bottom + 36}" text-anchor="middle">'
            f"{html.escape(x_title)}</text>",
        ]
        for tick in ticks(*self.x):
            x, _ = self.point(tick, self.y[0])
            parts.append(
                f'<text x="{x:.1f}" y="{self.bottom + 17}" text-anchor="middle">{tick:g}</text>'
            )
        if has_y:
            for tick in (t for t in ticks(*self.y) if t == int(t) or not is_count):
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

    def line(
        self, x: Sequence[float], y: Sequence[float], *, color: str = BLUE, is_dashed: bool = False
    ) -> str:
        """Return a line through data points; points that are not finite are left out."""
        pixels = [
            self.point(a, b)
            for a, b in zip(x, y, strict=True)
            if math.isfinite(a) and math.isfinite(b)
        ]
        dashes = ' stroke-dasharray="4 3"' if is_dashed else ""
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in pixels)
        return (
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>'
        )

    def dots(
        self,
        x: Sequence[float],
        y: Sequence[float],
        *,
        radius: float = 3.0,
        color: str = BLUE,
        opacity: float = 1.0,
    ) -> str:
        """Return a dot at each data point."""
        pixels = [self.point(a, b) for a, b in zip(x, y, strict=True)]
        circles = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius:g}"/>' for a, b in pixels)
        return f'<g fill="{color}" fill-opacity="{opacity:g}">{circles}</g>'

    def bar(self, low: float, high: float, value: float, *, color: str = BLUE) -> str:
        """Return a bar from 0 to ``value`` between two ends on the horizontal axis."""
        x, y = self.point(low, value)
        right, bottom = self.point(high, 0.0)
        return (
            f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{right - x - 1:.1f}" '
            f'height="{bottom - y:.1f}" fill="{color}"/>'
        )


def axis_of(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that shows all values with a margin."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(abs(low) * 0.1, 0.1)
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between two ends."""
    raw = (high - low) / 5.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def picture(width: int, height: int, parts: Sequence[str], title: str) -> str:
    """Return the parts as one picture, its title for readers that do not see."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )
