"""Curves by layer in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

from alignx_eval.comparison.means import layer_order, marked_layer
from alignx_eval.comparison.rows import labels
from alignx_eval.metrics import better_direction, metric_card
from alignx_eval.render import figures, svg, view

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.results import Row


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
QUANTUM = 10_000  # curve values travel to report.js as whole ten-thousandths


def line_styles(comparison: Comparison) -> dict[str, int]:
    """Number of the colour, dash and marker of each checkpoint: base 0, control 1, candidates from 2."""
    styles = {comparison.base: 0}
    if comparison.control:
        styles[comparison.control] = 1
    for label in labels(comparison):
        styles.setdefault(label, 2 + sum(number >= 2 for number in styles.values()))
    return styles


@dataclass(slots=True)
class _Curve:
    """One metric over the layers: of each checkpoint the mean over languages with its band, and what report.js draws
    for one pair."""

    series: dict[str, list[float | None]]
    bands: dict[str, svg.Band]
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


def curves_section(comparison: Comparison) -> dict[str, Any] | None:
    """Layer curves of every metric that has layers: drawn for the mean over languages, with data to redraw for one
    pair."""
    found: dict[str, dict[str, dict[tuple[str | None, str | None], dict[str, Row]]]] = {}
    for label in labels(comparison):
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
        key=layer_order,
    )
    styles = line_styles(comparison)
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
            "title": metric_card(metric).title,
            "note": metric_card(metric).about,
            "direction": better_direction(curve.row.higher_is_better),
            "band": curve.band_kind,
            "what": what,
            "n": curve.row.n,
            "compared": metric_card(compared).title if compared else "",
        }
        nothing = [None] * len(layers)
        for frame, heights in frames.items():
            ticks = svg.nice_ticks(min(0.0, *heights), max(heights))
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
                    f"{size}-{frame}-{identifier(metric)}",
                    title=f"{metric_card(metric).title} by layer, {what if means else 'one language pair'}",
                    description=f"{metric_card(metric).about}. One line per checkpoint: {', '.join(curve.series)}.",
                    layers=layers,
                    series=curve.series if means else dict.fromkeys(curve.series, nothing),
                    bands=curve.bands if means else dict.fromkeys(curve.series, (nothing, nothing)),
                    styles=styles,
                    low=ticks[0],
                    high=ticks[-1],
                    ticks=ticks,
                    levels=curve.levels,
                    marked=marked_layers(comparison),
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
    styles = line_styles(comparison)
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
                    levels.append((metric_card(row.metric).title, row.value))
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


def marked_layers(comparison: Comparison) -> list[tuple[str, str]]:
    """Align layers to mark: (layer, label), one label for all checkpoints that share the layer."""
    by_layer: dict[str, list[str]] = {}
    for label in labels(comparison):
        layer = marked_layer(comparison.checkpoints.get(label, {}))
        if layer is not None:
            by_layer.setdefault(layer, []).append(label)
    if len(by_layer) == 1:
        return [(layer, f"align layer {layer}") for layer in by_layer]
    return [(layer, f"align layer {layer} ({', '.join(names)})") for layer, names in by_layer.items()]


def _layer_summary(
    comparison: Comparison, series: Mapping[str, list[float | None]], layers: Sequence[str], styles: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Align, then diverge, as numbers per checkpoint: retrieval at the marked layer, at its peak, and at the last two
    states."""
    marked = marked_layers(comparison)
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


def identifier(text: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in text)
