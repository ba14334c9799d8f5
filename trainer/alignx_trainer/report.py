"""The report of a training run: one self-contained HTML file of its log, its recipe and, once it has finished, its provenance."""

from __future__ import annotations

import html
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from alignx_eval.assets import asset_folder
from alignx_eval.errors import InputError
from alignx_eval.render import figures, view
from alignx_eval.run_directory import atomic_write

DRAWN_POINTS = 600  # of one line; more cannot be told apart
MEDIAN_POINTS = 300
MEASUREMENTS = 100  # of the validation, drawn and in the table
LEAST_FOR_MEDIAN = 12  # steps; with fewer the line itself is clear
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Values = list[float | None]


@dataclass(frozen=True)
class Run:
    """What a training run left in its folder."""

    name: str  # of the recipe, as well as can be told
    recipe: dict[str, Any]
    recipe_hash: str
    lines: list[dict[str, Any]]  # of the log, one a step, in order
    validations: list[tuple[int, dict[str, Any]]]  # step and measurement, in order; step 0: before training
    stage: dict[str, Any] | None  # the provenance of this stage; None while the run is not finished
    init: dict[str, Any] | None

    @property
    def steps(self) -> int:
        """Steps that the log holds."""
        return int(self.lines[-1]["step"])

    def values(self, name: str) -> Values:
        return [_number(line.get(name)) for line in self.lines]

    def fact(self, name: str) -> Any:
        """Of the finished stage; None while there is none or it does not record this."""
        return (self.stage or {}).get(name)

    @property
    def stopped(self) -> str | None:
        """Why the run ended early, None if it did not."""
        reasons = [self.fact("stopped"), *(line.get("stopped") for line in reversed(self.lines))]
        return next((str(reason) for reason in reasons if reason), None)


@dataclass(frozen=True)
class Measure:
    """One number of a validation."""

    value: float
    low: float | None
    high: float | None
    n: int | None


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html, as a whole or not at all, and return its path. Raises InputError as `render` does."""
    path = Path(folder) / "report.html"
    atomic_write(path, render(folder))
    return path


def render(folder: Path) -> str:
    """The report of the run in `folder`, finished or not, as HTML text that encodes to UTF-8.

    Raises InputError where `folder` is no folder of a training run, holds no step yet, or a file in it is damaged.
    """
    import jinja2
    from markupsafe import Markup

    run = read_run(Path(folder))
    place = asset_folder("reports")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(place),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(view=view, svg=Markup, figures=figures)
    page = environment.get_template("training.html.j2").render(
        run=run,
        css=Markup((place / "report.css").read_text(encoding="utf-8")),
        progress=progress_sentence(run),
        sentences=summary(run),
        losses=loss_table(run),
        parts=[
            ("losses", "Losses", loss_figures(run)),
            ("run", "Learning rate, gradient and speed", run_figures(run)),
        ],
        pairs=round(median(pairs)) if (pairs := [value for value in run.values("pairs") if value]) else None,
        window=median_window(len(run.lines)) if len(run.lines) >= LEAST_FOR_MEDIAN else None,
        validation=validation_part(run),
        no_validation=no_validation_sentence(run),
        recipe={name: plain_text(value) for name, value in run.recipe.items()},
        data=data_table(run),
        facts=run_facts(run),
    )
    for text in ("95 % ", "n = "):  # not to be broken between lines
        page = page.replace(text, text.replace(" ", "\u00a0"))
    return view.clean(page)


# --- reading ----------------------------------------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises InputError where that is no folder of a run, holds no step yet, or a file in it is damaged."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: {'is no folder' if folder.exists() else 'does not exist'}; give the output folder of a training run"
        )
    entries = logged_steps(folder / "log.jsonl")
    mark = _read_object(folder / "recipe.json")
    recipe = mark.get("recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"{folder / 'recipe.json'}: holds no recipe")
    provenance = _read_provenance(folder / "model.pt")
    stages = provenance.get("stages") or []
    stage = stages[-1] if stages and isinstance(stages[-1], dict) else None
    lines = [entry for entry in entries if entry["step"] > 0]
    if not lines:
        raise InputError(f"{folder / 'log.jsonl'}: holds no step yet; the report can be made after the first one")
    return Run(
        name=_recipe_name(mark, stage, folder),
        recipe=view.finite(recipe),
        recipe_hash=str(mark.get("sha256") or ""),
        lines=lines,
        validations=[
            (entry["step"], entry["validation"]) for entry in entries if isinstance(entry.get("validation"), dict)
        ],
        stage=stage,
        init=provenance.get("init"),
    )


def logged_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a log in order of their steps; a last line that was cut off is left out.

    Raises InputError where the file is missing or empty, or a line before the last is no JSON object with a step.
    """
    texts = _read_text(path, "is this the output folder of a training run?").splitlines()
    texts = [text for text in texts if text.strip()]
    found: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(texts, 1):
        try:
            entry = json.loads(text)
            step = entry["step"]
            if not isinstance(step, int):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            if number == len(texts):  # the process was killed while it wrote
                break
            raise InputError(f"{path}: line {number} is no step of a training log") from None
        found[step] = view.finite(entry)
    if not found:
        raise InputError(f"{path}: is empty; the report can be made after the first step")
    return [found[step] for step in sorted(found)]


