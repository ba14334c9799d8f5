"""Scales, ticks, paths and markers of a figure, as inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

# One drawing area for all line figures; report.js redraws the lines of another language into the same frame.
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 26, 48
Band = tuple[Sequence[float | None], Sequence[float | None]]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them."""
    if not high > low:
        high = low + 1.0
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def x_position(index: int, count: int) -> float:
    return LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * (index / max(count - 1, 1))


def y_position(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def line_path(values: Sequence[float | None], low: float, high: float) -> str:
    """Path data of a line; an undefined value breaks it."""
    parts, pen_down = [], False
    for index, value in enumerate(values):
        if value is None:
            pen_down = False
            continue
        parts.append(
            f"{'L' if pen_down else 'M'}{x_position(index, len(values)):.1f} {y_position(value, low, high):.1f}"
        )
        pen_down = True
    return "".join(parts)


def band_path(lower: Sequence[float | None], upper: Sequence[float | None], low: float, high: float) -> str:
    """Path data of the area between two lines; where one is undefined there is none."""
    runs: list[list[tuple[int, float, float]]] = [[]]
    for index, (start, end) in enumerate(zip(lower, upper, strict=True)):
        if start is None or end is None:
            runs.append([])
        else:
            runs[-1].append((index, start, end))

    def point(index: int, value: float) -> str:
        return f"{x_position(index, len(lower)):.1f} {y_position(max(min(value, high), low), low, high):.1f}"

    outlines = [
        [point(i, end) for i, _, end in run] + [point(i, start) for i, start, _ in reversed(run)] for run in runs if run
    ]
    return "".join("M" + "L".join(outline) + "Z" for outline in outlines)


def frame(identity: str, title: str, description: str, low: float, high: float, ticks: Sequence[float]) -> list[str]:
    """The opened figure with its name, and the grid with the labels of the y axis."""
    out = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{identity}-t {identity}-d" '
        f'data-figure="{html.escape(identity)}" data-low="{low}" data-high="{high}">',
        f'<title id="{identity}-t">{html.escape(title)}</title><desc '
        f'id="{identity}-d">{html.escape(description)}</desc>',
        '<g class="grid" aria-hidden="true">',
    ]
    for tick in ticks:
        y = y_position(tick, low, high)
        out.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/><text class="tick y" x="{LEFT - 8}" '
            f'y="{y:.1f}">{tick_text(tick, ticks)}</text>'
        )
    return [*out, "</g>"]


def vertical_line(x: float, label: str) -> list[str]:
    right = x > WIDTH * 0.7
    return [
        f'<path class="mark" d="M{x:.1f} {TOP - 8}V{HEIGHT - BOTTOM}"/>',
        f'<text class="mark-label" x="{x + (-5 if right else 5):.1f}" y="{TOP - 12}"'
        f"{' style=text-anchor:end' if right else ''}>{html.escape(label)}</text>",
    ]


def marker(number: int, x: float, y: float, tip: str) -> str:
    # The same three shapes as in report.js: circle, square, diamond.
    shapes = (
        f"M{x - 3.5:.1f} {y:.1f}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0",
        f"M{x - 3.2:.1f} {y - 3.2:.1f}h6.4v6.4h-6.4z",
        f"M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
    )
    return f'<path d="{shapes[number % 3]}"><title>{html.escape(tip)}</title></path>'


def tick_text(value: float, ticks: Sequence[float]) -> str:
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    decimals = max(0, min(6, -math.floor(math.log10(step) + 1e-9)))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return f"{value + 0.0:.{decimals}f}".replace("-", "−")


def swatch(number: int) -> str:
    """The line sample of a legend entry."""
    line = (
        f'<path class="line s{number % 6}" d="M1 6H33"/><g class="dots s{number % 6}">{marker(number, 17, 6, "")}</g>'
    )
    return f'<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">{line}</svg>'
