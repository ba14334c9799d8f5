"""A summary for a job page or a comment: the verdict first, then the worst languages, then everything else folded away."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison

# A job summary on GitHub is dropped as a whole beyond 1 MiB.
MAXIMUM_BYTES = 900_000


def render(comparison: Comparison) -> str:
    """GitHub-flavoured Markdown of at most `MAXIMUM_BYTES` bytes; what does not fit is counted in a visible note."""
    lines = [f"# {_text(_title(comparison))}", "", _text(view.title_sentence(comparison)), ""]
    contrasts = view.contrasts(comparison)
    if contrasts:
        shown = [verdict for verdict in view.VERDICTS if verdict != "no-direction"]
        lines += [
            "| | " + " | ".join(f"{view.MARKS[verdict]} {view.WORDS[verdict]}" for verdict in shown) + " |",
            "|---|" + "---:|" * len(shown),
        ]
        for contrast in contrasts:
            counts = view.count_verdicts(contrast.rows)
            lines.append(f"| {contrast.title}: {_text(contrast.formula)} | " + " | ".join(str(counts[verdict]) for verdict in shown) + " |")
        lines.append("")
    note = view.no_control_sentence(comparison)
    if note:
        lines += [f"> {_text(note)}", ""]
    lines += [*(f"- {_text(finding)}" for finding in comparison.findings), ""]
    for contrast in contrasts[:1]:
        worst = view.worst_languages(comparison, contrast, count=5)
        lines += ["## Worst languages", ""]
        if worst:
            lines += [
                f"{_text(contrast.formula)}",
                "",
                "| language | metric | difference | 95 % interval | n | verdict |",
                "|---|---|---:|---|---:|---|",
            ]
            for code, row in worst:
                what = _text(view.row_title(row)) + (f" `{view.pair_title(row)}`" if row.other_language else "")
                numbers = f"{view.difference(row.difference, row.metric)} | {view.interval(row)} | {row.n}"
                verdict = f"{view.MARKS[row.verdict]} {view.WORDS[row.verdict]}"
                lines.append(f"| {_text(view.language_name(code))} `{code}` | {what} | {numbers} | {verdict} |")
        else:
            lines.append("None is below in any metric that has an interval.")
        lines.append("")
    if comparison.warnings:
        lines += ["## Warnings", "", *(f"- {_text(warning)}" for warning in comparison.warnings), ""]
    lines += _costs(comparison)

    tail = ["", "Every number is in `results.json` beside this file; `report.html` has the curves and the samples.", ""]
    left_out: list[str] = []
    size = _size(lines) + _size(tail) + 2000
    for title, table in _tables(comparison):
        block = ["<details>", f"<summary>{html.escape(view.clean(title))}</summary>", "", *table, "", "</details>", ""]
        if size + _size(block) > MAXIMUM_BYTES:
            left_out.append(title)
            continue
        size += _size(block)
        lines += block
    if left_out:
        lines += [
            f"**{len(left_out)} tables were left out to stay under {MAXIMUM_BYTES:,} bytes**; `results.json` has them.",
            "",
        ]
    return view.clean("\n".join(lines + tail))


def _title(comparison: Comparison) -> str:
    if not comparison.candidates:
        return comparison.base
    return (
        ", ".join(comparison.candidates)
        + f" against {comparison.base}"
        + (f" and the control {comparison.control}" if comparison.control else "")
    )


def _costs(comparison: Comparison) -> list[str]:
    costs = view.own_costs(comparison)
    if not costs:
        return []
    lines = ["## Price", "", "| checkpoint | stage | tokens | time | FLOP | peak memory |", "|---|---|---:|---:|---:|---:|"]
    for cost in costs:
        amounts = (
            view.quantity(cost.tokens),
            view.duration(cost.seconds),
            view.quantity(cost.flops),
            view.quantity(cost.peak_memory_bytes, "B"),
        )
        lines.append(f"| {_text(cost.checkpoint)} | {_text(cost.stage)} | " + " | ".join(amounts) + " |")
    return [*lines, ""]


def _tables(comparison: Comparison) -> Iterable[tuple[str, list[str]]]:
    """(title, lines) of one table per contrast and suite; of a single checkpoint, per suite."""
    for contrast in view.contrasts(comparison):
        rows = view.headline_rows(comparison, contrast)
        for suite in view.suites(comparison):
            own = sorted(
                (row for row in rows if row.suite == suite and row.verdict != "no-direction"),
                key=lambda row: (row.metric, *view.worst_first(row)),
            )
            if not own:
                continue
            layer = next((row.layer for row in own if row.layer is not None), None)
            hidden = sum(row.suite == suite for row in contrast.rows) - len(own)
            lines = [
                f"| metric | language | {_text(contrast.other)} | {_text(contrast.candidate)} "
                "| difference | 95 % interval | adj. p | MDE | n | verdict |",
                "|---|---|---:|---:|---:|---|---:|---:|---:|---|",
            ]
            for row in own:
                values = [view.number(value, row.metric) for value in (row.base, row.candidate)]
                judged = [
                    view.difference(row.difference, row.metric),
                    view.interval(row),
                    view.probability(row.p_adjusted).replace("<", "&lt;"),
                ]
                cells = [
                    _text(view.metric_title(row.metric)),
                    f"`{view.pair_title(row)}`",
                    *values,
                    *judged,
                    view.size(row.minimum_detectable_effect, row.metric),
                ]
                lines.append("| " + " | ".join([*cells, str(row.n), f"{view.MARKS[row.verdict]} {view.WORDS[row.verdict]}"]) + " |")
            if hidden:
                lines += ["", f"{hidden} rows of other layers or without a better direction are in `results.json`."]
            where = f", layer {layer}" if layer is not None else ""
            yield f"{view.SUITE_TITLES.get(suite, suite)}{where}: {contrast.formula}", lines
    if comparison.candidates:
        return
    for suite, result in comparison.results.get(comparison.base, {}).items():
        layer = view.table_layer(comparison, comparison.base, result.rows)
        lines = ["| metric | language | value | 95 % interval | n |", "|---|---|---:|---|---:|"]
        for single in result.rows:
            if single.layer is not None and single.layer != layer:
                continue
            ends = [view.number(end, single.metric) for end in (single.ci_low, single.ci_high) if end is not None]
            interval = f"[{', '.join(ends)}]" if len(ends) == 2 else _text(single.reason or "")
            value = view.number(single.value, single.metric)
            lines.append(f"| {_text(view.metric_title(single.metric))} | `{view.pair_title(single)}` | {value} | {interval} | {single.n} |")
        yield view.SUITE_TITLES.get(suite, suite) + (f", layer {layer}" if layer is not None else ""), lines


def _size(lines: list[str]) -> int:
    return sum(len(line.encode("utf-8", "replace")) + 1 for line in lines)


def _text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no links, no mentions, one line."""
    text = html.escape(" ".join(view.clean(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text).replace("@", "&#64;")