def _read_text(path: Path, help_: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; {help_}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path, "is this the output folder of a training run?"))
    except ValueError:
        raise InputError(f"{path}: is no JSON") from None
    return content if isinstance(content, dict) else {}


def _read_provenance(path: Path) -> dict[str, Any]:
    """What the checkpoint says of its making; empty where there is none yet. Its weights stay on disk."""
    if not path.is_file():
        return {}
    from alignx_eval.checkpoint import _read_pt

    return view.finite(_read_pt(path)["provenance"])


def _recipe_name(mark: dict[str, Any], stage: dict[str, Any] | None, folder: Path) -> str:
    """The recipe as it was named on the command line; a run that does not record it has the name of its folder."""
    if mark.get("name"):
        return str(mark["name"])
    try:
        words = shlex.split(str((stage or {}).get("command") or ""))[1:]
    except ValueError:  # a quote that is not closed
        words = []
    for before, word in zip(["", *words], words, strict=False):
        if word != "train" and not word.startswith("-") and "=" not in word and before not in ("--out", "--threads"):
            return Path(word).stem
    return folder.resolve().name


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def measure(validation: dict[str, Any], name: str) -> Measure | None:
    """A number of a validation, None where it was not measured."""
    entry = validation.get(name)
    if not isinstance(entry, dict) or (value := _number(entry.get("value"))) is None:
        return None
    return Measure(
        value,
        _number(entry.get("ci_low")),
        _number(entry.get("ci_high")),
        n if isinstance(n := entry.get("n"), int) else None,
    )


# --- thinning ---------------------------------------------------------------------------------------------------------------------


def thin_out(values: Sequence[float | None], limit: int = DRAWN_POINTS) -> list[int]:
    """At most `limit` places of `values` to draw, in order: the first, the last, and the extremes of equal stretches between them."""
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


# --- figures ----------------------------------------------------------------------------------------------------------------------


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


def _path(points: Sequence[tuple[int, float | None]], last: int, low: float, high: float) -> str:
    """Path data of a line through (step, value); an undefined value breaks it, what is beyond the frame lies on its edge."""
    parts, pen_down = [], False
    for step, value in points:
        if value is not None:
            x, y = figures.x_position(step, last + 1), figures.y_position(max(low, min(high, value)), low, high)
            parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = value is not None
    return "".join(parts)


