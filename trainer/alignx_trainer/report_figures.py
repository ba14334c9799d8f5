"""Figures of the report of a training run, on `alignx_eval.render.svg`, and the words that figures and tables share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from alignx_eval import wording
from alignx_eval.render import svg
from alignx_trainer.run_folder import Run, Values, finite_number

DRAWN_POINTS = 600  # of one line; more cannot be told apart
MEDIAN_POINTS = 300
LEAST_FOR_MEDIAN = 12  # steps; with fewer the line itself is clear
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# A measure of the validation: its number and its words


@dataclass(frozen=True)
class Measure:
    """One number of a validation."""

    value: float
    low: float | None
    high: float | None
    n: int | None


def measure(validation: dict[str, Any], name: str) -> Measure | None:
    """A number of a validation, None where it was not measured."""
    entry = validation.get(name)
    if not isinstance(entry, dict) or (value := finite_number(entry.get("value"))) is None:
        return None
    return Measure(
        value,
        finite_number(entry.get("ci_low")),
        finite_number(entry.get("ci_high")),
        n if isinstance(n := entry.get("n"), int) else None,
    )


def measure_title(name: str, validation: dict[str, Any]) -> str:
    layer = validation.get("align_layer")
    return {
        "precision_at_1": f"retrieval at the align layer{f' ({layer})' if layer is not None else ''}",
        "precision_at_1_last": "retrieval at the last layer",
        "language_identity": "language identity",
        "bits_per_byte": "bits per byte",
    }[name]


def step_title(step: int) -> str:
    return "before training" if step == 0 else f"step\u00a0{step:,}"


def interval_text(found: Measure) -> str:
    return (
        ""
        if found.low is None or found.high is None
        else f"[{wording.number(found.low)}, {wording.number(found.high)}]"
    )


def measure_text(found: Measure | None) -> str:
    """Value, interval and n in one phrase."""
    if found is None:
        return "–"
    size = f"n = {found.n}" if found.n is not None else ""
    rest = ", ".join(
        part for part in (f"95 % interval {interval_text(found)}" if interval_text(found) else "", size) if part
    )
    return f"{wording.number(found.value)}{f' ({rest})' if rest else ''}"


# What to draw of many steps


def thin_out(values: Sequence[float | None], limit: int = DRAWN_POINTS) -> list[int]:
    """At most `limit` places of `values` to draw, in order: the first, the last, and the extremes of equal stretches
    between them."""
    count = len(values)
    if count <= limit:
        return list(range(count))
    stretches = (limit - 2) // 2
    chosen = {0, count - 1}
    for stretch in range(stretches):
        places = range(stretch * count // stretches, (stretch + 1) * count // stretches)
        known = [(value, place) for place in places if (value := values[place]) is not None]
        # A stretch without values is drawn as a gap.
        chosen.update((min(known)[1], max(known)[1]) if known else (places[0],))
    return sorted(chosen)


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` places of `count`, evenly spread, with the first and the last."""
    if count <= limit:
        return list(range(count))
    return sorted({round(index * (count - 1) / (limit - 1)) for index in range(limit)})


