"""The verdict, the warnings and the worst rows as workflow commands, which GitHub shows as annotations of a run and of
a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignx_eval import wording
from alignx_eval.judgement.gate import WORDS as OUTCOME_WORDS
from alignx_eval.judgement.gate import describe_row
from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.judgement.gate import GateRow
    from alignx_eval.judgement.report import Report

MAXIMUM = 10  # GitHub shows ten annotations of a kind for a step
MAXIMUM_MESSAGE = 4000  # characters


def render(report: Report, *, strict: bool = False) -> str:
    """At most ten lines: the verdict, the warnings, the allowed mismatches, how the checkpoints were opened, the worst
    rows.

    The report must have a verdict. `strict`: what is not settled is an error too. Where the exit code does not follow
    the verdict, nothing is an error.
    """
    comparison, verdict = report.comparison, report.verdict
    assert verdict is not None
    kinds = {"fail": "error", "incomplete": "error", "inconclusive": "error" if strict else "warning", "pass": "notice"}
    kind = kinds[verdict.outcome] if verdict.enforced else kinds[verdict.outcome].replace("error", "warning")
    title = (
        "alignx-eval: " + ("" if verdict.enforced else f"{view.gate_title(verdict)}: ") + OUTCOME_WORDS[verdict.outcome]
    )
    lines = [_command(kind, title, f"{view.verdict_line(verdict)} {view.rule_line(verdict)}")]
    if comparison.warnings:
        title = f"alignx-eval: {len(comparison.warnings)} warning{'' if len(comparison.warnings) == 1 else 's'}"
        lines.append(_command("warning", title, "\n".join(comparison.warnings)))
    if comparison.mismatches:
        lines.append(
            _command(
                "warning", "alignx-eval: measured differently (--allow-mismatch)", "; ".join(comparison.mismatches)
            )
        )
    if notes := view.opening_notes(comparison):
        lines.append(_command("notice", "alignx-eval: how the checkpoints were opened", "\n".join(notes)))
    everything = len(verdict.worst(10**9))
    rows = verdict.worst(MAXIMUM - len(lines))
    for number, gated in enumerate(rows, start=1):
        about = "" if gated.level == "block" else f" (level {gated.level})"
        reason = f"; {gated.reason}" if gated.reason else ""
        rest = f" ({everything - number} more rows in the report)" if number == len(rows) < everything else ""
        title = f"{view.STATUS_WORDS[gated.status]}{about}: {gated.candidate}"
        lines.append(_command(_kind(gated, strict, verdict.enforced), title, f"{describe_row(gated)}{reason}{rest}"))
    return "\n".join(lines) + "\n"


def _kind(gated: GateRow, strict: bool, enforced: bool) -> str:
    if gated.level != "block":
        return "warning" if gated.level == "warn" else "notice"
    if not enforced:
        return "warning"
    return "error" if gated.status in ("red", "missing") or strict else "warning"


def _command(kind: str, title: str, message: str) -> str:
    message = _shorten(wording.clean(message), MAXIMUM_MESSAGE)
    title = _shorten(wording.clean(title), 200)
    return f"::{kind} title={_escape(title).replace(':', '%3A').replace(',', '%2C')}::{_escape(message)}"


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _escape(text: str) -> str:
    """As actions/toolkit escapes data; a line end would begin a new command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
