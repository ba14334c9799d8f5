"""The first screen after a comparison: what was compared, what came out, for whom it is worst, the price, and where to read on."""

from __future__ import annotations

import os
import textwrap
import unicodedata
from typing import TYPE_CHECKING

from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison, ComparisonRow

_STYLES = {"bold": "1", "dim": "2", "better": "34", "worse": "31", "no-evidence": "0", "insufficient-data": "2", "no-direction": "2"}


def render(
    comparison: Comparison,
    *,
    report_path: str | None = None,
    next_command: str | None = None,
    width: int = 80,
    colour: bool = False,
) -> str:
    """Plain text of at most `width` columns (paths and commands are never broken). `NO_COLOR` in the environment beats `colour`."""
    style = _painter(colour and not os.environ.get("NO_COLOR"))
    lines: list[str] = []

    def paragraph(text: str, first: str = "", rest: str | None = None) -> None:
        lines.extend(_wrap(text, width, first, first if rest is None else rest))

    # How it was judged is in the report; here, what was compared, and what the brackets are.
    first = view.title_sentence(comparison).partition(". ")[0].rstrip(".")
    paragraph(first + "." + (" Brackets are 95 % intervals." if comparison.candidates else ""))
    all_contrasts = view.contrasts(comparison)
    for contrast in all_contrasts:
        counts = view.count_verdicts(contrast.rows)
        lines.append("")
        lines.extend(style("bold", line) for line in _wrap(f"{contrast.title}: {_ascii(contrast.formula)}", width))
        parts = [style(verdict, f"{counts[verdict]} {view.WORDS[verdict]}") for verdict in view.VERDICTS if verdict != "no-direction"]
        lines.append("  " + ", ".join(parts))
    if not comparison.candidates:
        lines += _single(comparison, width)
    note = view.no_control_sentence(comparison)
    if note:
        lines.append("")
        paragraph(note)

    if all_contrasts:
        headline = all_contrasts[0]
        worst = view.worst_languages(comparison, headline)
        lines += ["", style("bold", _fit(f"Worst languages ({_ascii(headline.formula)})", width))]
        if not worst:
            lines.append("  none is below in any metric that has an interval")
        for code, row in worst:
            lines += _worst(code, row, width, style)

    if comparison.findings:
        lines += ["", style("bold", "Findings")]
        for finding in comparison.findings:
            paragraph(finding, "  * ", "    ")

    if comparison.warnings:
        lines += ["", style("bold", f"Warnings ({len(comparison.warnings)})")]
        for warning in comparison.warnings[:3]:
            paragraph(warning, "  ! ", "    ")
        if len(comparison.warnings) > 3:
            lines.append(f"  ({len(comparison.warnings) - 3} more in the report)")

    if report_path or next_command:
        lines.append("")
    if report_path:
        lines.append(f"Report  {view.clean(report_path)}")
    if next_command:
        lines.append(f"Next    {view.clean(next_command)}")
    return "\n".join(lines) + "\n"


def _single(comparison: Comparison, width: int) -> list[str]:
    """One checkpoint alone: how many numbers each suite found."""
    lines = [""]
    for label in view.labels(comparison):
        for suite, result in comparison.results.get(label, {}).items():
            undefined = sum(row.value is None for row in result.rows)
            text = f"{view.SUITE_TITLES.get(suite, suite)}: {len(result.rows)} numbers" + (f", {undefined} undefined" if undefined else "")
            lines += _wrap(text, width, "  ", "    ")
    return lines


def _worst(code: str, row: ComparisonRow, width: int, style) -> list[str]:
    number = _ascii(f"{view.difference(row.difference, row.metric)} {view.interval(row)}".rstrip())
    what = _ascii(f"{view.language_name(code)} ({code})")
    about = view.row_title(row) + (f" {_ascii(view.pair_title(row))}" if row.other_language else "")
    first = _fit(f"  {what}: {about}", width)
    return [first, style(row.verdict, _fit(f"      {number}  {view.WORDS[row.verdict]}  n {row.n}", width))]


def _painter(colour: bool):
    if not colour:
        return lambda name, text: text
    return lambda name, text: f"\033[{_STYLES[name]}m{text}\033[0m"


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
    text = " ".join(_ascii(text).split())
    wrapped = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first.rstrip()]
    return [_fit(line, width) for line in wrapped]
