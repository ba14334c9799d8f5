"""The first screen after a comparison: the verdict, what changed, for whom it is worst, the diagnosis, and where to read on."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alignx_eval.gate import describe_row
from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison, ComparisonRow
    from alignx_eval.gate import GateRow, Verdict

_STYLES = {
    "bold": "1", "better": "34", "worse": "31", "no-evidence": "0", "insufficient-data": "2",
    "fail": "1;31", "incomplete": "1;31", "inconclusive": "1;33", "pass": "1;34",
    "red": "31", "missing": "31", "amber": "33", "grey": "2", "green": "34",
    "found": "31", "cannot-tell": "33", "not-found": "0",
}  # fmt: skip
WORST = 3
MISMATCHES = 5
Style = Callable[[str, str], str]


def render(
    comparison: Comparison,
    verdict: Verdict | None = None,
    *,
    report_path: str | None = None,
    next_command: str | None = None,
    width: int = 80,
    colour: bool = False,
) -> str:
    """Plain text of at most `width` columns (paths and commands are never broken). `NO_COLOR` in the environment beats `colour`."""
    style = _painter(colour and not os.environ.get("NO_COLOR"))
    blocks: list[list[str]] = []
    if verdict is not None:
        blocks.append(_gate(verdict, width, style))
    if verdict is not None and comparison.series:
        from alignx_eval.series import make_series

        blocks.append([style("bold", line) for line in _wrap(f"Series: {make_series(comparison, verdict).sentence}", width)])
    if comparison.mismatches:
        blocks.append(_mismatches(comparison, width, style))
    blocks.append(_compared(comparison, width, style))
    note = view.no_control_sentence(comparison)
    if note:
        blocks.append(_wrap(note, width))
    if comparison.candidates and not (verdict is not None and verdict.worst(1)):
        blocks.append(_worst_languages(comparison, width, style))
    diagnoses = _diagnosis(comparison, width, style)
    if diagnoses:
        blocks.append(diagnoses)
    elif comparison.findings:
        findings = [line for finding in comparison.findings for line in _wrap(finding, width, "  * ", "    ")]
        blocks.append([style("bold", "Findings"), *findings])
    if comparison.warnings:
        blocks.append([style("bold", f"Warnings ({len(comparison.warnings)})")])
        blocks[-1] += [line for warning in comparison.warnings[:3] for line in _wrap(warning, width, "  ! ", "    ")]
        if len(comparison.warnings) > 3:
            blocks[-1].append(f"  ({len(comparison.warnings) - 3} more in the report)")
    ends = [("Report  ", report_path), ("Next    ", next_command)]
    if report_path or next_command:
        blocks.append([title + " ".join(view.clean(text).split("\n")) for title, text in ends if text])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _gate(verdict: Verdict, width: int, style: Style) -> list[str]:
    """Outcome, rule, counts and the worst rows."""
    lines = [style(verdict.outcome, line) for line in _wrap(view.verdict_line(verdict), width)]
    lines += _wrap(view.rule_line(verdict), width)
    several = len(verdict.candidates) > 1
    for candidate in verdict.candidates:
        counts = [f"{level}: {view.status_counts(candidate, level, words=not several)}" for level in view.levels(candidate)]
        if several:  # one line each
            counts = [f"{view.OUTCOME_WORDS[candidate.outcome]} {candidate.candidate}; {'; '.join(counts)}"]
        lines += [line for text in counts for line in _wrap(text, width, "  ", "    ")]
    for row in verdict.worst(WORST):
        if describe_row(row) in verdict.sentence:
            continue
        lines += [style(row.status, line) for line in _wrap(_gate_row(row, several), width, "  ", "    ")]
    return lines


def _gate_row(gated: GateRow, several: bool) -> str:
    level = ("" if gated.level == "block" else f" (level {gated.level})") + (", protected" if gated.protected else "")
    reason = f"; {gated.reason}" if gated.reason and gated.status == "missing" else ""
    return f"{view.STATUS_WORDS[gated.status]}{level}: {f'{gated.candidate}: ' if several else ''}{describe_row(gated)}{reason}"


def _mismatches(comparison: Comparison, width: int, style: Style) -> list[str]:
    title = "Measured differently, and compared all the same (--allow-mismatch):"
    lines = [style("worse", line) for line in _wrap(title, width)]
    for mismatch in comparison.mismatches[:MISMATCHES]:
        lines += _wrap(mismatch, width, "  ! ", "    ")
    if len(comparison.mismatches) > MISMATCHES:
        lines.append(f"  ({len(comparison.mismatches) - MISMATCHES} more in the report)")
    return lines


def _compared(comparison: Comparison, width: int, style: Style) -> list[str]:
    """How many numbers got better and worse on which text; of one candidate, also the means of the first contrast."""
    if not comparison.candidates:
        return _wrap(view.title_sentence(comparison).partition(". ")[0].rstrip(".") + ".", width) + _single(comparison, width)
    lines = _wrap(f"Paired differences{view.text_measured(comparison)}; brackets are 95 % intervals.", width)
    for number, contrast in enumerate(view.contrasts(comparison)):
        counts = view.count_verdicts(contrast.rows)
        lines += [style("bold", line) for line in _wrap(f"{contrast.title}: {contrast.formula}", width)]
        parts = [f"{counts[verdict]} {view.WORDS[verdict]}" for verdict in view.VERDICTS if verdict != "no-direction"]
        lines += _wrap(", ".join(parts), width, "  ", "    ")
        if number == 0 and len(comparison.candidates) == 1:
            lines += _means(view.headline_means(comparison, contrast), width, style)
    return lines


def _means(rows: Sequence[ComparisonRow], width: int, style: Style) -> list[str]:
    """A line for each mean over languages: title, value of the candidate, difference."""
    titles = [view.row_title(row) for row in rows]
    widest = max(map(len, titles), default=0)
    widest = max(widest, len("mean over languages"))
    lines = [f"  {'mean over languages'.ljust(widest)} value difference"] if rows else []
    for title, row in zip(titles, rows, strict=True):
        text = f"  {_ascii(title).ljust(widest)} {_ascii(view.number(row.candidate, row.metric)).rjust(5)} {_ascii(_judged(row))}"
        whole = [text] if _cells(text) <= width else _wrap(text, width, "  ", "    ")
        lines += [style(row.verdict, line) for line in whole]
    return lines


def _judged(row: ComparisonRow) -> str:
    numbers = f"{view.difference(row.difference, row.metric)} {view.interval(row)}".rstrip()
    return f"{numbers} {view.WORDS[row.verdict]}, n = {row.n}"


def _single(comparison: Comparison, width: int) -> list[str]:
    """One checkpoint alone: how many numbers each suite found."""
    lines = [""]
    for label in view.labels(comparison):
        for suite, result in comparison.results.get(label, {}).items():
            undefined = sum(row.value is None for row in result.rows)
            text = f"{view.SUITE_TITLES.get(suite, suite)}: {len(result.rows)} numbers" + (f", {undefined} undefined" if undefined else "")
            lines += _wrap(text, width, "  ", "    ")
    return lines


def _worst_languages(comparison: Comparison, width: int, style: Style) -> list[str]:
    contrast = view.contrasts(comparison)[0]
    worst = view.worst_languages(comparison, contrast, WORST)
    lines = [style("bold", line) for line in _wrap(f"Worst languages ({contrast.formula})", width)]
    for code, row in worst:
        pair = f" {view.pair_title(row)}" if row.other_language else ""
        text = f"{view.language_name(code)} ({code}): {view.row_title(row)}{pair} {_judged(row)}"
        lines += [style(row.verdict, line) for line in _wrap(text, width, "  ", "    ")]
    return lines if worst else [*lines, "  none is below in any metric that has an interval"]


def _diagnosis(comparison: Comparison, width: int, style: Style) -> list[str]:
    """One candidate: a line of text for each rule, with the worst of its contrasts. Several: who has what."""
    every = comparison.diagnoses
    shown = view.worst_diagnoses(every)
    if not shown:
        return []
    title = "Diagnosis (! found, - not found, ? cannot tell; the evidence is in the report)"
    lines = [style("bold", line) for line in _wrap(title, width)]
    if len(comparison.candidates) == 1:
        for each in shown:
            text = f"{_DIAGNOSIS_MARKS[each.status]} against {each.reference}: {view.brief(each)}"
            lines += [style(each.status, line) for line in _wrap(text, width, "  ", "    ")]
        return lines
    for rule in dict.fromkeys(each.rule for each in shown):
        parts = []
        for status, word in view.DIAGNOSIS_WORDS.items():
            names = [each.candidate for each in shown if (each.rule, each.status) == (rule, status)]
            if names:
                parts.append(f"{word}: {', '.join(names)}")
        worst = next(status for status in _DIAGNOSIS_MARKS if any((each.rule, each.status) == (rule, status) for each in shown))
        text = f"{_DIAGNOSIS_MARKS[worst]} {rule}, {'; '.join(parts)}"
        lines += [style(worst, line) for line in _wrap(text, width, "  ", "    ")]
    return lines


_DIAGNOSIS_MARKS = {"found": "!", "cannot-tell": "?", "not-found": "-"}


def _painter(colour: bool) -> Style:
    if not colour:
        return lambda name, text: text
    return lambda name, text: f"\033[{_STYLES.get(name, '0')}m{text}\033[0m"


def _ascii(text: str) -> str:
    """Minus signs and arrows that every terminal and encoding can show."""
    return view.clean(text).replace("−", "-").replace("→", "to").replace("–", "?")


def _cells(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _fit(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    while _cells(text) > width - 3:
        text = text[:-1]
    return text + "..."


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    # A line does not end within "n = 452": no-break spaces, which textwrap does not break at.
    text = re.sub(r"(?<=\bn) = (?=\d)", "\u00a0=\u00a0", " ".join(_ascii(text).split()))
    wrapped = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first.rstrip()]
    return [_fit(line.replace("\u00a0", " "), width) for line in wrapped]