def _open_figure(identity: str, title: str, description: str, last: int, ticks: Sequence[float]) -> list[str]:
    """The figure with its name, its grid and an axis of steps from 0 to `last`."""
    out = figures._frame(identity, title, description, ticks[0], ticks[-1], ticks)
    for tick in figures.nice_ticks(0, last, 5):
        if tick == int(tick) and tick <= last:
            x = figures.x_position(int(tick), last + 1)
            out.append(
                f'<text class="tick x" x="{x:.1f}" y="{figures.HEIGHT - figures.BOTTOM + 20}">{int(tick):,}</text>'
            )
    middle = (figures.LEFT + figures.WIDTH - figures.RIGHT) / 2
    return [*out, f'<text class="axis" x="{middle:.0f}" y="{figures.HEIGHT - 8}">step</text>']


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
    """A number of the log over the steps; None where the log has none. `level` is a line to read it against, a value a step.

    The result has the figure's `title`, `note` and `figure`.
    """
    values = run.values(name)
    known = [value for value in values if value is not None]
    if not known:
        return None
    smooth = smooth and len(known) >= LEAST_FOR_MEDIAN
    divisor, unit = scale_of(known)
    top, beside = highest_in_frame(known), [value for value in level or [] if value is not None]
    ticks = figures.nice_ticks(
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
                    figures.x_position(step, run.steps + 1),
                    figures.y_position(min(high, value / divisor), low, high),
                )
                out.append(figures._marker(2, x, y, f"step {step}: {value:.6g}"))
        out.append("</g>")
    outside = sum(value / divisor > high * (1 + 1e-9) for value in known)  # a division can land just above a tick
    if outside:
        words = "step is" if outside == 1 else "steps are"
        note = f"{note}; {outside} {words} above the frame, the highest {view.number(max(known) / divisor)}"
    return {"title": f"{title}, {unit}" if unit else title, "note": note, "figure": "".join([*out, "</svg>"])}


def contrastive_chance(run: Run) -> Values:
    """Share of anchors whose own target would be the nearest by chance: 1 / pairs that are contrasted with each other."""
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


# --- validation -------------------------------------------------------------------------------------------------------------------

# Of each figure: title, note, chance (of a validation), and its lines: name in the log, words.
LAYER_WORDS = "precision_at_1", "precision_at_1_last"
VALIDATION_FIGURES: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None], tuple[str, ...]], ...] = (
    (
        "Retrieval (precision@1)",
        "share of sentences whose nearest neighbour in the other language is their translation; ↑ higher is better",
        lambda validation: 1 / lines if (lines := _number(validation.get("lines"))) else None,
        LAYER_WORDS,
    ),
    (
        "Language identity",
        "share of sentences whose language a linear probe names in the last layer; ↑ higher is better",
        lambda validation: 1 / len(validation["languages"]) if validation.get("languages") else None,
        ("language_identity",),
    ),
    ("Bits per byte", "of the model on the sentences; ↓ lower is better", lambda validation: None, ("bits_per_byte",)),
)
MEASURES = ("precision_at_1", "precision_at_1_last", "language_identity", "bits_per_byte")


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
    return "" if found.low is None or found.high is None else f"[{view.number(found.low)}, {view.number(found.high)}]"


def measure_text(found: Measure | None) -> str:
    """Value, interval and n in one phrase."""
    if found is None:
        return "–"
    size = f"n = {found.n}" if found.n is not None else ""
    rest = ", ".join(
        part for part in (f"95 % interval {interval_text(found)}" if interval_text(found) else "", size) if part
    )
    return f"{view.number(found.value)}{f' ({rest})' if rest else ''}"


def kept_step(run: Run) -> int:
    """The step whose weights the checkpoint has."""
    step = run.fact("kept_step")
    return step if isinstance(step, int) else run.steps


