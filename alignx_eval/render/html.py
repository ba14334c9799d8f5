"""The report: one self-contained HTML file that loads nothing, reads without JavaScript, and fits a phone, a dark room and a printer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

from alignx_eval.assets import asset_folder
from alignx_eval.comparison import is_mean, own_language
from alignx_eval.diagnosis import RULES
from alignx_eval.findings import find, uses_corpus
from alignx_eval.gate import STATUSES
from alignx_eval.gate import WORDS as OUTCOME_WORDS
from alignx_eval.render import figures, view
from alignx_eval.series import Series, Trajectory, make_series

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison
    from alignx_eval.findings import Headline
    from alignx_eval.gate import CandidateVerdict, GateRow, Verdict
    from alignx_eval.results import LayerSimilarity, Row

CURVES = (
    "precision_at_1",
    "precision_at_1_centred",
    "precision_at_1_without_largest",
    "cosine_centred",
    "cka_debiased",
    "cka_debiased_without_largest",
    "probe_balanced_accuracy",
    "mutual_nearest_neighbour",
    "ratio_margin",
    "cosine",
)
SMALL_CURVES = ("precision_at_1", "cosine_centred", "cka_debiased", "probe_balanced_accuracy")
# Curves that are read against another one, which is drawn as a thin line in the same frame.
COMPARED_WITH = {
    "precision_at_1_centred": "precision_at_1",
    "precision_at_1_without_largest": "precision_at_1",
    "cka_debiased_without_largest": "cka_debiased",
}
OPEN_METRICS = ("precision_at_1", "probe_balanced_accuracy", "bits_per_byte", "chrf++", "acc")
RULE_TITLES = {
    "over-alignment": "Over-alignment",
    "insufficient-alignment": "Insufficient alignment",
    "hidden-losers": "Hidden losers",
    "loss-in-english": "Loss in English",
    "price": "Price",
}
SAMPLE_BYTES = 500_000  # of the whole report's 3 MB
PICTURE_POINTS = 1000  # of one projection; more hide each other
SAMPLE_CHARACTERS = 600  # of one text; a model that does not stop writes thousands
OPEN_ROWS = 200  # gated rows of a candidate that are red, missing or amber; the policy decides how many there can be
FOLDED_ROWS = 600
SERIES_DETAIL = 4  # steps of a series that get curves, tables and samples: all of 30 would be 20 MB, and curves that nobody can tell apart
QUANTUM = 10_000  # curve values travel to report.js as whole ten-thousandths
# Shades of CKA between checkpoints, finer towards 1, where it mostly is; the same in every report, so that maps compare.
SIMILARITY_SHADES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def render(comparison: Comparison, verdict: Verdict | None = None, *, samples: bool = True) -> str:
    """The whole report as HTML text that encodes to UTF-8. `samples=False` leaves the sentences out.

    Without a verdict, as for a single checkpoint, the report has neither the gate's answer nor the trajectories of a series.
    """
    import jinja2

    folder = asset_folder("reports")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(view=view, svg=_safe, figures=figures)
    series = make_series(comparison, verdict) if comparison.series and verdict is not None else None
    detail = _detail(comparison, series)
    browser = _sample_browser(detail) if samples else None
    curves = _curves(detail)
    page = environment.get_template("report.html.j2").render(
        comparison=comparison,
        subject=_subject(comparison),
        corpus=comparison.corpus if uses_corpus(comparison) else {},
        detail=detail,
        verdict=_verdict(verdict, detail.candidates) if verdict is not None else None,
        series=_series(comparison, series) if series is not None else None,
        diagnoses=_diagnoses(detail),
        css=_safe((folder / "report.css").read_text(encoding="utf-8")),
        javascript=_safe((folder / "report.js").read_text(encoding="utf-8")),
        headlines=[_headlines(detail, candidate) for candidate in detail.candidates],
        others=view.other_findings(detail),
        measured=view.measured(detail) if not detail.candidates else [],
        opened=view.opening_notes(comparison),
        no_control=view.no_control_sentence(comparison),
        styles=_styles(detail),
        labels=view.labels(comparison),
        curves=curves,
        curve_data=_script_data(curves["data"]) if curves else None,
        similarity_shades=SIMILARITY_SHADES,
        similarities=[_similarity(detail, each, number) for number, each in enumerate(detail.layer_similarity)],
        tables=_tables(detail),
        browser=browser,
        sample_data=_script_data(browser["data"]) if browser else None,
        costs=view.own_costs(comparison),
        totals=_cost_totals(comparison),
        projections=_projections(detail),
        maps=_maps(detail),
        facts=_facts(comparison),
        notes=_notes(comparison),
    )
    return view.clean(page)


def _safe(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _script_data(data: Any) -> Any:
    """JSON for a script element: `<`, `>` and `&` are escaped, so that no text in it can end the element."""
    text = json.dumps(view.finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _subject(comparison: Comparison) -> str:
    """What the title names; of many candidates not all."""
    names = comparison.candidates
    if len(names) <= SERIES_DETAIL:
        return ", ".join(names) or comparison.base
    return (
        f"{len(names)} checkpoints, {names[0]} to {names[-1]},"
        if comparison.series
        else f"{', '.join(names[:3])} and {len(names) - 3} more"
    )


def _detail(comparison: Comparison, series: Series | None) -> Comparison:
    """The comparison that curves, tables and samples show: of a long series, the steps around the first failure, the first and the last."""
    steps = comparison.candidates
    if series is None or len(steps) <= SERIES_DETAIL:
        return comparison
    wanted = [steps[-1], steps[0]]
    if series.first_failure is not None:
        place = steps.index(series.first_failure.label)
        wanted = [steps[place], steps[-1], *steps[max(0, place - 1) : place], steps[0]]
    chosen = set(list(dict.fromkeys(wanted))[:SERIES_DETAIL])
    kept = {comparison.base, comparison.control} | chosen
    detail = replace(
        comparison,
        candidates=[label for label in steps if label in chosen],
        rows=[row for row in comparison.rows if row.candidate_name in chosen],
        layer_similarity=[each for each in comparison.layer_similarity if each.candidate in chosen],
        results={label: suites for label, suites in comparison.results.items() if label in kept},
    )
    detail = replace(detail, headlines=[each for each in comparison.headlines if each.candidate in chosen])
    return replace(detail, findings=find(detail))


def _styles(comparison: Comparison) -> dict[str, int]:
    """Number of the colour, dash and marker of each checkpoint: base 0, control 1, candidates from 2."""
    styles = {comparison.base: 0}
    if comparison.control:
        styles[comparison.control] = 1
    for label in view.labels(comparison):
        styles.setdefault(label, 2 + sum(number >= 2 for number in styles.values()))
    return styles


def _headlines(comparison: Comparison, candidate: str) -> dict[str, Any]:
    """The headline numbers of a candidate as a table: its contrasts, the effect of alignment first, then the values."""
    headlines = [headline for headline in comparison.headlines if headline.candidate == candidate]
    contrasts = [contrast for contrast in view.list_contrasts(comparison) if contrast.candidate == candidate]
    kinds = {contrast.other: contrast.kind for contrast in reversed(contrasts)} | {
        candidate: ""
    }  # base, control, candidate
    lines = [
        {
            "title": view.headline_title(headline),
            "note": view.headline_note(headline),
            "long": headline.title,
            "changes": [_change(headline, contrast) for contrast in contrasts],
            "values": [view.headline_value(headline, kind) for kind in kinds.values()],
        }
        for headline in headlines
    ]
    return {
        "candidate": candidate,
        "contrasts": contrasts,
        "names": list(kinds),
        "lines": lines,
        "size": view.headline_sizes(headlines),
    }


def _change(headline: Headline, contrast: view.Contrast) -> dict[str, str]:
    change = next((each for each in headline.changes if each.contrast == contrast.kind), None)
    if change is None:
        return {"verdict": "insufficient-data", "mark": "", "word": "not measured", "numbers": "", "reason": ""}
    return {
        "verdict": change.word,
        "mark": view.MARKS[change.word],
        "word": view.WORDS[change.word],
        "numbers": view.change_numbers(headline, change),
        "reason": change.reason,
    }


# --- verdict, series, diagnosis ---------------------------------------------------------------------------------------------------


def _verdict(verdict: Verdict, candidates: Sequence[str]) -> dict[str, Any]:
    """The gate's answer, with the rows of `candidates`."""
    several = len(verdict.candidates) > 1
    return {
        "outcome": verdict.outcome,
        "word": OUTCOME_WORDS[verdict.outcome],
        "mark": view.OUTCOME_MARKS[verdict.outcome],
        # Of several candidates only the counts: each says its own sentence below.
        "sentence": verdict.sentence.partition(". ")[0] + "."
        if several
        else verdict.sentence.removeprefix(f"{OUTCOME_WORDS[verdict.outcome]}: "),
        "rule": verdict.rule,
        "policy": verdict.policy,
        "policy_name": verdict.policy_name,
        "title": view.gate_title(verdict),
        "enforced": verdict.enforced,
        "several": several,
        "candidates": [_candidate_verdict(each) for each in verdict.candidates if each.candidate in candidates],
        "left_out": sum(each.candidate not in candidates for each in verdict.candidates),
    }