def median_window(count: int) -> int:
    """Steps of the running median: an odd number, about a thirtieth of the run."""
    return max(5, count // 30) | 1


def running_median(values: Sequence[float | None], places: Sequence[int], window: int) -> Values:
    """Medians of the known values around each of `places`; at the ends the window is cut."""
    medians: Values = []
    for place in places:
        known = [value for value in values[max(0, place - window // 2) : place + window // 2 + 1] if value is not None]
        medians.append(median(known) if known else None)
    return medians


def scale_of(values: Sequence[float]) -> tuple[float, str]:
    """What to divide numbers by that are too large or small for an axis, and the words for it."""
    largest = max(map(abs, values), default=0.0)
    if largest == 0 or 0.01 <= largest < 10_000:
        return 1.0, ""
    exponent = 3 * math.floor(math.log10(largest) / 3)
    return 10.0**exponent, f"in 10{str(exponent).translate(SUPERSCRIPTS)}"


def highest_in_frame(values: Sequence[float]) -> float:
    """The top of the frame: the highest value, unless a few spikes would flatten all the rest."""
    if len(values) < 20:
        return max(values)
    parts = quantiles(values, n=50)
    spread = parts[-1] - parts[0]
    return parts[-1] + spread if max(values) > parts[-1] + 4 * spread > parts[-1] else max(values)


# What chance, and knowing nothing, would give


def contrastive_chance(run: Run) -> Values:
    """Share of anchors whose own target would be the nearest by chance: 1 / pairs that are contrasted with each
    other."""
    batch, micro = run.recipe.get("batch_size") or 1, run.recipe.get("micro_batch_size") or 1
    pools = max(1, batch // micro) if run.recipe.get("negatives") == "micro" else 1
    return [pools / pairs if pairs else None for pairs in run.values("pairs")]


def uniform_contrastive_loss(run: Run) -> Values:
    """The contrastive loss of vectors that tell nothing apart."""
    factor = 0.5 if run.recipe.get("contrastive") == "official_code" else 1.0
    return [-factor * math.log(chance) if chance else None for chance in contrastive_chance(run)]


def matching_chance(run: Run) -> Values:
    """Accuracy of the classifier that always gives the more frequent answer."""
    return [None if share is None else max(share, 1 - share) for share in run.values("same_language_share")]


def ignorant_matching_loss(run: Run) -> Values:
    """The matching loss of a classifier that knows only how frequent the answers are."""
    return [
        None if share is None else -sum(part * math.log(part) for part in (share, 1 - share) if part > 0)
        for share in run.values("same_language_share")
    ]


# Curves over the steps


def _path(points: Sequence[tuple[int, float | None]], last: int, low: float, high: float) -> str:
    """Path data of a line through (step, value); an undefined value breaks it, what is beyond the frame lies on its
    edge."""
    parts, pen_down = [], False
    for step, value in points:
        if value is not None:
            x, y = svg.x_position(step, last + 1), svg.y_position(max(low, min(high, value)), low, high)
            parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = value is not None
    return "".join(parts)


def _open_figure(identity: str, title: str, description: str, last: int, ticks: Sequence[float]) -> list[str]:
    """The figure with its name, its grid and an axis of steps from 0 to `last`."""
    out = svg.frame(identity, title, description, ticks[0], ticks[-1], ticks)
    for tick in svg.nice_ticks(0, last, 5):
        if tick == int(tick) and tick <= last:
            x = svg.x_position(int(tick), last + 1)
            out.append(f'<text class="tick x" x="{x:.1f}" y="{svg.HEIGHT - svg.BOTTOM + 20}">{int(tick):,}</text>')
    middle = (svg.LEFT + svg.WIDTH - svg.RIGHT) / 2
    return [*out, f'<text class="axis" x="{middle:.0f}" y="{svg.HEIGHT - 8}">step</text>']


def curve_figure(
    run: Run,
    name: str,
    title: str,
    note: str,
    *,
    level: Values | None = None,
    from_zero: bool = False,
    smooth: bool = True,
) -> dict[str, Any] | None:
    """A number of the log over the steps; None where the log has none. `level` is a line to read it against, a value a
    step.

    The result has the figure's `title`, `note` and `figure`.
    """
    values = run.values(name)
    known = [value for value in values if value is not None]
    if not known:
        return None
    smooth = smooth and len(known) >= LEAST_FOR_MEDIAN
    divisor, unit = scale_of(known)
    top, beside = highest_in_frame(known), [value for value in level or [] if value is not None]
    ticks = svg.nice_ticks(
        min([*known, *beside, *([0.0] if from_zero else [])]) / divisor,
        max(top, *beside) / divisor if beside else top / divisor,
        5,
    )
    low, high = ticks[0], ticks[-1]
    steps = [int(line["step"]) for line in run.lines]

    def line(places: Sequence[int], heights: Sequence[float | None]) -> str:
        points = [
            (steps[place], None if height is None else height / divisor)
            for place, height in zip(places, heights, strict=True)
        ]
        return _path(points, run.steps, low, high)

    spread = evenly(len(steps), MEDIAN_POINTS)
    window = median_window(len(steps))
    out = _open_figure(f"curve-{name}", f"{title} by step", note, run.steps, ticks)
    if level is not None and beside:
        out.append(f'<path class="level" d="{line(spread, running_median(level, spread, window))}"/>')
    places = thin_out(values)
    raw = line(places, [values[place] for place in places])
    out.append(f'<path class="{"thin raw" if smooth else "line"} s2" d="{raw}"/>')
    if smooth:
        out.append(f'<path class="line s2" d="{line(spread, running_median(values, spread, window))}"/>')
    elif len(known) <= 40:
        out.append('<g class="dots s2">')
        for step, value in zip(steps, values, strict=True):
            if value is not None:
                x, y = (
                    svg.x_position(step, run.steps + 1),
                    svg.y_position(min(high, value / divisor), low, high),
                )
                out.append(svg.marker(2, x, y, f"step {step}: {value:.6g}"))
        out.append("</g>")
    outside = sum(value / divisor > high * (1 + 1e-9) for value in known)  # a division can land just above a tick
    if outside:
        words = "step is" if outside == 1 else "steps are"
        note = f"{note}; {outside} {words} above the frame, the highest {wording.number(max(known) / divisor)}"
    return {"title": f"{title}, {unit}" if unit else title, "note": note, "figure": "".join([*out, "</svg>"])}


def loss_figures(run: Run) -> list[dict[str, Any]]:
    """The losses that were on, and their accuracies."""
    drawn = [
        curve_figure(run, "lm", "Next-token loss", "nats per token that is trained on; ↓ lower is better"),
        curve_figure(
            run,
            "contrastive",
            "Contrastive loss",
            "↓ lower is better; dashed: vectors that tell nothing apart",
            level=uniform_contrastive_loss(run),
        ),
        curve_figure(
            run,
            "contrastive_accuracy",
            "Contrastive accuracy",
            "share of sources whose own target is the nearest, partly trivial (see below); dashed: chance",
            level=contrastive_chance(run),
            from_zero=True,
        ),
        curve_figure(
            run,
            "matching",
            "Matching loss",
            "↓ lower is better; dashed: knowing only how frequent one language is",
            level=ignorant_matching_loss(run),
        ),
        curve_figure(
            run,
            "matching_accuracy",
            "Matching accuracy",
            "share of pairs judged rightly, one language or two; dashed: chance",
            level=matching_chance(run),
        ),
    ]
    return [figure for figure in drawn if figure is not None]


def run_figures(run: Run) -> list[dict[str, Any]]:
    """How the optimizer and the machine went."""
    limit = run.recipe.get("max_grad_norm")
    drawn = [
        curve_figure(run, "learning_rate", "Learning rate", "as the schedule sets it", from_zero=True, smooth=False),
        curve_figure(
            run,
            "grad_norm",
            "Gradient norm",
            f"before it is clipped{f' to {limit:g}' if limit else ''}",
            from_zero=True,
        ),
        curve_figure(run, "tokens_per_second", "Tokens per second", "of each step", from_zero=True),
    ]
    return [figure for figure in drawn if figure is not None]


# Figures of the validation

# Of each: title, note, chance (of a validation), names of its lines in the log.
VALIDATION_FIGURES: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None], tuple[str, ...]], ...] = (
    (
        "Retrieval (precision@1)",
        "share of sentences whose nearest neighbour in the other language is their translation; ↑ higher is better",
        lambda validation: 1 / lines if (lines := finite_number(validation.get("lines"))) else None,
        ("precision_at_1", "precision_at_1_last"),
    ),
    (
        "Language identity",
        "share of sentences whose language a linear probe names in the last layer; ↑ higher is better",
        lambda validation: 1 / len(validation["languages"]) if validation.get("languages") else None,
        ("language_identity",),
    ),
    ("Bits per byte", "of the model on the sentences; ↓ lower is better", lambda validation: None, ("bits_per_byte",)),
)


def validation_figure(run: Run, shown: Sequence[tuple[int, dict[str, Any]]], number: int) -> dict[str, Any] | None:
    title, note, chance_of, names = VALIDATION_FIGURES[number]
    series = {
        name: [(step, found) for step, validation in shown if (found := measure(validation, name))] for name in names
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    chance = chance_of(shown[-1][1])
    every = [found for points in series.values() for _, found in points]
    heights = [each for found in every for each in (found.value, found.low, found.high) if each is not None]
    # Chance far below everything would flatten the lines; then only the words name it.
    drawn = chance is not None and min(heights) - chance < 2 * (max(heights) - min(heights))
    ticks = svg.nice_ticks(min([*heights, *([chance] if drawn and chance is not None else [])]), max(heights), 4)
    low, high, last = ticks[0], ticks[-1], run.steps
    out = _open_figure(f"validation-{number}", f"{title} by step", note, last, ticks)
    right = svg.WIDTH - svg.RIGHT
    if chance is not None:
        note = f"{note}; {'dashed: ' if drawn else ''}chance {wording.number(chance)}"
    if chance is not None and drawn:
        out.append(f'<path class="level" d="M{svg.LEFT} {svg.y_position(chance, low, high):.1f}H{right}"/>')
    if run.kept_step != run.steps:
        out += svg.vertical_line(svg.x_position(run.kept_step, last + 1), f"kept: step {run.kept_step}")
    for index, (name, points) in enumerate(series.items()):
        style = 2 + index
        # Intervals of two lines stand beside each other.
        places = [(svg.x_position(step, last + 1) + 4 * index, found) for step, found in points]
        bars = [
            f"M{x:.1f} {svg.y_position(found.low, low, high):.1f}V{svg.y_position(found.high, low, high):.1f}"
            for x, found in places
            if found.low is not None and found.high is not None
        ]
        line = "L".join(f"{x:.1f} {svg.y_position(found.value, low, high):.1f}" for x, found in places)
        out.append(
            f'<path class="bars s{style}" d="{"".join(bars)}"/><path class="line s{style}" d="M{line}"/><g '
            f'class="dots s{style}">'
        )
        for (x, found), (step, _) in zip(places, points, strict=True):
            tip = f"{measure_title(name, shown[-1][1])}, {step_title(step)}: {measure_text(found)}"
            out.append(svg.marker(style, x, svg.y_position(found.value, low, high), tip))
        out.append("</g>")
    keys = [(svg.swatch(2 + index), measure_title(name, shown[-1][1])) for index, name in enumerate(series)]
    return {"title": title, "note": note, "figure": "".join([*out, "</svg>"]), "keys": keys if len(keys) > 1 else []}
