"""Tables of metrics in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.comparison.contrasts import Contrast, list_contrasts
from alignx_eval.comparison.means import layer_order, table_layer
from alignx_eval.comparison.rows import is_mean, own_language
from alignx_eval.metrics import METRICS, SUITE_TITLES, better_direction, metric_card
from alignx_eval.render import figures, view

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.results import Row


OPEN_METRICS = ("precision_at_1", "probe_balanced_accuracy", "bits_per_byte", "chrf++", "acc")


def tables_section(comparison: Comparison) -> list[dict[str, Any]]:
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
        for contrast in list_contrasts(comparison)
    ]


def _suite_tables(
    comparison: Comparison, contrast: Contrast | None, rows: Iterable[Any], measured: Mapping[Any, Row]
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
        order = list(METRICS)
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
            tables.append({"suite": suite, "title": SUITE_TITLES.get(suite, suite), "metrics": metrics})
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
    contrast: Contrast | None,
    metric: str,
    by_layer: bool,
    rows: list[Any],
    measured: Mapping[Any, Row],
) -> dict[str, Any]:
    """One table: a metric by language, or by layer; without a metric, the summaries of a suite."""
    layer = None
    total = len(rows)
    if not by_layer and any(row.layer is not None for row in rows):
        layer = table_layer(comparison.checkpoints.get(contrast.candidate if contrast else comparison.base, {}), rows)
        rows = [row for row in rows if row.layer == layer]
    if contrast is None:
        labels = [comparison.base]
        rows = sorted(rows, key=lambda row: _value_order(row, by_layer)) if metric else rows
    else:
        labels = list(dict.fromkeys([comparison.base, contrast.other, contrast.candidate]))
        rows = (
            sorted(rows, key=lambda row: layer_order(row.layer or ""))
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
        "title": metric_card(metric).title if metric else "Summaries",
        "note": metric_card(metric).about,
        "by_layer": by_layer,
        "layer": layer,
        "hidden": total - len(rows),
        "direction": better_direction(first.higher_is_better) if metric else "",
        "first_column": "Quantity" if not metric else "Layer" if by_layer else "Language",
        "tall": len(lines) > 24,
        "counts": view.count_verdicts(rows) if contrast else None,
        "labels": labels,
        "lines": lines,
        "sizes": sizes,
        "n": f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}",
        # BLEU's method names the tokenizer of each target language: too long to list.
        "methods": methods if len(methods) <= 2 else [f"{len(methods)} methods, by row in results.json"],
        "scale": wording.size(scale, metric) if scale and metric else "",
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
        return layer_order(row.layer or "")
    if row.value is None:
        return (2, 0.0)
    return (not is_mean(row), row.value if row.higher_is_better is not False else -row.value)


def _table_line(
    comparison: Comparison,
    contrast: Contrast | None,
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
    floor, floor_detail = floor_of(row, own[-1], labels[-1], measured)
    code = own_language(row, comparison.pivot)
    title, name = (
        (f"layer {row.layer}", "") if by_layer else (view.pair_title(row), view.language_name(code) if code else "mean")
    )
    line: dict[str, Any] = {
        "title": title,
        "name": name,
        "summary": is_mean(row) and not by_layer,
        "values": [wording.number(value, row.metric) for value in values],
        "floor": "" if floor is None else wording.number(floor, row.metric),
        "floor_detail": floor_detail,
        "n": row.n,
        "reason": row.reason or "",
    }
    if contrast is None:
        if row.unjudged:
            line["reason"] = f"not to be judged: {row.unjudged}"
        interval = view.value_interval(row)
        return line | {"interval": interval}
    return line | {
        "difference": wording.difference(row.difference, row.metric),
        "interval": view.interval(row),
        "forest": figures.interval_mark(row.ci_low, row.difference, row.ci_high, scale, row.verdict),
        "p": wording.probability(row.p_adjusted if row.p_adjusted is not None else row.p),
        "mde": wording.size(row.minimum_detectable_effect, row.metric),
        "verdict": row.verdict,
        "mark": view.MARKS[row.verdict],
        "word": view.WORDS[row.verdict],
    }


_NULLS = {
    "translation": "shuffled references",
    "language_id": "random labels",
    "off_target_rate": "the references themselves",
}


def floor_of(row: Any, own: Row | None, label: str, measured: Mapping[Any, Row]) -> tuple[float | None, str]:
    """What a score is worth nothing below, and where it comes from: chance, the broken pairing, a copied source, an
    empty answer."""
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
        f"{name} {wording.number(value, row.metric)}" for name, value in defined
    )