def _candidate_verdict(judged: CandidateVerdict) -> dict[str, Any]:
    levels = list(dict.fromkeys(row.level for row in judged.rows))
    opened = [row for row in judged.rows if row.status in ("red", "missing", "amber")]
    folded = [row for row in judged.rows if row.status in ("grey", "green")]
    return {
        "candidate": judged.candidate,
        "reference": judged.reference,
        "outcome": judged.outcome,
        "word": OUTCOME_WORDS[judged.outcome],
        "mark": view.OUTCOME_MARKS[judged.outcome],
        "sentence": judged.sentence.removeprefix(f"{OUTCOME_WORDS[judged.outcome]}: "),
        "counts": [
            {
                "level": level,
                "statuses": [(status, count) for status in STATUSES if (count := judged.counts(level)[status])],
            }
            for level in levels
        ],
        "opened": _gate_table(opened, OPEN_ROWS),
        "folded": _gate_table(folded, FOLDED_ROWS),
    }


def _gate_table(rows: Sequence[GateRow], limit: int) -> dict[str, Any]:
    return {
        "lines": [_gate_line(row) for row in rows[:limit]],
        "total": len(rows),
        "statuses": [(status, count) for status in STATUSES if (count := sum(row.status == status for row in rows))],
        "levels": len({row.level for row in rows[:limit]}) > 1,
        "reasons": any(row.reason for row in rows[:limit]),
    }


def _gate_line(gated: GateRow) -> dict[str, Any]:
    row = gated.row
    line: dict[str, Any] = {
        "status": gated.status,
        "level": gated.level,
        "title": gated.wanted,
        "about": "",
        "name": "protected" if gated.protected else "",
        "loss": view.gate_loss(gated),
        "interval": "",
        "mark": "",
        "tolerance": view.gate_tolerance(gated),
        "bound": view.gate_bound(gated) or "–",
        "p": view.probability(gated.p_adjusted),
        "n": "–",
        "reason": gated.reason or "",
    }
    if row is None:
        return line
    language = view.language_name(gated.language) if gated.language else "mean"
    line |= {
        "title": view.row_title(row),
        "about": view.pair_title(row),
        "name": f"{language}, protected" if gated.protected else language,
        "n": f"{row.n} ({row.clusters})",
    }
    if gated.loss is None:
        return line
    low, high = row.ci_low, row.ci_high
    # The interval of the loss: that of the difference, turned round where a higher value is good.
    if (
        low is not None
        and high is not None
        and (gated.loss != row.difference or (gated.loss == 0 and row.higher_is_better is not False))
    ):
        low, high = -high, -low
    if low is not None and high is not None:
        line["interval"] = f"[{view.difference(low, row.metric)}, {view.difference(high, row.metric)}]"
    return line | {"mark": figures.loss_mark(low, gated.loss, high, gated.tolerance, gated.status)}


