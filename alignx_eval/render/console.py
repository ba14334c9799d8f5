"""The first screen after a comparison: what changed, what must be known of it, for whom it is worst, the price, and
where to read on."""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from alignx_eval import wording
from alignx_eval.comparison.contrasts import Contrast, list_contrasts
from alignx_eval.comparison.costs import cost_ratios, costs_of
from alignx_eval.judgement.findings import text_measured
from alignx_eval.judgement.gate import WORDS as OUTCOME_WORDS
from alignx_eval.judgement.gate import describe_row
from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.judgement.findings import Headline
    from alignx_eval.judgement.gate import GateRow, Verdict
    from alignx_eval.judgement.report import Report

_STYLES = {
    "bold": "1", "better": "34", "worse": "31", "no-evidence": "0", "insufficient-data": "2", "no-claim": "33",
    "fail": "1;31", "incomplete": "1;31", "inconclusive": "1;33", "pass": "1;34",
    "red": "31", "missing": "31", "amber": "33", "grey": "2", "green": "34",
    "found": "31", "cannot-tell": "33", "not-found": "0",
}  # fmt: skip
WORST = 3
MISMATCHES = 5
ENVIRONMENT_WARNINGS = 2  # those about a checkpoint's own numbers are all shown
CANDIDATES = 3  # with headline numbers; a series shows its last step
HEADLINES = 8
MEASURED = 20
Style = Callable[[str, str], str]


def render(
    report: Report,
    *,
    report_path: str | None = None,
    next_command: str | None = None,
    width: int = 80,
    colour: bool = False,
) -> str:
    """Plain text of at most `width` columns (paths and commands are never broken). `NO_COLOR` in the environment beats
    `colour`."""
    comparison, verdict = report.comparison, report.verdict
    style = _painter(colour and not os.environ.get("NO_COLOR"))
    blocks: list[list[str]] = []
    if verdict is not None and verdict.enforced:
        blocks.append(_gate(verdict, width, style))
    if report.series is not None:
        blocks.append([style("bold", line) for line in _wrap(f"Series: {report.series.sentence}", width)])
    if comparison.mismatches:
        blocks.append(_mismatches(comparison, width, style))
    blocks.append((_changes if comparison.candidates else _measured)(report, width, style))
    if comparison.warnings:
        blocks.append(_warnings(comparison, width, style))
    note = view.no_control_sentence(comparison)
    if note:
        blocks.append(_wrap(note, width))
    rest = [line for text in view.opening_notes(comparison) for line in _wrap(f"Opened: {text}", width, "", "  ")]
    if comparison.candidates:
        rest += _worst_languages(comparison, width, style)
        rest += [line for candidate in _shown(comparison) for line in _price(comparison, candidate, width)]
        rest += _diagnosis(report, width, style)
    if verdict is not None and not verdict.enforced:
        rest.append(_gate_in_short(verdict, width))
    ends = [("Report  ", report_path), ("Next    ", next_command)]
    rest += [title + " ".join(wording.clean(text).split("\n")) for title, text in ends if text]
    return "\n\n".join("\n".join(block) for block in [*blocks, rest] if block) + "\n"


def _gate_in_short(verdict: Verdict, width: int) -> str:
    """One line, "Gate (...): INCOMPLETE, 84 not judged"; of several candidates, how many have which outcome."""
    if len(verdict.candidates) > 1:
        counts = {
            word: sum(each.outcome == outcome for each in verdict.candidates) for outcome, word in OUTCOME_WORDS.items()
        }
        said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    else:
        of_rows = verdict.candidates[0].counts()
        told = [
            f"{count} {view.STATUS_WORDS[status]}" for status, count in of_rows.items() if count and status != "green"
        ]
        green = (
            f"{of_rows['green']} rows within tolerance" if of_rows["green"] else "no row of level block was measured"
        )
        said = f"{OUTCOME_WORDS[verdict.outcome]}, {', '.join(told) or green}"
    title = view.gate_title(verdict)
    if columns_of(title) > width // 2:  # a long path must not push the outcome out of the line
        title = view.gate_title(replace(verdict, policy_name=f"...{verdict.policy_name[-width // 4 :]}"))
    return _fit(" ".join(_ascii(f"{title}: {said}").split()), width)


def _gate(verdict: Verdict, width: int, style: Style) -> list[str]:
    """Outcome, rule, counts and the worst rows."""
    lines = [style(verdict.outcome, line) for line in _wrap(view.verdict_line(verdict), width)]
    lines += _wrap(view.rule_line(verdict), width)
    several = len(verdict.candidates) > 1
    for candidate in verdict.candidates:
        counts = [
            f"{level}: {view.status_counts(candidate, level, words=not several)}" for level in view.levels(candidate)
        ]
        if several:  # one line each
            counts = [f"{OUTCOME_WORDS[candidate.outcome]} {candidate.candidate}; {'; '.join(counts)}"]
        lines += [line for text in counts for line in _wrap(text, width, "  ", "    ")]
    for row in verdict.worst(WORST):
        if describe_row(row) in verdict.sentence:
            continue
        lines += [style(row.status, line) for line in _wrap(_gate_row(row, several), width, "  ", "    ")]
    return lines