def chosen_validations(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """The measurements to show: all, or so many of them, evenly spread, and that of the kept step."""
    places = set(evenly(len(run.validations), MEASUREMENTS))
    places |= {place for place, (step, _) in enumerate(run.validations) if step == kept_step(run)}
    return [run.validations[place] for place in sorted(places)]


def before_and_after(run: Run) -> tuple[tuple[int, dict[str, Any]], tuple[int, dict[str, Any]]] | None:
    """The first measurement and that of the kept weights, or the last one; None where there are not two."""
    if len(run.validations) < 2:
        return None
    kept = [each for each in run.validations[1:] if each[0] == kept_step(run)]
    return run.validations[0], (kept or run.validations)[-1]


def no_validation_sentence(run: Run) -> str:
    every = run.recipe.get("eval_every") or 0
    return (
        f"No validation measured yet (eval_every is {every})." if every else "No validation measured (eval_every is 0)."
    )


def validation_part(run: Run) -> dict[str, Any] | None:
    """Figures and table of the validation; None where nothing was measured."""
    if not run.validations:
        return None
    shown, latest = chosen_validations(run), run.validations[-1][1]
    names = [name for name in MEASURES if any(measure(validation, name) for _, validation in shown)]
    sizes = [{found.n for _, validation in shown if (found := measure(validation, name))} for name in names]
    drawn = [_validation_figure(run, shown, number) for number in range(len(VALIDATION_FIGURES))]
    return {
        "figures": [figure for figure in drawn if figure is not None],
        "about": f"{latest.get('lines') or '?'} held-out lines in {len(latest.get('languages') or [])} languages",
        "languages": ", ".join(map(str, latest.get("languages") or [])),
        "note": str(run.validations[0][1].get("note") or ""),
        "titles": [measure_title(name, latest) for name in names],
        "sizes": [f"n = {next(iter(size))}" if len(size) == 1 and size != {None} else "" for size in sizes],
        "lines": [
            {
                "step": step_title(step),
                "kept": step == kept_step(run) != run.steps,
                "cells": [
                    _cell(measure(validation, name), len(size) > 1) for name, size in zip(names, sizes, strict=True)
                ],
            }
            for step, validation in shown
        ],
        "hidden": len(run.validations) - len(shown),
    }


def _cell(found: Measure | None, with_size: bool) -> dict[str, str]:
    if found is None:
        return {"value": "–", "interval": "", "n": ""}
    size = f"n = {found.n}" if with_size and found.n is not None else ""
    return {"value": view.number(found.value), "interval": interval_text(found), "n": size}


def _validation_figure(run: Run, shown: Sequence[tuple[int, dict[str, Any]]], number: int) -> dict[str, Any] | None:
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
    ticks = figures.nice_ticks(min([*heights, *([chance] if drawn and chance is not None else [])]), max(heights), 4)
    low, high, last = ticks[0], ticks[-1], run.steps
    out = _open_figure(f"validation-{number}", f"{title} by step", note, last, ticks)
    right = figures.WIDTH - figures.RIGHT
    if chance is not None:
        note = f"{note}; {'dashed: ' if drawn else ''}chance {view.number(chance)}"
    if chance is not None and drawn:
        out.append(f'<path class="level" d="M{figures.LEFT} {figures.y_position(chance, low, high):.1f}H{right}"/>')
    if kept_step(run) != run.steps:
        out += figures._vertical_line(figures.x_position(kept_step(run), last + 1), f"kept: step {kept_step(run)}")
    for index, (name, points) in enumerate(series.items()):
        style = 2 + index
        # Intervals of two lines stand beside each other.
        places = [(figures.x_position(step, last + 1) + 4 * index, found) for step, found in points]
        bars = [
            f"M{x:.1f} {figures.y_position(found.low, low, high):.1f}V{figures.y_position(found.high, low, high):.1f}"
            for x, found in places
            if found.low is not None and found.high is not None
        ]
        line = "L".join(f"{x:.1f} {figures.y_position(found.value, low, high):.1f}" for x, found in places)
        out.append(
            f'<path class="bars s{style}" d="{"".join(bars)}"/><path class="line s{style}" d="M{line}"/><g class="dots s{style}">'
        )
        for (x, found), (step, _) in zip(places, points, strict=True):
            tip = f"{measure_title(name, shown[-1][1])}, {step_title(step)}: {measure_text(found)}"
            out.append(figures._marker(style, x, figures.y_position(found.value, low, high), html.escape(tip)))
        out.append("</g>")
    keys = [(figures.swatch(2 + index), measure_title(name, shown[-1][1])) for index, name in enumerate(series)]
    return {"title": title, "note": note, "figure": "".join([*out, "</svg>"]), "keys": keys if len(keys) > 1 else []}


# --- words and tables -------------------------------------------------------------------------------------------------------------


def planned(run: Run) -> str:
    """Where the recipe ends, in words."""
    ends = []
    if run.recipe.get("steps"):
        ends.append(f"{run.recipe['steps']:,} steps")
    elif run.recipe.get("epochs"):
        ends.append(f"{run.recipe['epochs']:g} epochs")
    if run.recipe.get("max_tokens"):
        ends.append(f"{run.recipe['max_tokens']:,} tokens")
    return " or ".join(ends)


def progress_sentence(run: Run) -> str:
    """How far the run is, or how it ended."""
    steps = run.recipe.get("steps")
    far = f"{run.steps:,} of {steps:,} steps" if steps else f"{run.steps:,} steps"
    kept = f"; the weights kept are those of step {kept_step(run):,}" if kept_step(run) != run.steps else ""
    if run.stopped:
        return (
            f"Stopped early after {far} ({run.stopped}){kept if run.stage is not None else '; there is no model.pt'}."
        )
    if run.stage is None:
        return (
            f"Step {run.steps:,} of {steps:,}, not finished."
            if steps
            else f"Step {run.steps:,}, not finished; the end: {planned(run)}."
        )
    ended = f"; the recipe's end: {planned(run)}" if steps and run.steps < steps or not steps and planned(run) else ""
    return f"Finished after {far}{ended}{kept}."


def summary(run: Run) -> list[str]:
    """The run in sentences."""
    last = run.lines[-1]
    tokens, seconds = run.fact("tokens") or last.get("tokens"), run.fact("seconds") or _number(last.get("seconds"))
    samples, truncated = run.fact("samples"), run.fact("truncated_samples")
    work = f"{tokens:,} tokens" if tokens is not None else "–"
    if samples is not None:
        work += f" in {samples:,} samples{f' ({truncated:,} of them cut to max_length)' if truncated else ''}"
    speeds = [speed for speed in run.values("tokens_per_second") if speed is not None]
    speed = f"; median {median(speeds):,.0f} tokens/s" if speeds else ""
    validating = run.fact("validation_seconds")
    besides = f"; validation took {view.duration(validating)} more" if validating else ""
    sentences = [f"{work}, {view.duration(seconds)}{speed}{besides}."]
    if run.stage is not None:
        peak, flops = view.quantity(run.fact("peak_memory_bytes"), "B"), view.quantity(run.fact("flops"), "FLOP")
        sentences.append(f"Peak memory {peak}; {flops}.")
    else:
        sentences.append("Peak memory, FLOP, data and versions are recorded when the run finishes.")
    sentences.append(f"{step_title(run.steps).capitalize()}: {last_losses(run)}.")
    return sentences + validation_sentences(run)


def last_losses(run: Run) -> str:
    """The losses of the last step; those that are off are left out."""
    last = run.lines[-1]
    parts = [f"next-token loss {view.number(_number(last.get('lm')))}"]
    for name, chance in (("contrastive", contrastive_chance(run)[-1]), ("matching", matching_chance(run)[-1])):
        loss, accuracy = _number(last.get(name)), _number(last.get(f"{name}_accuracy"))
        if loss is not None:
            compared = (
                f" (accuracy {view.number(accuracy)}, chance {view.number(chance)})" if accuracy is not None else ""
            )
            parts.append(f"{name} loss {view.number(loss)}{compared}")
    return ", ".join(parts)


def validation_sentences(run: Run) -> list[str]:
    ends = before_and_after(run)
    if ends is None:
        if not run.validations:
            return [no_validation_sentence(run)]
        step, only = run.validations[0]
        found = [
            f"{measure_title(name, only)} {measure_text(each)}" for name in MEASURES if (each := measure(only, name))
        ]
        return [f"Validation {'' if step == 0 else 'at '}{step_title(step)}: {'; '.join(found)}."]
    (first, before), (last, after) = ends
    sentences = []
    for name in MEASURES:
        one, two = measure(before, name), measure(after, name)
        if one is not None and two is not None:
            sizes = {found.n for found in (one, two) if found.n is not None}
            about = "; ".join(["95 % intervals", *([f"n = {' and '.join(map(str, sorted(sizes)))}"] if sizes else [])])
            start, end = (
                f"{_brief(one)} {'' if first == 0 else 'at '}{step_title(first)}",
                f"{_brief(two)} at {step_title(last)}",
            )
            sentences.append(f"Validation, {measure_title(name, after)}: {start} → {end} ({about}).")
    return sentences


def _brief(found: Measure) -> str:
    return f"{view.number(found.value)} {interval_text(found)}".rstrip()


def loss_table(run: Run) -> dict[str, Any]:
    """First step, last step and median of the last tenth of the steps (of five, if that is more), of every loss that was on."""
    tail = min(len(run.lines), max(5, len(run.lines) // 10))
    names = {
        "lm": "next-token loss",
        "contrastive": "contrastive loss",
        "contrastive_accuracy": "contrastive accuracy",
        "matching": "matching loss",
        "matching_accuracy": "matching accuracy",
    }
    chances = {"contrastive_accuracy": contrastive_chance(run), "matching_accuracy": matching_chance(run)}
    lines = []
    for name, title in names.items():
        values = run.values(name)
        if any(value is not None for value in values):
            known = [value for value in values[-tail:] if value is not None]
            chance = [value for value in chances.get(name, [])[-tail:] if value is not None]
            lines.append(
                {
                    "title": title,
                    "first": view.number(values[0]),
                    "last": view.number(values[-1]),
                    "tail": view.number(median(known)) if known else "–",
                    "chance": view.number(median(chance)) if chance else "–",
                }
            )
    return {"lines": lines, "tail": tail, "first": run.lines[0]["step"], "last": run.steps}


def plain_text(value: Any) -> str:
    """A value of a recipe as text; nothing given is a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return json.dumps(view.finite(value), ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_table(run: Run) -> list[dict[str, str]]:
    """A line a source: what the recipe asks for and, of a finished run, what was read."""
    sources = [source for source in run.recipe.get("sources") or [] if isinstance(source, dict)]
    described = run.fact("data") or []
    table = []
    for index, source in enumerate(sources):
        read = described[index] if index < len(described) and isinstance(described[index], dict) else {}
        lines = read.get("lines", read.get("records"))
        languages = read.get("languages") or source.get("languages") or []
        table.append(
            {
                "path": plain_text(read.get("path") or source.get("path")),
                "kind": plain_text(source.get("kind")),
                "weight": plain_text(source.get("weight")),
                "split": plain_text(read.get("split") or source.get("split")),
                "languages": ", ".join(map(str, languages)) or "all",
                "lines": f"{lines:,}" if isinstance(lines, int) else "–",
                "sha256": plain_text(read.get("sha256")),
                "licence": plain_text(read.get("licence")),
            }
        )
    return table


def run_facts(run: Run) -> dict[str, str]:
    """Where, when and with what the run was made."""
    facts = {
        "recipe, sha256": run.recipe_hash,
        "started from": run.recipe.get("init") or "new weights",
        "its content": (run.init or {}).get("content_hash"),
        "device": run.fact("device"),
        "seed": run.recipe.get("seed"),
        "align layer": run.fact("align_layer"),
        **(run.fact("versions") or {}),
        "command": run.fact("command"),
        "started": run.fact("started"),
        "finished": run.fact("finished"),
    }
    return {name: plain_text(value) for name, value in facts.items() if value not in (None, "")}