def _series(comparison: Comparison, series: Series) -> dict[str, Any]:
    """Trajectories drawn, and a table of all steps."""
    steps = series.steps[1:]
    stages = {str(comparison.checkpoints.get(step.label, {}).get("stage") or "") for step in steps}
    by_number = (
        len(stages) == 1
        and len({step.step for step in steps}) == len(steps)
        and all(step.step is not None for step in steps)
    )
    names = [step.title if index == 0 or not by_number else str(step.step) for index, step in enumerate(series.steps)]
    stage = next(iter(stages)) if by_number else ""
    axis = f"step{f' of {stage}' if stage else ''}" if by_number else "checkpoint"
    failure = None
    if series.first_failure is not None:
        place = series.steps.index(series.first_failure)
        failure = (place, f"first failure: {names[place]}")
    drawn = [
        {
            "title": trajectory.title,
            "note": trajectory.note,
            "direction": view.better_direction(trajectory.higher_is_better),
            "size": _sizes([(point.n, point.clusters) for point in trajectory.points if point.value is not None]),
            "figure": _trajectory_figure(
                trajectory, number, series, names, f"{axis}, in order, evenly spaced", failure
            ),
        }
        for number, trajectory in enumerate(series.trajectories)
    ]
    outcomes = {step.outcome for step in steps}
    lines = [
        {
            "label": step.label,
            "title": step.title if step.title != step.label else "",
            "outcome": step.outcome,
            "first": step == series.first_failure,
            "cells": [_point_text(trajectory, index) for trajectory in series.trajectories],
        }
        for index, step in enumerate(series.steps)
    ]
    return {
        "sentence": series.sentence,
        "failed": series.first_failure is not None,
        "figures": drawn,
        "lines": lines,
        "outcomes": [(outcome, word) for outcome, word in OUTCOME_WORDS.items() if outcome in outcomes],
    }


def _trajectory_figure(
    trajectory: Trajectory,
    number: int,
    series: Series,
    names: Sequence[str],
    axis: str,
    failure: tuple[int, str] | None,
) -> str:
    base = trajectory.points[0].value or 0.0
    intervals = [
        (base + point.ci_low, base + point.ci_high) if point.ci_low is not None and point.ci_high is not None else None
        for point in trajectory.points
    ]
    tips = []
    for index, step in enumerate(series.steps):
        outcome = f"; gate: {OUTCOME_WORDS[step.outcome]}" if step.outcome is not None else ""
        value, change = _point_text(trajectory, index)
        tips.append(f"{step.label}: {value}{f', {change} against the base' if change else ''}{outcome}")
    return figures.trajectory_figure(
        f"trajectory-{number}",
        title=f"{trajectory.title} by step",
        description=f"{trajectory.note}. {series.sentence}",
        axis=axis,
        steps=names,
        values=[point.value for point in trajectory.points],
        intervals=intervals,
        outcomes=[step.outcome for step in series.steps],
        tips=tips,
        failure=failure,
    )


def _point_text(trajectory: Trajectory, index: int) -> tuple[str, str]:
    """Value, and difference with interval, of a step."""
    point = trajectory.points[index]
    change = ""
    if point.difference is not None:
        change = view.difference(point.difference, trajectory.metric)
        if point.ci_low is not None and point.ci_high is not None:
            change += f" [{view.difference(point.ci_low, trajectory.metric)}, {view.difference(point.ci_high, trajectory.metric)}]"
    return view.number(point.value, trajectory.metric), change


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    ranges = [sorted(set(numbers)) for numbers in zip(*sizes, strict=True)]
    n, clusters = (str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}" for numbers in ranges)
    return f"n = {n}, {clusters} clusters"


def _diagnoses(comparison: Comparison) -> list[dict[str, Any]]:
    """The answers of all rules, by candidate."""
    return [
        {
            "candidate": candidate,
            "counts": ", ".join(
                f"{count} {word}"
                for status, word in view.DIAGNOSIS_WORDS.items()
                if (count := sum((each.candidate, each.status) == (candidate, status) for each in comparison.diagnoses))
            ),
            "answers": [
                {
                    "title": RULE_TITLES.get(diagnosis.rule, diagnosis.rule),
                    "definition": RULES[diagnosis.rule],
                    "status": diagnosis.status,
                    "brief": f"Against {diagnosis.reference}: {view.brief(diagnosis)}.",
                    "sentence": diagnosis.sentence,
                    "evidence": [evidence.text for evidence in diagnosis.evidence],
                    "more": diagnosis.more,
                }
                for diagnosis in comparison.diagnoses
                if diagnosis.candidate == candidate
            ],
        }
        for candidate in comparison.candidates
    ]


# --- curves ----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Curve:
    """One metric over the layers: of each checkpoint the mean over languages with its band, and what report.js draws for one pair."""

    series: dict[str, list[float | None]]
    bands: dict[str, figures.Band]
    band_kind: str
    pairs: dict[
        str, dict[str, list[list[int | None]]]
    ]  # pair -> style -> values, lower and upper ends, in units of 1 / QUANTUM
    levels: list[tuple[str, float]]
    row: Row  # any, for what they share

    def defined(self) -> bool:
        return any(value is not None for line in self.series.values() for value in line)

    def heights(self) -> list[float]:
        """All that the frame of the means must show."""
        lines = [*self.series.values(), *(end for band in self.bands.values() for end in band)]
        return [value for line in lines for value in line if value is not None] + [value for _, value in self.levels]

    def heights_of_pairs(self) -> list[float]:
        """The same of the frame for single pairs, which are far above most means where there are many languages."""
        drawn = [line for lines in self.pairs.values() for triple in lines.values() for line in triple]
        return [value / QUANTUM for line in drawn for value in line if value is not None] + [
            value for _, value in self.levels
        ]


