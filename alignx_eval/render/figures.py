"""Figures of the report as inline SVG with real text: crisp at any size, coloured by the page's style sheet, readable
in print."""

from __future__ import annotations

import html
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import groupby

from alignx_eval.render.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Band,
    band_path,
    frame,
    line_path,
    marker,
    nice_ticks,
    vertical_line,
    x_position,
    y_position,
)


def line_figure(
    identity: str,
    *,
    title: str,
    description: str,
    layers: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    bands: Mapping[str, Band],
    styles: Mapping[str, int],
    low: float,
    high: float,
    ticks: Sequence[float],
    levels: Sequence[tuple[str, float]] = (),
    marked: Sequence[tuple[str, str]] = (),
    thin: Mapping[str, Sequence[float | None]] | None = None,
) -> str:
    """Curves over layers. `levels` are horizontal reference lines (name, value); `marked` are vertical ones (layer,
    label); `thin` are lines to compare the curves with.

    `styles` gives each series its number: colour, dash and marker hang on the CSS classes s0, s1, ...
    """
    out = frame(identity, title, description, low, high, ticks)
    every = max(1, math.ceil(len(layers) / 9))
    labelled = [i for i, layer in enumerate(layers) if "+" not in layer and i % every == 0]
    if layers and "+" in layers[-1]:  # its label needs room
        labelled = [i for i in labelled if x_position(len(layers) - 1, len(layers)) - x_position(i, len(layers)) > 50]
    for index, layer in enumerate(layers):
        norm = "+" in layer
        if index in labelled or norm:
            anchor = ' style="text-anchor:end"' if norm and index == len(layers) - 1 else ""
            x = WIDTH - RIGHT if anchor else x_position(index, len(layers))
            text = "+norm" if norm else html.escape(layer)
            # The state after the final norm is no further block: its label stands one line lower.
            out.append(
                f'<text class="tick x{" norm" if norm else ""}" x="{x:.1f}" '
                f'y="{HEIGHT - BOTTOM + 20}"{anchor}>{text}</text>'
            )
    out.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}">layer (0 = embeddings)</text>'
    )
    for layer, label in marked:
        if layer in layers:
            x = x_position(list(layers).index(layer), len(layers))
            out += vertical_line(x, label)
    used: list[float] = []
    names: list[str] = []  # drawn last, so that their halo keeps them legible on the lines
    for name, value in levels:
        if not low <= value <= high:
            continue
        y = y_position(value, low, high)
        # Names of lines that lie close together are moved apart; the line itself stays where it is.
        label_y = y - 5
        while any(abs(label_y - other) < 19 for other in used):
            label_y -= 19
        used.append(label_y)
        out.append(f'<path class="level" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        names.append(f'<text class="level-label" x="{LEFT + 4}" y="{label_y:.1f}">{html.escape(name)}</text>')
    for name, band in bands.items():
        out.append(
            f'<path class="band s{styles[name] % 6}" data-band="{styles[name]}" d="{band_path(*band, low, high)}"/>'
        )
    for name, curve in (thin or {}).items():
        out.append(
            f'<path class="thin s{styles[name] % 6}" data-thin="{styles[name]}" d="{line_path(curve, low, high)}"/>'
        )
    for name, curve in series.items():
        number = styles[name]
        out.append(f'<path class="line s{number % 6}" data-line="{number}" d="{line_path(curve, low, high)}"/>')
        out.append(f'<g class="dots s{number % 6}" data-dots="{number}">')
        if len(layers) <= 40:
            for index, height in enumerate(curve):
                if height is not None:
                    x, y = x_position(index, len(layers)), y_position(height, low, high)
                    out.append(marker(number, x, y, f"{name}, layer {layers[index]}: {height:.3f}"))
        out.append("</g>")
    out += [*names, "</svg>"]
    return "".join(out)


def trajectory_figure(
    identity: str,
    *,
    title: str,
    description: str,
    axis: str,
    steps: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[tuple[float, float] | None],
    outcomes: Sequence[str | None],
    tips: Sequence[str],
    failure: tuple[int, str] | None,
) -> str:
    """One number over the steps of a training, evenly spaced; the first is the base, whose value is a horizontal line.

    `intervals` are error bars around the values. Markers have the shape and colour of the step's gate outcome (see
    `outcome_shape`; None: the base). `failure` is the place and label of a vertical line.
    """
    numbers = [value for value in values if value is not None] + [end for ends in intervals if ends for end in ends]
    ticks = nice_ticks(min(numbers), max(numbers), 4)
    low, high = ticks[0], ticks[-1]
    out = frame(identity, title, description, low, high, ticks)
    # Labels as wide as they are on a phone, where the figure is small and its text large.
    shown = [name if len(name) <= 13 else f"…{name[-12:]}" for name in steps]
    room = max(2, int((WIDTH - LEFT - RIGHT) / (10 * max(map(len, shown)) + 14)))
    every = max(1, math.ceil((len(steps) - 1) / (room - 1)))
    for index in range(0, len(steps), every):
        x = x_position(index, len(steps))
        # A long label at the right edge would leave the figure.
        end = x + 5 * len(shown[index]) > WIDTH
        place = f'x="{WIDTH if end else x:.1f}" y="{HEIGHT - BOTTOM + 20}"{" style=text-anchor:end" if end else ""}'
        out.append(f'<text class="tick x" {place}>{html.escape(shown[index])}</text>')
    out.append(f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}">{html.escape(axis)}</text>')
    if values[0] is not None:
        out.append(f'<path class="level" d="M{LEFT} {y_position(values[0], low, high):.1f}H{WIDTH - RIGHT}"/>')
    if failure is not None:
        out += vertical_line(x_position(failure[0], len(steps)), failure[1])
    bars = [
        f"M{x_position(index, len(steps)):.1f} "
        f"{y_position(ends[0], low, high):.1f}V{y_position(ends[1], low, high):.1f}"
        for index, ends in enumerate(intervals)
        if ends is not None
    ]
    out.append(
        f'<path class="bars" d="{"".join(bars)}"/><path class="line s2" d="{line_path(values, low, high)}"/><g '
        'class="outcomes">'
    )
    for index, value in enumerate(values):
        if value is not None:
            x, y = x_position(index, len(steps)), y_position(value, low, high)
            name = outcomes[index] or "base"
            out.append(
                f'<path class="o-{name}" '
                f'd="{outcome_shape(name, x, y)}"><title>{html.escape(tips[index])}</title></path>'
            )
    return "".join([*out, "</g></svg>"])


def outcome_shape(outcome: str, x: float, y: float) -> str:
    """Path data of a marker: base a square, pass a circle, inconclusive a triangle, incomplete a diamond, fail a
    cross."""
    if outcome == "fail":
        arms = "l2.2 -2.2l3.3 3.3l3.3 -3.3l2.2 2.2l-3.3 3.3l3.3 3.3l-2.2 2.2l-3.3 -3.3l-3.3 3.3l-2.2 -2.2l3.3 -3.3z"
        return f"M{x - 5.5:.1f} {y - 3.3:.1f}{arms}"
    if outcome == "inconclusive":
        return f"M{x - 5:.1f} {y + 4:.1f}h10l-5 -9z"
    if outcome == "incomplete":
        return f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"
    if outcome == "pass":
        return f"M{x - 4.2:.1f} {y:.1f}a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0"
    return f"M{x - 3.8:.1f} {y - 3.8:.1f}h7.6v7.6h-7.6z"


def outcome_key(outcome: str) -> str:
    """The marker of a legend entry."""
    shape = f'<path class="o-{outcome}" d="{outcome_shape(outcome, 7, 7)}"/>'
    return f'<svg class="key outcomes" viewBox="0 0 14 14" aria-hidden="true">{shape}</svg>'


def loss_mark(low: float | None, loss: float | None, high: float | None, tolerance: float | None, status: str) -> str:
    """A loss with its interval in units of the tolerance: a line at 0, a dashed one at the tolerance; cut at -1.5 and
    2.5 of it."""
    if loss is None or not tolerance:
        return ""

    def x(number: float) -> float:
        return 4 + 28 * (max(-1.5, min(2.5, number / tolerance)) + 1.5)

    bar = f'<path class="i" d="M{x(low):.1f} 8H{x(high):.1f}"/>' if low is not None and high is not None else ""
    lines = f'<path class="z" d="M{x(0):.0f} 0V16"/><path class="t" d="M{x(tolerance):.0f} 0V16"/>'
    drawn = f'{lines}{bar}<circle cx="{x(loss):.1f}" cy="8" r="3.4"/>'
    return f'<svg class="forest g-{status}" viewBox="0 0 120 16" aria-hidden="true">{drawn}</svg>'


def interval_mark(low: float | None, value: float | None, high: float | None, scale: float, verdict: str) -> str:
    """A difference with its interval around a zero line, on a scale from -scale to +scale."""
    if value is None or not scale > 0:
        return ""

    def x(number: float) -> float:
        return 60 + 56 * max(-1.0, min(1.0, number / scale))

    bar = f'<path class="i" d="M{x(low):.1f} 8H{x(high):.1f}"/>' if low is not None and high is not None else ""
    drawn = f'<path class="z" d="M60 0V16"/>{bar}<circle cx="{x(value):.1f}" cy="8" r="3.4"/>'
    return f'<svg class="forest v-{verdict}" viewBox="0 0 120 16" aria-hidden="true">{drawn}</svg>'


def scatter_figure(
    identity: str,
    *,
    title: str,
    description: str,
    points: Sequence[tuple[str, float, float]],
    styles: Mapping[str, int],
) -> str:
    """A projection to two dimensions. Points are (group, x, y); `styles` gives each group its number (see
    `scatter_shape`)."""
    size, margin = 320, 12
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    low_x, low_y = min(xs), min(ys)
    # One scale for both axes: distances must not depend on the direction.
    span = max(max(xs) - low_x, max(ys) - low_y) or 1.0
    pad_x, pad_y = (span - (max(xs) - low_x)) / 2, (span - (max(ys) - low_y)) / 2
    out = [
        f'<svg class="plot scatter" viewBox="0 0 {size} {size}" role="img" aria-labelledby="{identity}-t '
        f'{identity}-d">',
        f'<title id="{identity}-t">{html.escape(title)}</title><desc '
        f'id="{identity}-d">{html.escape(description)}</desc>',
        f'<rect class="frame" x=".5" y=".5" width="{size - 1}" height="{size - 1}"/>',
    ]
    paths: dict[str, list[str]] = {}
    for group, x, y in points:
        px = margin + (size - 2 * margin) * (x - low_x + pad_x) / span
        py = size - margin - (size - 2 * margin) * (y - low_y + pad_y) / span
        paths.setdefault(group, []).append(scatter_shape(styles[group], px, py))
    for group, shapes in paths.items():
        number = styles[group]
        out.append(
            f'<path class="g{number % 8}" data-group="{number}" '
            f'd="{"".join(shapes)}"><title>{html.escape(group)}</title></path>'
        )
    out.append("</svg>")
    return "".join(out)


def scatter_shape(number: int, x: float, y: float) -> str:
    """Path data of a point, as short as can be: there are tens of thousands. 8 colours (classes g0 to g7) times 8
    shapes tell 64 apart."""
    shape = (number // 8 + number) % 8
    if shape == 0:  # circle
        return f"M{x:.0f} {y - 3:.0f}a3 3 0 1 0 1 0z"
    if shape == 1:  # square
        return f"M{x - 3:.0f} {y - 3:.0f}h6v6h-6z"
    if shape == 2:  # triangle
        return f"M{x:.0f} {y - 4:.0f}l4 7h-8z"
    if shape == 3:  # diamond
        return f"M{x - 4:.0f} {y:.0f}l4-4 4 4-4 4z"
    if shape == 4:  # triangle, point down
        return f"M{x:.0f} {y + 4:.0f}l4-7h-8z"
    if shape == 5:  # plus
        return f"M{x - 1:.0f} {y - 4:.0f}h2v3h3v2h-3v3h-2v-3h-3v-2h3z"
    if shape == 6:  # flat bar
        return f"M{x - 5:.0f} {y - 1:.0f}h10v3h-10z"
    return f"M{x - 1:.0f} {y - 5:.0f}h3v10h-3z"  # upright bar


def scatter_key(number: int) -> str:
    """The marker of a legend entry."""
    return (
        f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true"><path class="g{number % 8}" '
        f'd="{scatter_shape(number, 6, 6)}"/></svg>'
    )


# Lower ends of the nine darker of ten shades.
EVEN_SHADES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def heat_map(
    identity: str,
    *,
    title: str,
    description: str,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    shades: Sequence[float],
    axes: tuple[str, str] = ("", ""),
) -> str:
    """A table of cells in ten shades, light to dark, which change at `shades`; undefined cells stay empty. The exact
    numbers are in the files beside the report. `axes` are titles of the rows and of the columns.
    """
    cell = max(12, min(34, 420 // max(len(rows), len(columns), 1)))
    # Labels stand at the left and, upright, above; titles of the axes outside of them.
    axis = 18 if any(axes) else 0
    left, top = (axis + 10 + round(7 * max(map(len, names), default=0)) for names in (rows, columns))
    width, height = left + cell * len(columns) + 2, top + cell * len(rows) + 2
    out = [
        f'<svg class="plot heat" viewBox="0 0 {width} {height}" '
        f'style="max-width:{width}px;min-width:{0.7 * width:.0f}px" '
        f'role="img" aria-labelledby="{identity}-t {identity}-d">',
        f'<title id="{identity}-t">{html.escape(title)}</title><desc '
        f'id="{identity}-d">{html.escape(description)}</desc>',
    ]
    # Neighbours of one shade in a row are one thick stroke: of 51 languages there are thousands of cells.
    strokes: dict[int, list[str]] = {}
    for i, line in enumerate(values):
        x = left
        for shade, run in groupby(None if value is None else bisect_right(shades, value) for value in line):
            length = cell * len(list(run))
            if shade is not None:
                strokes.setdefault(shade, []).append(f"M{x} {top + (i + 0.5) * cell:g}h{length}")
            x += length
    for shade, paths in sorted(strokes.items()):
        title_of_shade = f"<title>{shade_range(shade, shades)}</title>"
        out.append(f'<path class="h{shade}" stroke-width="{cell}" d="{"".join(paths)}">{title_of_shade}</path>')
    middle = (
        f'transform="translate(11 {top + cell * len(rows) / 2:.0f}) rotate(-90)"',
        f'x="{left + cell * len(columns) / 2:.0f}" y="11"',
    )
    out += [
        f'<text class="axis" {place}>{html.escape(name)}</text>'
        for name, place in zip(axes, middle, strict=True)
        if name
    ]
    out += [
        f'<text class="heat-label" x="{left - 4}" y="{top + (i + 0.5) * cell + 4:g}" '
        f'style="text-anchor:end">{html.escape(name)}</text>'
        for i, name in enumerate(rows)
    ]
    out += [
        f'<text class="heat-label" transform="translate({left + (j + 0.5) * cell + 4:g} {top - 4}) '
        f'rotate(-90)">{html.escape(name)}</text>'
        for j, name in enumerate(columns)
    ]
    out.append("</svg>")
    return "".join(out)


def shade_range(shade: int, shades: Sequence[float]) -> str:
    """What a shade stands for: "below 0.1", "0.1 to 0.2", "0.9 and above"."""
    if shade == 0:
        return f"below {shades[0]:g}"
    return f"{shades[-1]:g} and above" if shade == len(shades) else f"{shades[shade - 1]:g} to {shades[shade]:g}"


def shade_key(identity: str, shades: Sequence[float]) -> str:
    """The legend of a heat map: its ten shades, and where each ends."""
    cell = 34
    ranges = ", ".join(shade_range(shade, shades) for shade in range(len(shades) + 1))
    out = [
        f'<svg class="plot shades" viewBox="0 0 {cell * (len(shades) + 1)} 30" role="img" '
        f'aria-labelledby="{identity}">',
        f'<title id="{identity}">Shades from light to dark: {ranges}</title>',
    ]
    out += [
        f'<path class="h{shade}" stroke-width="12" d="M{shade * cell} 6h{cell}"/>' for shade in range(len(shades) + 1)
    ]
    out += [
        f'<text class="axis" x="{(place + 1) * cell}" y="26">{bound:g}</text>' for place, bound in enumerate(shades)
    ]
    return "".join([*out, "</svg>"])