def _gate_row(gated: GateRow, several: bool) -> str:
    level = ("" if gated.level == "block" else f" (level {gated.level})") + (", protected" if gated.protected else "")
    reason = f"; {gated.reason}" if gated.reason and gated.status == "missing" else ""
    return (
        f"{view.STATUS_WORDS[gated.status]}{level}: "
        f"{f'{gated.candidate}: ' if several else ''}{describe_row(gated)}{reason}"
    )


def _mismatches(comparison: Comparison, width: int, style: Style) -> list[str]:
    title = "Measured differently, and compared all the same (--allow-mismatch):"
    lines = [style("worse", line) for line in _wrap(title, width)]
    for mismatch in comparison.mismatches[:MISMATCHES]:
        lines += _wrap(mismatch, width, "  ! ", "    ")
    if len(comparison.mismatches) > MISMATCHES:
        lines.append(f"  ({len(comparison.mismatches) - MISMATCHES} more in the report)")
    return lines


def _shown(comparison: Comparison) -> list[str]:
    """The candidates whose numbers are on the screen."""
    return comparison.candidates[-1:] if comparison.series else comparison.candidates[:CANDIDATES]


def _changes(report: Report, width: int, style: Style) -> list[str]:
    """The headline numbers of each contrast, a line each; of several candidates only those of the first contrast."""
    comparison = report.comparison
    shown = _shown(comparison)
    sizes = view.headline_sizes(headline for headline in report.headlines if headline.candidate in shown)
    size = f" ({sizes})" if sizes else ""
    lines = _wrap(f"Means, 95 % intervals, verdicts by adjusted p{size}{text_measured(comparison)}.", width)
    for contrast in (each for each in list_contrasts(comparison) if each.candidate in shown):
        if len(shown) > 1 and contrast.kind != list_contrasts(comparison)[0].kind:
            continue
        lines += [style("bold", line) for line in _wrap(f"{contrast.title}: {contrast.formula}", width)]
        lines += _headlines(report, contrast, width, style)
    # The texts are the same for all checkpoints, so one line is enough.
    rate = next((each.references_rate for each in report.headlines if each.references_rate is not None), None)
    if rate is not None:
        lines.append(f"  off-target rate of the references themselves: {wording.number(rate)}")
    left_out = len(comparison.candidates) - len(shown)
    return lines + ([f"  ({left_out} more candidates in the report)"] if left_out else [])


def _headlines(report: Report, contrast: Contrast, width: int, style: Style) -> list[str]:
    found = view.changes_of(report, contrast)
    if not found:
        return ["  nothing that both were measured with has enough data"]
    titles = [_ascii(_short_title(headline)) for headline, _ in found[:HEADLINES]]
    widest = max(map(columns_of, titles))
    lines = []
    for (headline, change), title in zip(found, titles, strict=False):
        text = f"  {_padded(title, widest)} no claim: {change.reason}"
        if change.mean is not None:
            values = [view.headline_value(headline, kind) for kind in (contrast.kind, "")]
            word = view.WORDS[change.word] + (f": {change.reason}" if change.word == "no-claim" else "")
            text = (
                f"  {_padded(title, widest)} {values[0]:>5} -> {values[1]:>5} {view.change_numbers(headline, change)} "
                f"{word}"
            )
        lines += [style(change.word, line) for line in _wrap_table(_ascii(text), width)]
    return lines + ([f"  ({len(found) - HEADLINES} more in the report)"] if len(found) > HEADLINES else [])


def _short_title(headline: Headline) -> str:
    """Names the rows of the mean only where some are left out."""
    mean = next((change.mean for change in headline.changes if change.mean is not None), None)
    partly = f" ({mean.rows} of {mean.of})" if mean is not None and mean.rows < mean.of else ""
    return view.headline_title(headline) + partly


def _measured(report: Report, width: int, style: Style) -> list[str]:
    """One checkpoint alone: its headline numbers with interval and n."""
    lines = _wrap(report.sentence, width)
    found = view.measured(report.comparison)
    if not found:
        return [*lines, "", "  No suite gave a headline number; the report has every number."]
    titles = [_ascii(each.title) for each in found[:MEASURED]]
    numbers = [_ascii(view.measured_numbers(each.row)) for each in found[:MEASURED]]
    widest, widest_number = max(map(columns_of, titles)), max(map(len, numbers))
    lines += ["", style("bold", f"  {_padded('', widest)} {'value, 95 % interval'.ljust(widest_number)}    n")]
    for each, title, number in zip(found, titles, numbers, strict=False):
        lines += _wrap_table(f"  {_padded(title, widest)} {number.ljust(widest_number)} {each.row.n:>4}", width)
        for text in filter(None, (each.beside, f"not to be judged: {each.row.unjudged}" if each.row.unjudged else "")):
            if columns_of(f"{lines[-1]}  {text}") <= width:
                lines[-1] += f"  {_ascii(text)}"
            else:
                lines += _wrap(text, width, "    ", "    ")
    return lines + ([f"  ({len(found) - MEASURED} more in the report)"] if len(found) > MEASURED else [])