def _curves(comparison: Comparison) -> dict[str, Any] | None:
    """Layer curves of every metric that has layers: drawn for the mean over languages, with data to redraw for one pair."""
    found: dict[str, dict[str, dict[tuple[str | None, str | None], dict[str, Row]]]] = {}
    for label in view.labels(comparison):
        for result in comparison.results.get(label, {}).values():
            for row in result.rows:
                if row.layer is not None:
                    pair = (row.language, row.other_language)
                    found.setdefault(row.metric, {}).setdefault(label, {}).setdefault(pair, {})[row.layer] = row
    # Summaries of a curve are rows of one or two layers, no curves.
    found = {
        metric: by
        for metric, by in found.items()
        if len({layer for pairs in by.values() for rows in pairs.values() for layer in rows}) > 2
    }
    layers = sorted(
        {layer for by in found.values() for pairs in by.values() for rows in pairs.values() for layer in rows},
        key=view.layer_order,
    )
    styles = _styles(comparison)
    order = [metric for metric in CURVES if metric in found] + sorted(set(found) - set(CURVES))
    curves = {
        metric: curve for metric in order if (curve := _curve(comparison, metric, found[metric], layers)).defined()
    }
    if not curves:
        return None
    drawn: dict[str, dict[str, Any]] = {}
    data: dict[str, Any] = {"layers": layers, "metrics": {}}
    for metric, curve in curves.items():
        compared = COMPARED_WITH.get(metric) if COMPARED_WITH.get(metric) in curves else None
        # Metrics that are compared share their frames.
        family = [
            each for name, each in curves.items() if COMPARED_WITH.get(name, name) == COMPARED_WITH.get(metric, metric)
        ]
        frames = {"mean": [height for each in family for height in each.heights()]}
        if curve.pairs:
            frames["pair"] = [height for each in family for height in each.heights_of_pairs()]
        unit = "language pairs" if any(">" in pair for pair in curve.pairs) else "languages"
        what = f"mean over {len(curve.pairs)} {unit}" if curve.pairs else "all languages"
        drawn[metric] = {
            "metric": metric,
            "title": view.metric_title(metric),
            "note": view.metric_note(metric),
            "direction": view.better_direction(curve.row.higher_is_better),
            "band": curve.band_kind,
            "what": what,
            "n": curve.row.n,
            "compared": view.metric_title(compared) if compared else "",
        }
        nothing = [None] * len(layers)
        for frame, heights in frames.items():
            ticks = figures.nice_ticks(min(0.0, *heights), max(heights))
            if frame == "pair":
                data["metrics"][metric] = {
                    "low": ticks[0],
                    "high": ticks[-1],
                    "pairs": curve.pairs,
                    "compared": compared,
                }
            for size in ("lead", "small"):
                # The frame for pairs is empty until report.js draws one of them.
                means = frame == "mean"
                drawn[metric].setdefault(size, {})[frame] = figures.line_figure(
                    f"{size}-{frame}-{_identifier(metric)}",
                    title=f"{view.metric_title(metric)} by layer, {what if means else 'one language pair'}",
                    description=f"{view.metric_note(metric)}. One line per checkpoint: {', '.join(curve.series)}.",
                    layers=layers,
                    series=curve.series if means else dict.fromkeys(curve.series, nothing),
                    bands=curve.bands if means else dict.fromkeys(curve.series, (nothing, nothing)),
                    styles=styles,
                    low=ticks[0],
                    high=ticks[-1],
                    ticks=ticks,
                    levels=curve.levels,
                    marked=_marked(comparison),
                    thin=(curves[compared].series if means else dict.fromkeys(curves[compared].series, nothing))
                    if compared
                    else None,
                )
    pairs = {pair for by in found.values() for own in by.values() for pair in own if pair != (None, None)}
    return {
        "metrics": list(drawn.values()),
        "small": [drawn[metric] for metric in SMALL_CURVES if metric in drawn][1:],
        "layers": layers,
        "pairs": [
            {"id": _pair_id(pair), "title": " → ".join(f"{code} {view.language_name(code)}" for code in pair if code)}
            for pair in sorted(pairs, key=_pair_id)
        ],
        "summary": _layer_summary(comparison, curves["precision_at_1"].series, layers, styles)
        if "precision_at_1" in curves
        else [],
        "data": data,
    }


def _curve(
    comparison: Comparison,
    metric: str,
    by_label: Mapping[str, Mapping[tuple[str | None, str | None], Mapping[str, Row]]],
    layers: Sequence[str],
) -> _Curve:
    styles = _styles(comparison)
    rows = [row for pairs in by_label.values() for by_layer in pairs.values() for row in by_layer.values()]
    first = next((row for row in rows if row.higher_is_better is not None), rows[0])
    curve = _Curve({}, {}, "", {}, _levels(comparison, metric, by_label), first)
    # One kind of band for all checkpoints: the interval of the mean, where most layers of each have one.
    summaries = [pairs.get((None, None), {}) for pairs in by_label.values()]
    intervals = all(2 * sum(row.ci_low is not None for row in summary.values()) > len(summary) for summary in summaries)
    for label, pairs in by_label.items():
        single = {pair: rows for pair, rows in pairs.items() if pair != (None, None)}
        summary = pairs.get((None, None), {})
        numbers = [
            [row.value for rows in single.values() if (row := rows.get(layer)) and row.value is not None]
            for layer in layers
        ]
        curve.series[label] = [
            summary[layer].value if layer in summary else fmean(values) if values else None
            for layer, values in zip(layers, numbers, strict=True)
        ]
        if intervals:
            curve.bands[label] = (
                [summary[layer].ci_low if layer in summary else None for layer in layers],
                [summary[layer].ci_high if layer in summary else None for layer in layers],
            )
            curve.band_kind = "band: 95 % interval"
        elif single:
            quarters = [
                quantiles(values, n=4, method="inclusive") if len(values) >= 4 else [None] * 3 for values in numbers
            ]
            curve.bands[label] = ([each[0] for each in quarters], [each[2] for each in quarters])
            curve.band_kind = "band: middle half of the pairs"
        for pair, own in single.items():
            triple = [
                [_quantise(getattr(own[layer], name)) if layer in own else None for layer in layers]
                for name in ("value", "ci_low", "ci_high")
            ]
            while len(triple) > 1 and all(value is None for value in triple[-1]):
                triple.pop()
            curve.pairs.setdefault(_pair_id(pair), {})[str(styles[label])] = triple
    return curve


