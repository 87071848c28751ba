"""Learning curves as inline SVG on logarithmic axes."""

import html
import math
from collections.abc import Mapping, Sequence

_COLOURS = ("#2f6f9f", "#c4582b", "#3c8d53", "#7b5aa6", "#b08a1e", "#5b6770", "#b34a7d")
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 12, 44


def curves(
    points: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    x_title: str,
    y_title: str,
    width: int = 640,
    height: int = 320,
) -> str:
    """Return one line a model with error bars, both axes logarithmic.

    Args:
        points: By name: x, y and half the height of the error bar; x and y positive.
        x_title: Label of the axis.
        y_title: Label with the unit.
        width: In pixels.
        height: In pixels.
    """
    flat = [p for line in points.values() for p in line if p[0] > 0 and p[1] > 0]
    if not flat:
        return "<p>No values.</p>"
    x_low, x_high = min(p[0] for p in flat), max(p[0] for p in flat)
    y_low, y_high = min(p[1] for p in flat) / 1.1, max(p[1] for p in flat) * 1.1
    x_high = x_high if x_high > x_low else x_low * 2

    def place(x: float, y: float) -> tuple[float, float]:
        along = math.log(x / x_low) / math.log(x_high / x_low)
        up = math.log(min(max(y, y_low), y_high) / y_low) / math.log(y_high / y_low)
        return (
            _LEFT + along * (width - _LEFT - _RIGHT),
            height - _BOTTOM - up * (height - _TOP - _BOTTOM),
        )

    parts = [
        f'<path d="M{_LEFT} {_TOP}V{height - _BOTTOM}H{width - _RIGHT}" fill="none" '
        'stroke="#888"/>',
        f'<text x="{(width - _RIGHT + _LEFT) / 2}" y="{height - 6}" text-anchor="middle">'
        f"{html.escape(x_title)}</text>",
        f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_title)}</text>",
    ]
    for x in sorted({p[0] for p in flat}):
        left, _ = place(x, y_low)
        parts.append(
            f'<text x="{left:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
        )
    for y in _ticks(y_low, y_high):
        _, down = place(x_low, y)
        parts.append(
            f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{y:g}</text>'
            f'<path d="M{_LEFT} {down:.1f}H{width - _RIGHT}" stroke="#eee"/>'
        )
    for number, (name, line) in enumerate(points.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        usable = [p for p in line if p[0] > 0 and p[1] > 0]
        if not usable:
            continue
        spots = [place(x, y) for x, y, _ in usable]
        route = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{route}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y, half), (left, down) in zip(usable, spots, strict=True):
            _, high = place(x, y + half)
            _, low = place(x, max(y - half, y_low))
            parts.append(
                f'<path d="M{left:.1f} {high:.1f}V{low:.1f}" stroke="{colour}"/>'
                f'<circle cx="{left:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>'
            )
        parts.append(
            f'<text x="{width - _RIGHT + 10}" y="{_TOP + 14 + 18 * number}" '
            f'style="fill:{colour}">{html.escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" aria-label="{html.escape(y_title)} by {html.escape(x_title)}">'
        f"{''.join(parts)}</svg>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between, at 1, 2 and 5 times powers of ten."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    options = [base * 10.0**power for power in range(first, last + 1) for base in (1, 2, 5)]
    return [float(f"{value:.6g}") for value in options if low <= value <= high]