def _wrap_table(line: str, width: int) -> list[str]:
    """A line of columns, which is broken only where it does not fit."""
    return [line] if columns_of(line) <= width else _wrap(line, width, "  ", "    ")


def _warnings(comparison: Comparison, width: int, style: Style) -> list[str]:
    own = view.checkpoint_warnings(comparison)
    others = [warning for warning in comparison.warnings if warning not in own]
    lines = [style("incomplete", f"Warnings ({len(comparison.warnings)})")]
    for warning in [*own, *others[:ENVIRONMENT_WARNINGS]]:
        lines += [style("amber", line) for line in _wrap(warning, width, "  ! ", "    ")]
    if len(others) > ENVIRONMENT_WARNINGS:
        lines.append(f"  ({len(others) - ENVIRONMENT_WARNINGS} more in the report)")
    return lines


def _price(comparison: Comparison, candidate: str, width: int) -> list[str]:
    """What the candidate's own training took, and how often the control's."""
    own, control = costs_of(comparison, candidate)
    if not own:
        return []
    ratios = cost_ratios(own, control)
    parts = [
        f"{wording.amount(name, own[name])}{f' ({ratios[name]:.2f})' if name in ratios else ''}"
        for name in wording.AMOUNTS
        if name in own
    ]
    title = f"Price{f' of {candidate}' if len(comparison.candidates) > 1 else ''}"
    return _wrap(
        f"{title}{f' (times that of {comparison.control})' if ratios else ''}: {', '.join(parts)}", width, "", "  "
    )


def _worst_languages(comparison: Comparison, width: int, style: Style) -> list[str]:
    contrast = list_contrasts(comparison)[0]
    if not any(
        row.se is not None for row in contrast.rows
    ):  # nothing could be judged, so nobody can be said to be worst
        return []
    lines = [style("bold", line) for line in _wrap(f"Worst languages ({contrast.formula})", width)]
    worst = view.worst_languages(comparison, contrast, WORST)
    for code, row in worst:
        about = view.pair_title(row) if row.other_language else f"{view.language_name(code)} ({code})"
        numbers = f"{wording.difference(row.difference, row.metric)} {view.interval(row)}".rstrip()
        text = f"{about}: {view.row_title(row)} {numbers} {view.WORDS[row.verdict]}{wording.own_rate(row)}"
        lines += [style(row.verdict, line) for line in _wrap(text, width, "  ", "    ")]
    return lines if worst else [*lines, "  none is below in any metric that has an interval"]


def _diagnosis(report: Report, width: int, style: Style) -> list[str]:
    """Which rules found something, each with the worst of its contrasts; the evidence is in the report."""
    shown = view.worst_diagnoses(report.diagnoses)
    parts = []
    for status, word in view.DIAGNOSIS_WORDS.items():
        by_rule: dict[str, list[str]] = {}
        for each in shown:
            if each.status == status:
                by_rule.setdefault(each.rule, []).append(each.candidate)
        several = len(report.comparison.candidates) > 1
        names = [f"{rule} ({', '.join(candidates)})" if several else rule for rule, candidates in by_rule.items()]
        if names:
            parts.append(f"{word}: {', '.join(names)}")
    text = f"Diagnosis: {'; '.join(parts)}"
    found = "found" if any(each.status == "found" for each in shown) else "not-found"
    return [style(found, line) for line in _wrap(text, width, "", "  ")] if shown else []


def _painter(colour: bool) -> Style:
    if not colour:
        return lambda name, text: text
    return lambda name, text: f"\033[{_STYLES.get(name, '0')}m{text}\033[0m"


def _ascii(text: str) -> str:
    """Minus signs and arrows that every terminal and encoding can show."""
    return wording.clean(text).replace("−", "-").replace("→", "to").replace("–", "?")


def columns_of(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))


def _fit(text: str, width: int) -> str:
    if columns_of(text) <= width:
        return text
    while columns_of(text) > width - 3:
        text = text[:-1]
    return text + "..."


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    # A line does not end within "n = 452": no-break spaces, which textwrap does not break at.
    text = re.sub(r"(?<=\bn) = (?=\d)", "\u00a0=\u00a0", " ".join(_ascii(text).split()))
    wrapped = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [
        first.rstrip()
    ]
    return [_fit(line.replace("\u00a0", " "), width) for line in wrapped]