def _levels(
    comparison: Comparison, metric: str, by_label: Mapping[str, Mapping[Any, Mapping[str, Row]]]
) -> list[tuple[str, float]]:
    """Reference lines: chance, and for the probe its baselines that do not depend on a layer."""
    rows = [row for pairs in by_label.values() for rows in pairs.values() for row in rows.values()]
    chances = {round(row.chance, 6) for row in rows if row.chance is not None}
    levels = [("chance", fmean(chances))] if chances else []
    if metric == "probe_balanced_accuracy":
        seen = set()
        for result in (suites.get("language_id") for suites in comparison.results.values()):
            for row in result.rows if result else ():
                if row.layer is None and row.language is None and row.value is not None and row.metric not in seen:
                    seen.add(row.metric)
                    levels.append((view.metric_title(row.metric), row.value))
    if metric == "precision_at_1":
        results = [suites["layers"] for suites in comparison.results.values() if "layers" in suites]
        overlap = [
            row.value
            for row in results[0].rows
            if row.metric == "precision_at_1_token_overlap" and row.value is not None
        ]
        if overlap:
            levels.append(("shared tokens alone (mean)", fmean(overlap)))
    # Names of levels that lie on each other share one label.
    merged: dict[float, list[str]] = {}
    for name, value in levels:
        merged.setdefault(next((other for other in merged if abs(other - value) < 0.015), value), []).append(name)
    return [(", ".join(names), value) for value, names in merged.items()]


def _marked(comparison: Comparison) -> list[tuple[str, str]]:
    """Align layers to mark: (layer, label), one label for all checkpoints that share the layer."""
    by_layer: dict[str, list[str]] = {}
    for label in view.labels(comparison):
        layer = view.marked_layer(comparison, label)
        if layer is not None:
            by_layer.setdefault(layer, []).append(label)
    if len(by_layer) == 1:
        return [(layer, f"align layer {layer}") for layer in by_layer]
    return [(layer, f"align layer {layer} ({', '.join(names)})") for layer, names in by_layer.items()]


