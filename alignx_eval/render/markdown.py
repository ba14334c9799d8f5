"""A summary for a job page or a comment: what changed, the price, the verdict of the gate, the diagnosis; everything
else folded away."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from alignx_eval import wording
from alignx_eval.comparison.contrasts import CONTRAST_TITLES, Contrast, contrasts_of, list_contrasts
from alignx_eval.comparison.costs import own_costs
from alignx_eval.comparison.means import table_layer
from alignx_eval.comparison.rows import labels
from alignx_eval.judgement.gate import STATUSES
from alignx_eval.judgement.gate import WORDS as OUTCOME_WORDS
from alignx_eval.metrics import SUITE_TITLES, metric_card
from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison, ComparisonRow
    from alignx_eval.judgement.gate import GateRow, Verdict
    from alignx_eval.judgement.report import Report
    from alignx_eval.judgement.series import Series

# A job summary on GitHub is dropped as a whole beyond 1 MiB.
MAXIMUM_BYTES = 900_000
WORST = 10
MISMATCHES = 20


def render(report: Report) -> str:
    """GitHub-flavoured Markdown of at most `MAXIMUM_BYTES` bytes; what does not fit is counted in a visible note."""
    lines = _head(report)
    tail = ["", "Every number is in `results.json` beside this file; `report.html` has the curves and the samples.", ""]
    left_out: list[str] = []
    size = _size(lines) + _size(tail) + 2000
    for title, block in _sections(report):
        if size + _size(block) > MAXIMUM_BYTES:
            left_out.append(title)
            continue
        size += _size(block)
        lines += block
    if left_out:
        lines += [
            f"**{len(left_out)} parts were left out to stay under {MAXIMUM_BYTES:,} bytes**; `results.json` has them.",
            "",
        ]
    return wording.clean("\n".join(lines + tail))


def _head(report: Report) -> list[str]:
    """What is never left out: the outcome where it is enforced, warnings, mismatches, what was compared, how
    checkpoints were opened."""
    comparison, verdict = report.comparison, report.verdict
    lines = [f"# {_text(_title(comparison))}", ""]
    if verdict is not None and verdict.enforced:
        lines = [
            f"# {_text(f'{_outcome(verdict)}: {_title(comparison)}')}",
            "",
            f"**{_text(view.verdict_line(verdict))}**",
            "",
        ]
    warnings = comparison.warnings
    lines += _callout(f"{len(warnings)} warning{'' if len(warnings) == 1 else 's'}:", warnings, len(warnings))
    lines += _callout(
        "Measured differently, and compared all the same (`--allow-mismatch`):", comparison.mismatches, MISMATCHES
    )
    lines += [_text(report.sentence), ""]
    note = view.no_control_sentence(comparison)
    lines += [f"> {_text(note)}", ""] if note else []
    notes = view.opening_notes(comparison)
    return lines + (
        ["How the checkpoints were opened:", "", *(f"- {_text(each)}" for each in notes), ""] if notes else []
    )


def _callout(title: str, texts: list[str], most: int) -> list[str]:
    """A block that stands out, with at most `most` of `texts`; nothing without any."""
    if not texts:
        return []
    lines = [f"> **{title}**", ">", *(f"> - {_text(text)}" for text in texts[:most])]
    return [*lines, *([f"> - and {len(texts) - most} more, in `results.json`"] if len(texts) > most else []), ""]


def _outcome(verdict: Verdict) -> str:
    return f"{view.OUTCOME_MARKS[verdict.outcome]} {OUTCOME_WORDS[verdict.outcome]}"


def _sections(report: Report) -> Iterator[tuple[str, list[str]]]:
    """(title, lines), the most important first."""
    comparison, verdict = report.comparison, report.verdict
    yield "Findings", _findings(report)
    if report.series is not None:
        yield "Series", _series(report.series)
    for contrast in list_contrasts(comparison)[:1]:
        yield "Worst languages", _worst_languages(comparison, contrast)
    costs = _costs(comparison)
    if costs:
        yield "Price", costs
    if verdict is not None:
        yield "Gate", _gate(verdict)
    if report.diagnoses:
        yield "Diagnosis", _diagnosis(report)
    for candidate in verdict.candidates if verdict is not None else ():
        title = f"All {len(candidate.rows)} gated rows: {candidate.candidate} against {candidate.reference}"
        if candidate.rows:
            yield title, _folded(title, _gate_table(candidate.rows))
    for title, table in _tables(comparison):
        yield title, _folded(title, table)


def _findings(report: Report) -> list[str]:
    """The headline numbers as tables, then what else was found, in sentences."""
    comparison = report.comparison
    lines = ["## Findings", ""]
    for candidate in comparison.candidates:
        lines += _headlines(report, candidate)
    if not comparison.candidates:
        found = view.measured(comparison)
        lines += ["| number | value | 95 % interval | n | beside it |", "|---|---:|---|---:|---|"] if found else []
        for each in found:
            value, _, interval = view.measured_numbers(each.row).partition(" [")
            unjudged = f"not to be judged: {each.row.unjudged}" if each.row.unjudged else ""
            beside = "; ".join(filter(None, (each.beside, unjudged)))
            lines.append(
                f"| {_text(each.title)} | {_text(value)} | {f'[{interval}' if interval else ''} | {each.row.n} | "
                f"{_text(beside)} |"
            )
        lines.append("")
    others = [f"- {_text(finding)}" for finding in view.other_findings(report)]
    for similarity in comparison.layer_similarity:
        title = f"{CONTRAST_TITLES[similarity.contrast]}, {similarity.candidate} against {similarity.reference}"
        others.append(f"- {_text(f'{title}, layer against layer: {view.similarity_sentence(similarity)}')}")
    return [*lines, *others, ""] if others else lines


def _headlines(report: Report, candidate: str) -> list[str]:
    """The means of one candidate, the effect of alignment first."""
    comparison = report.comparison
    headlines = [headline for headline in report.headlines if headline.candidate == candidate]
    if not headlines:
        return []
    contrasts = contrasts_of(comparison, candidate)
    names = [*dict.fromkeys([comparison.base, *(contrast.other for contrast in contrasts)]), candidate]
    kinds = {contrast.other: contrast.kind for contrast in contrasts}
    head = [f"{contrast.title}: {contrast.formula}" for contrast in contrasts]
    lines = [
        f"| {' | '.join(map(_text, ['mean', *head, *names]))} |",
        "|---|" + "---|" * len(head) + "---:|" * len(names),
    ]
    for headline in headlines:
        note = view.headline_note(headline)
        cells = [_text(view.headline_title(headline) + (f" ({note})" if note else ""))]
        by_kind = {change.contrast: change for change in headline.changes}
        for contrast in contrasts:
            change = by_kind.get(contrast.kind)
            cells.append(
                "–" if change is None else f"{view.MARKS[change.word]} {_text(view.change_text(headline, change))}"
            )
        cells += [view.headline_value(headline, kinds.get(name, "")) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"In brackets: 95 % intervals of the difference, {view.headline_sizes(headlines)}. {view.HEADLINE_RULE}",
        "",
    ]


def _folded(title: str, lines: list[str]) -> list[str]:
    return ["<details>", f"<summary>{_html(title)}</summary>", "", *lines, "", "</details>", ""]


def _gate(verdict: Verdict) -> list[str]:
    """Counts by candidate and level, and the worst rows."""
    lines = [f"## {_text(f'{view.gate_title(verdict)}: {_outcome(verdict)}')}", ""]
    if not verdict.enforced:  # else it is the first line
        lines += [_text(view.verdict_line(verdict)), ""]
    lines += [
        _text(view.rule_line(verdict)),
        "",
        "| candidate | outcome | level | " + " | ".join(_status(status) for status in STATUSES) + " |",
    ]
    lines.append("|---|---|---|" + "---:|" * len(STATUSES))
    for candidate in verdict.candidates:
        for level in view.levels(candidate):
            counts = candidate.counts(level)
            who = f"{_text(candidate.candidate)} against {_text(candidate.reference)}"
            outcome = f"{view.OUTCOME_MARKS[candidate.outcome]} {OUTCOME_WORDS[candidate.outcome]}"
            meaning = f"{level} ({view.LEVEL_MEANING[level]})"
            lines.append(
                f"| {who} | {outcome} | {meaning} | " + " | ".join(str(counts[status]) for status in STATUSES) + " |"
            )
    lines.append("")
    worst = verdict.worst(WORST)
    if not worst:
        return [*lines, "No gated row is beyond its tolerance, missing or not settled.", ""]
    open_rows = len(verdict.worst(10**9))
    shown = (
        f"The {len(worst)} worst of {open_rows} rows that are not within tolerance"
        if open_rows > len(worst)
        else "The worst rows"
    )
    return [*lines, f"{shown}; losses are in the metric's unit, a negative one is a gain:", "", *_gate_table(worst), ""]


def _gate_table(rows: Iterable[GateRow]) -> list[str]:
    lines = [
        "| status | level | candidate | metric | language | loss | tolerance | loss, one-sided bound | difference, 95 "
        "% interval "
        "| adj. p | n | clusters | why |",
        "|---|---|---|---|---|---:|---:|---:|---|---:|---:|---:|---|",
    ]
    for gated in rows:
        row = gated.row
        what = [_text(gated.wanted), "", "–", "–", "", "", "–", "", ""]
        if row is not None:
            what = [
                _text(view.row_title(row) + wording.own_rate(row)),
                _code(view.pair_title(row)) + (" (protected)" if gated.protected else ""),
                view.gate_loss(gated),
                view.gate_tolerance(gated),
                view.gate_bound(gated),
                f"{wording.difference(row.difference, row.metric)} {view.interval(row)}".rstrip(),
                wording.probability(gated.p_adjusted).replace("<", "&lt;"),
                str(row.n),
                str(row.clusters),
            ]
        cells = [_status(gated.status), gated.level, _text(gated.candidate), *what, _text(gated.reason or "")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _status(status: str) -> str:
    colour = "" if status == "missing" else f" ({status})"
    return f"{view.STATUS_MARKS[status]} {view.STATUS_WORDS[status]}{colour}"


def _series(series: Series) -> list[str]:
    """The sentence, and a column for each headline mean over the steps."""
    lines = ["## Steps of the training", "", f"**{_text(series.sentence)}**", ""]
    lines += ["| step | gate | " + "".join(f"{_text(each.title)} | " for each in series.trajectories).rstrip()]
    lines += ["|---|---|" + "---|" * len(series.trajectories)]
    for number, step in enumerate(series.steps):
        gate = (
            "reference" if step.outcome is None else f"{view.OUTCOME_MARKS[step.outcome]} {OUTCOME_WORDS[step.outcome]}"
        )
        cells = [_text(step.title if step.title == step.label else f"{step.title} ({step.label})"), gate]
        for each in series.trajectories:
            point = each.points[number]
            text = wording.number(point.value, each.metric)
            if point.difference is not None:
                ends = wording.between(point.ci_low, point.ci_high, each.metric)
                change = f"{wording.difference(point.difference, each.metric)} {ends}".rstrip()
                text += f" ({change}, n {point.n})"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        "In brackets: difference to the base with its 95 % interval, not adjusted for the number of steps.",
        "",
    ]


def _diagnosis(report: Report) -> list[str]:
    """A line for each rule, with the rule and the evidence folded below it."""
    from alignx_eval.judgement.diagnosis import RULES

    lines = ["## Diagnosis", ""]
    for each in report.diagnoses:
        status = f"{view.DIAGNOSIS_MARKS[each.status]} <b>{_html(each.rule)}: {view.DIAGNOSIS_WORDS[each.status]}</b>"
        title = f"{status}. {_html(each.sentence)}"
        lines += [
            "<details>",
            f"<summary>{title}</summary>",
            "",
            *(f"- {_text(evidence.text)}" for evidence in each.evidence),
        ]
        lines += [f"- and {each.more} more"] * bool(each.more)
        lines += ["", _text(f"Rule: {RULES[each.rule]}"), "", "</details>", ""]
    return lines


def _worst_languages(comparison: Comparison, contrast: Contrast) -> list[str]:
    worst = view.worst_languages(comparison, contrast, count=5)
    lines = [f"## Worst languages: {_text(contrast.formula)}", ""]
    if not worst:
        return [*lines, "None is below in any metric that has an interval.", ""]
    lines += ["| language | metric | difference | 95 % interval | n | verdict |", "|---|---|---:|---|---:|---|"]
    for code, row in worst:
        what = _text(view.row_title(row) + wording.own_rate(row)) + (
            f" {_code(view.pair_title(row))}" if row.other_language else ""
        )
        numbers = f"{wording.difference(row.difference, row.metric)} | {view.interval(row)} | {row.n}"
        verdict = f"{view.MARKS[row.verdict]} {view.WORDS[row.verdict]}"
        lines.append(f"| {_text(view.language_name(code))} {_code(code)} | {what} | {numbers} | {verdict} |")
    return [*lines, ""]


def _title(comparison: Comparison) -> str:
    if not comparison.candidates:
        return comparison.base
    return (
        ", ".join(comparison.candidates)
        + f" against {comparison.base}"
        + (f" and the control {comparison.control}" if comparison.control else "")
    )


def _costs(comparison: Comparison) -> list[str]:
    costs = [cost for label in labels(comparison) for cost in own_costs(comparison, label)]
    if not costs:
        return []
    lines = [
        "## Price",
        "",
        "| checkpoint | stage | tokens | time | FLOP | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for cost in costs:
        amounts = (
            wording.quantity(cost.tokens),
            wording.duration(cost.seconds),
            wording.quantity(cost.flops),
            wording.quantity(cost.peak_memory_bytes, "B"),
        )
        lines.append(f"| {_text(cost.checkpoint)} | {_text(cost.stage)} | " + " | ".join(amounts) + " |")
    return [*lines, ""]


def _row_table(contrast: Contrast, rows: Iterable[ComparisonRow]) -> list[str]:
    """A line for each row of a contrast."""
    lines = [
        f"| metric | language | {_text(contrast.other)} | {_text(contrast.candidate)} "
        "| difference | 95 % interval | adj. p | MDE | n | verdict |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = [
            _text(metric_card(row.metric).title + wording.own_rate(row)),
            _code(view.pair_title(row)),
            *(wording.number(value, row.metric) for value in (row.base, row.candidate)),
            wording.difference(row.difference, row.metric),
            _text(view.interval_or_reason(row)),
            wording.probability(row.p_adjusted).replace("<", "&lt;"),
            wording.size(row.minimum_detectable_effect, row.metric),
            str(row.n),
            f"{view.MARKS[row.verdict]} {view.WORDS[row.verdict]}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _tables(comparison: Comparison) -> Iterable[tuple[str, list[str]]]:
    """(title, lines) of one table per contrast and suite; of a single checkpoint, per suite."""
    for contrast in list_contrasts(comparison):
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
            lines = _row_table(contrast, own)
            if hidden:
                lines += ["", f"{hidden} rows of other layers or without a better direction are in `results.json`."]
            where = f", layer {layer}" if layer is not None else ""
            yield f"{SUITE_TITLES.get(suite, suite)}{where}: {contrast.formula}", lines
    if comparison.candidates:
        return
    for suite, result in comparison.results.get(comparison.base, {}).items():
        layer = table_layer(comparison.checkpoints.get(comparison.base, {}), result.rows)
        lines = ["| metric | language | value | 95 % interval | n |", "|---|---|---:|---|---:|"]
        for single in result.rows:
            if single.layer is not None and single.layer != layer:
                continue
            interval = view.value_interval(single) or _text(single.reason or "")
            interval += f", not to be judged: {_text(single.unjudged)}" if single.unjudged else ""
            title = _text(metric_card(single.metric).title + wording.own_rate(single))
            cells = (
                title,
                _code(view.pair_title(single)),
                wording.number(single.value, single.metric),
                interval,
                str(single.n),
            )
            lines.append(f"| {' | '.join(cells)} |")
        yield SUITE_TITLES.get(suite, suite) + (f", layer {layer}" if layer is not None else ""), lines


def _html(text: str) -> str:
    """The same inside a line of HTML."""
    return html.escape(" ".join(wording.clean(text).split()), quote=False).replace("@", "&#64;").replace("`", "&#96;")


def _code(text: str) -> str:
    """A name in a code span, also inside a table."""
    return f"`{re.sub(r'[`|]', '', ' '.join(wording.clean(text).split()))}`"


def _size(lines: list[str]) -> int:
    return sum(len(line.encode("utf-8", "replace")) + 1 for line in lines)


def _text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no links, no mentions, one line."""
    text = html.escape(" ".join(wording.clean(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text).replace("@", "&#64;")