def _layer_summary(
    comparison: Comparison, series: Mapping[str, list[float | None]], layers: Sequence[str], styles: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Align, then diverge, as numbers per checkpoint: retrieval at the marked layer, at its peak, and at the last two states."""
    marked = _marked(comparison)
    layer = marked[0][0] if marked else None
    table = []
    for label, curve in series.items():
        values = dict(zip(layers, curve, strict=True))
        defined = {name: value for name, value in values.items() if value is not None}
        if not defined:
            continue
        peak = max(defined, key=lambda name: defined[name])
        last = [name for name in layers if "+" not in name][-1]
        table.append(
            {
                "label": label,
                "style": styles[label],
                "layer": layer,
                "marked": values.get(layer) if layer else None,
                "peak": peak,
                "peak_value": defined[peak],
                "last": last,
                "last_value": values.get(last),
                "norm_value": values.get(f"{last}+norm"),
            }
        )
    return table


def _pair_id(pair: tuple[str | None, str | None]) -> str:
    return ">".join(code for code in pair if code)


def _quantise(value: float | None) -> int | None:
    return None if value is None else round(value * QUANTUM)


def _identifier(text: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in text)


# --- tables ----------------------------------------------------------------------------------------------------------------------


def _tables(comparison: Comparison) -> list[dict[str, Any]]:
    """Per contrast (or once, for a single checkpoint) and suite, the tables of all metrics."""
    measured = {
        (label, row.key): row
        for label, suites in comparison.results.items()
        for result in suites.values()
        for row in result.rows
    }
    if not comparison.candidates:
        rows = [row for suites in comparison.results.values() for result in suites.values() for row in result.rows]
        return [{"contrast": None, "suites": _suite_tables(comparison, None, rows, measured)}]
    return [
        {"contrast": contrast, "suites": _suite_tables(comparison, contrast, contrast.rows, measured)}
        for contrast in view.list_contrasts(comparison)
    ]


def _suite_tables(
    comparison: Comparison, contrast: view.Contrast | None, rows: Iterable[Any], measured: Mapping[Any, Row]
) -> list[dict[str, Any]]:
    rows = list(rows)
    floors = _floor_metrics(comparison)
    tables = []
    for suite in view.suites(comparison):
        groups: dict[tuple[str, bool], list[Any]] = {}
        for row in rows:
            if row.suite == suite and row.metric not in floors:
                groups.setdefault((row.metric, row.layer is not None and row.language is None), []).append(row)
        # One or two numbers are no table: those of a suite come together.
        alone = [
            key
            for key, own in groups.items()
            if len(own) <= 2 and all(row.language is None and row.other_language is None for row in own)
        ]
        summaries = [row for key in alone for row in groups.pop(key)] if len(alone) > 1 else []
        order = list(view.METRICS)
        ranked = sorted(
            groups, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[0], key[1])
        )
        metrics = [
            _metric_table(comparison, contrast, metric, by_layer, groups[metric, by_layer], measured)
            for metric, by_layer in ranked
        ]
        if summaries:
            metrics.insert(0, _metric_table(comparison, contrast, "", True, summaries, measured))
        if metrics:
            tables.append({"suite": suite, "title": view.SUITE_TITLES.get(suite, suite), "metrics": metrics})
    return tables


def _floor_metrics(comparison: Comparison) -> set[str]:
    """Metrics that are floors of others: they become a column, not a table."""
    return {
        row.metric
        for suites in comparison.results.values()
        for result in suites.values()
        for row in result.rows
        if _is_floor(row.metric)
    }


def _is_floor(metric: str) -> bool:
    return "_floor_" in metric or metric.endswith("_reference")


def _metric_table(
    comparison: Comparison,
    contrast: view.Contrast | None,
    metric: str,
    by_layer: bool,
    rows: list[Any],
    measured: Mapping[Any, Row],
) -> dict[str, Any]:
    """One table: a metric by language, or by layer; without a metric, the summaries of a suite."""
    layer = None
    total = len(rows)
    if not by_layer and any(row.layer is not None for row in rows):
        layer = view.table_layer(comparison, contrast.candidate if contrast else comparison.base, rows)
        rows = [row for row in rows if row.layer == layer]
    if contrast is None:
        labels = [comparison.base]
        rows = sorted(rows, key=lambda row: _value_order(row, by_layer)) if metric else rows
    else:
        labels = list(dict.fromkeys([comparison.base, contrast.other, contrast.candidate]))
        rows = (
            sorted(rows, key=lambda row: view.layer_order(row.layer or ""))
            if by_layer and metric
            else rows
            if by_layer
            else sorted(rows, key=view.worst_first)
        )
        # The row of all languages together stays on top.
        rows.sort(
            key=lambda row: 2 if by_layer or not is_mean(row) else (row.language or row.other_language) is not None
        )
    scale = max(
        (
            abs(number)
            for row in rows
            if contrast
            for number in (row.difference, row.ci_low, row.ci_high)
            if number is not None
        ),
        default=0.0,
    )
    lines = [
        _table_line(comparison, contrast, row, labels, measured, scale if metric else 0.0, by_layer) for row in rows
    ]
    if not metric:
        for line, row in zip(lines, rows, strict=True):
            line["title"] = view.row_title(row)
    sizes = sorted({row.n for row in rows})
    methods = sorted({row.method for row in rows if row.method})
    first = next((row for row in rows if row.higher_is_better is not None), rows[0])
    return {
        "metric": metric,
        "title": view.metric_title(metric) if metric else "Summaries",
        "note": view.metric_note(metric),
        "by_layer": by_layer,
        "layer": layer,
        "hidden": total - len(rows),
        "direction": view.better_direction(first.higher_is_better) if metric else "",
        "first_column": "Quantity" if not metric else "Layer" if by_layer else "Language",
        "tall": len(lines) > 24,
        "counts": view.count_verdicts(rows) if contrast else None,
        "labels": labels,
        "lines": lines,
        "sizes": sizes,
        "n": f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}",
        # BLEU's method names the tokenizer of each target language: too long to list.
        "methods": methods if len(methods) <= 2 else [f"{len(methods)} methods, by row in results.json"],
        "scale": view.size(scale, metric) if scale and metric else "",
        # One chance level for all rows is said once, above the table.
        "floor": lines[0]["floor"] if len({line["floor"] for line in lines}) == 1 else "",
        "has_floor": len({line["floor"] for line in lines}) > 1,
        "floor_title": "references' own rate"
        if metric == "off_target_rate"
        else "floor"
        if first.suite == "translation"
        else "chance",
        "opened": metric.rpartition(".")[2] in OPEN_METRICS
        and not by_layer
        and (contrast is None or contrast.kind == "candidate-control" or not comparison.control),
    }


def _value_order(row: Row, by_layer: bool) -> tuple[Any, ...]:
    if by_layer:
        return view.layer_order(row.layer or "")
    if row.value is None:
        return (2, 0.0)
    return (not is_mean(row), row.value if row.higher_is_better is not False else -row.value)


def _table_line(
    comparison: Comparison,
    contrast: view.Contrast | None,
    row: Any,
    labels: Sequence[str],
    measured: Mapping[Any, Row],
    scale: float,
    by_layer: bool,
) -> dict[str, Any]:
    key = view.row_key(row)
    own = [measured.get((label, key)) for label in labels]
    values = [found.value if found else None for found in own]
    if contrast:
        # The comparison's own numbers win: they are those the difference was made of.
        values[labels.index(contrast.other)], values[labels.index(contrast.candidate)] = row.base, row.candidate
    floor, floor_detail = _floor(row, own[-1], labels[-1], measured)
    code = own_language(comparison, row)
    title, name = (
        (f"layer {row.layer}", "") if by_layer else (view.pair_title(row), view.language_name(code) if code else "mean")
    )
    line: dict[str, Any] = {
        "title": title,
        "name": name,
        "summary": is_mean(row) and not by_layer,
        "values": [view.number(value, row.metric) for value in values],
        "floor": "" if floor is None else view.number(floor, row.metric),
        "floor_detail": floor_detail,
        "n": row.n,
        "reason": row.reason or "",
    }
    if contrast is None:
        if row.unjudged:
            line["reason"] = f"not to be judged: {row.unjudged}"
        interval = (
            f"[{view.number(row.ci_low, row.metric)}, {view.number(row.ci_high, row.metric)}]"
            if row.ci_low is not None and row.ci_high is not None
            else ""
        )
        return line | {"interval": interval}
    return line | {
        "difference": view.difference(row.difference, row.metric),
        "interval": view.interval(row),
        "forest": figures.interval_mark(row.ci_low, row.difference, row.ci_high, scale, row.verdict),
        "p": view.probability(row.p_adjusted if row.p_adjusted is not None else row.p),
        "mde": view.size(row.minimum_detectable_effect, row.metric),
        "verdict": row.verdict,
        "mark": view.MARKS[row.verdict],
        "word": view.WORDS[row.verdict],
    }


_NULLS = {
    "translation": "shuffled references",
    "language_id": "random labels",
    "off_target_rate": "the references themselves",
}


def _floor(row: Any, own: Row | None, label: str, measured: Mapping[Any, Row]) -> tuple[float | None, str]:
    """What a score is worth nothing below, and where it comes from: chance, the broken pairing, a copied source, an empty answer."""
    if own is None:
        return None, ""
    found = [("chance", own.chance), (_NULLS.get(row.metric) or _NULLS.get(row.suite, "broken pairs"), own.null)]
    for name, metric in (
        ("copied source", f"{row.metric}_floor_copy"),
        ("empty output", f"{row.metric}_floor_empty"),
    ):
        floor = measured.get(
            (label, "/".join(part or "-" for part in (row.suite, metric, row.layer, row.language, row.other_language)))
        )
        found.append((name, floor.value if floor else None))
    defined = [(name, value) for name, value in found if value is not None]
    if not defined:
        return None, ""
    return max(value for _, value in defined), ", ".join(
        f"{name} {view.number(value, row.metric)}" for name, value in defined
    )


# --- samples ---------------------------------------------------------------------------------------------------------------------


def _sample_browser(comparison: Comparison) -> dict[str, Any] | None:
    """Translations of the same sentence by every checkpoint, the largest gains and losses of each direction under a size cap."""
    styles = _styles(comparison)
    names = [label for label in styles if comparison.results.get(label, {}).get("translation")]
    joined: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for label in names:
        for sample in comparison.results[label]["translation"].samples:
            key = (
                str(sample.get("language") or ""),
                str(sample.get("other_language") or ""),
                str(sample.get("id") or ""),
            )
            joined.setdefault(key, {})[label] = sample
    if not joined:
        return None
    candidate = comparison.candidates[0] if comparison.candidates and comparison.candidates[0] in names else names[-1]
    other = next(
        (label for label in (comparison.control, comparison.base) if label in names and label != candidate), None
    )
    directions: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (source, target, identity), by_label in joined.items():
        if candidate not in by_label:
            continue
        first = by_label[candidate]
        scores = {label: _sentence_score(sample) for label, sample in by_label.items()}
        delta = None
        after, before = scores.get(candidate), scores.get(other or "")
        if after is not None and before is not None:
            delta = after - before
        directions.setdefault((source, target), []).append(
            {
                "id": _shorten(identity),
                "s": _shorten(first.get("source") or ""),
                "r": _shorten(first.get("reference") or ""),
                "o": [_shorten(by_label[label].get("output") or "") if label in by_label else None for label in names],
                "c": [None if (score := scores.get(label)) is None else round(score, 1) for label in names],
                "x": [by_label.get(label, {}).get("target_language") in ("off", "empty") for label in names],
                "d": None if delta is None else round(delta, 1),
            }
        )
    for items in directions.values():
        items.sort(
            key=lambda item: (
                item["d"] is None,
                item["d"] if item["d"] is not None else -(item["c"][names.index(candidate)] or 0.0),
                item["id"],
            )
        )
    chosen = {}
    for count in (20, 14, 10, 7, 5, 3, 2, 1):
        chosen = {
            pair: items if len(items) <= 2 * count else items[:count] + items[-count:]
            for pair, items in directions.items()
        }
        if len(json.dumps(list(chosen.values()), ensure_ascii=False).encode("utf-8", "replace")) <= SAMPLE_BYTES:
            break
    ordered = sorted(chosen)
    data: dict[str, Any] = {
        "names": names,
        "styles": [styles[label] for label in names],
        "delta": [candidate, other] if other else None,
        "directions": [
            {
                "source": {"code": source, "lang": view.language_tag(source), "dir": view.text_direction(source)},
                "target": {"code": target, "lang": view.language_tag(target), "dir": view.text_direction(target)},
                "title": f"{source} → {target}",
                "items": chosen[source, target],
            }
            for source, target in ordered
        ],
    }
    shown = sum(len(items) for items in chosen.values())
    static = data["directions"][0]
    return {
        "data": data,
        "static": static,
        "static_items": static["items"][:3],
        "names": names,
        "styles": styles,
        "shown": shown,
        "total": len(joined),
        "delta": f"{candidate} − {other}" if other else "",
        "attribution": comparison.corpus.get("attribution") or "",
        "licence": comparison.corpus.get("licence") or "",
    }


def _sentence_score(sample: Mapping[str, Any]) -> float | None:
    value = sample.get("chrf++")
    return float(value) if isinstance(value, (int, float)) else None


def _shorten(text: Any) -> str:
    text = view.clean(text)
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    return f"{text[:SAMPLE_CHARACTERS]} … [{len(text) - SAMPLE_CHARACTERS} more characters]"


# --- price, pictures, facts ------------------------------------------------------------------------------------------------------


def _cost_totals(comparison: Comparison) -> list[dict[str, Any]]:
    """What each checkpoint with several stages of its own cost in all, beyond the base."""
    totals = []
    for label in view.labels(comparison):
        own = [cost for cost in view.own_costs(comparison) if cost.checkpoint == label]
        if label == comparison.base or len(own) < 2:
            continue
        total: dict[str, Any] = {"label": label}
        for name in ("tokens", "seconds", "flops"):
            numbers = [getattr(cost, name) for cost in own]
            total[name] = None if None in numbers else sum(numbers)
        totals.append(total)
    return totals


def _similarity(comparison: Comparison, similarity: LayerSimilarity, number: int) -> dict[str, Any]:
    """CKA of two checkpoints, layer against layer: a map, and its diagonal as a curve."""
    words = view.CONTRAST_TITLES[similarity.contrast]
    pair = f"{similarity.reference} and {similarity.candidate}"
    heat = figures.heat_map(
        f"similarity-{number}",
        title=f"Debiased CKA of {pair}, layer against layer",
        description=f"Rows are layers of {similarity.reference}, columns layers of {similarity.candidate}; darker is more alike.",
        values=similarity.values,
        rows=[_layer_label(layer) for layer in similarity.layers],
        columns=[_layer_label(layer) for layer in similarity.candidate_layers],
        shades=SIMILARITY_SHADES,
        axes=(f"layers of {_short_label(similarity.reference)}", f"layers of {_short_label(similarity.candidate)}"),
    )
    layers = [str(entry["layer"]) for entry in similarity.same_layer]
    values, low, high = ([entry[name] for entry in similarity.same_layer] for name in ("value", "ci_low", "ci_high"))
    numbers = [value for line in (values, low) for value in line if value is not None]
    # From 1 down, and never so close that rounding looks like a change.
    ticks = figures.nice_ticks(min([0.99, *numbers]), 1.0)
    style = _styles(comparison)[similarity.candidate]
    curve = figures.line_figure(
        f"same-layer-{number}",
        title=f"Debiased CKA of {pair}, each layer with the same layer",
        description="1: training left the geometry as it was. The axis does not start at 0.",
        layers=layers,
        series={similarity.candidate: values},
        bands={similarity.candidate: (low, high)},
        styles={similarity.candidate: style},
        low=ticks[0],
        high=ticks[-1],
        ticks=ticks,
        marked=_marked(comparison),
    )
    return {
        "title": f"{words}: {similarity.candidate} against {similarity.reference}",
        "sentence": view.similarity_sentence(similarity),
        "reference": similarity.reference,
        "candidate": similarity.candidate,
        "heat": heat,
        "curve": curve if numbers else "",
    }


def _short_label(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def _layer_label(layer: str) -> str:
    return "+norm" if "+" in layer else layer


def _projections(comparison: Comparison) -> dict[str, Any] | None:
    """Projections from the suites' extras: per layer and method one picture of each checkpoint."""
    found = [
        (label, entry)
        for label in view.labels(comparison)
        for result in comparison.results.get(label, {}).values()
        for entry in result.extras.get("projections") or []
        if entry.get("points") and len(entry["points"]) == len(entry.get("languages") or [])
    ]
    if not found:
        return None
    codes = {
        code: number
        for number, code in enumerate(dict.fromkeys(code for _, entry in found for code in entry["languages"]))
    }
    checkpoints = len({label for label, _ in found})
    shown = min(len(found[0][1]["points"]), PICTURE_POINTS) // len(codes)
    layers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number, (label, entry) in enumerate(found):
        # The first lines of each language: the same ones in all.
        lines: Counter[str] = Counter()
        points = []
        for code, (x, y) in zip(entry["languages"], entry["points"], strict=True):
            lines[code] += 1
            if lines[code] <= shown:
                points.append((code, float(x), float(y)))
        method, layer = str(entry["method"]).upper(), str(entry["layer"])
        quality = _projection_quality(entry)
        figure = figures.scatter_figure(
            f"projection-{number}",
            title=f"{method} of sentence vectors, {label}, layer {layer}",
            description=f"Each point is a sentence, coloured by language; {quality}.",
            points=points,
            styles=codes,
        )
        layers.setdefault(layer, {}).setdefault(method, []).append(
            {"label": label, "figure": figure, "quality": quality}
        )
    return {
        "layers": [(layer, sorted(layers[layer].items())) for layer in sorted(layers, key=view.layer_order)],
        "keys": [
            {"code": code, "name": view.language_name(code), "key": figures.scatter_key(number)}
            for code, number in codes.items()
        ],
        # A row holds one picture of each checkpoint, or those of both methods.
        "columns": min(4, checkpoints * (1 if checkpoints > 2 else 2)),
        "points": shown * len(codes),
        "lines": shown,
        "n": found[0][1]["n"],
        "seed": found[0][1]["seed"],
    }


def _projection_quality(entry: Mapping[str, Any]) -> str:
    """How much of the neighbourhoods or of the variance a projection keeps."""
    if entry["method"] == "umap":
        return f"trustworthiness {entry['trustworthiness']:.2f}, {entry['neighbours']} neighbours"
    return f"explains {100 * sum(entry['explained_variance']):.0f} % of the variance"


def _maps(comparison: Comparison) -> list[dict[str, Any]]:
    """All-pairs maps from the suites' extras: per metric and layer one map of each checkpoint."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for label in view.labels(comparison):
        for result in comparison.results.get(label, {}).values():
            for entry in result.extras.get("maps") or []:
                metric, layer, names = (
                    str(entry.get("metric")),
                    str(entry.get("layer")),
                    [str(code) for code in entry.get("languages") or []],
                )
                figure = figures.heat_map(
                    f"map-{_identifier(label)}-{_identifier(metric)}-{_identifier(layer)}",
                    title=f"{view.metric_title(metric)} of all language pairs, {label}, layer {layer}",
                    description="Rows and columns are languages; darker is higher.",
                    values=entry.get("values") or [],
                    rows=names,
                    columns=names,
                    shades=figures.EVEN_SHADES,
                )
                found.setdefault((metric, layer), []).append({"label": label, "figure": figure})
    return [
        {
            "title": view.metric_title(metric),
            "note": view.metric_note(metric),
            "layer": layer,
            "pictures": found[metric, layer],
        }
        for metric, layer in sorted(found, key=lambda key: (key[0], view.layer_order(key[1])))
    ]


def _facts(comparison: Comparison) -> dict[str, Any]:
    """Who was measured, how, and on what machine, as plain name and value pairs."""
    checkpoints = []
    for label in view.labels(comparison):
        meta = comparison.checkpoints.get(label, {})
        role = "base" if label == comparison.base else "control" if label == comparison.control else "candidate"
        checkpoints.append(
            {
                "label": label,
                "role": role if comparison.candidates else "checkpoint",
                "reference": meta.get("reference") or "",
                "stage": meta.get("stage") or "",
                "step": meta.get("step"),
                "align_layer": meta.get("align_layer"),
                "format": meta.get("format") or "",
                "parameters": view.quantity(float(meta["parameters"])) if meta.get("parameters") else "",
                "content_hash": str(meta.get("content_hash") or "")[:16],
            }
        )
    fingerprints: list[dict[str, Any]] = []
    environments: list[dict[str, Any]] = []
    for suite in view.suites(comparison):
        results = {label: by_suite[suite] for label, by_suite in comparison.results.items() if suite in by_suite}
        for table, attribute in ((fingerprints, "fingerprint"), (environments, "environment")):
            names = sorted({name for result in results.values() for name in getattr(result, attribute)})
            for name in names:
                values = {label: _plain(getattr(result, attribute).get(name)) for label, result in results.items()}
                same = len(set(values.values())) == 1
                text = (
                    next(iter(values.values()))
                    if same
                    else "; ".join(f"{label}: {value}" for label, value in values.items())
                )
                table.append({"suite": view.SUITE_TITLES.get(suite, suite), "name": name, "value": text, "same": same})
    seconds = [
        {
            "suite": view.SUITE_TITLES.get(suite, suite),
            "times": [_seconds(comparison, label, suite) for label in view.labels(comparison)],
        }
        for suite in view.suites(comparison)
    ]
    used = comparison.corpus if uses_corpus(comparison) else {}
    corpus = {name.replace("_", " "): _plain(value) for name, value in used.items() if value not in (None, "", [], {})}
    return {
        "checkpoints": checkpoints,
        "fingerprints": fingerprints,
        "environments": environments,
        "seconds": seconds,
        "corpus": corpus,
    }


def _seconds(comparison: Comparison, label: str, suite: str) -> str:
    result = comparison.results.get(label, {}).get(suite)
    return view.duration(result.seconds) if result and result.seconds else "–"


def _plain(value: Any) -> str:
    """A recorded value as short text."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, (list, tuple)):
        text = ", ".join(_plain(item) for item in value)
    else:
        text = json.dumps(view.finite(value), ensure_ascii=False)
    return text if len(text) <= 1000 else f"{text[:1000]} … [{len(text) - 1000} more characters]"


def _notes(comparison: Comparison) -> list[str]:
    """Sentences of the suites for the reader, each once, with the checkpoints it is about where that is not all."""
    found: dict[str, list[str]] = {}
    for label in view.labels(comparison):
        for note in dict.fromkeys(
            note for result in comparison.results.get(label, {}).values() for note in result.notes
        ):
            found.setdefault(note, []).append(label)
    every = len(view.labels(comparison))
    return [note if len(labels) == every else f"{', '.join(labels)}: {note}" for note, labels in found.items()]
