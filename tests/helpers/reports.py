"""Renderings of a comparison, or of a report that a test has changed."""

from __future__ import annotations

from alignx_eval.comparison.rows import Comparison
from alignx_eval.judgement.gate import Verdict
from alignx_eval.judgement.report import Report, report_of
from alignx_eval.render import console, github, junit, markdown, tables
from alignx_eval.render.html import page


def as_report(found: Comparison | Report, verdict: Verdict | None = None) -> Report:
    return found if isinstance(found, Report) else report_of(found, verdict)


def console_text(found: Comparison | Report, verdict: Verdict | None = None, **options) -> str:
    return console.render(as_report(found, verdict), **options)


def markdown_text(found: Comparison | Report, verdict: Verdict | None = None) -> str:
    return markdown.render(as_report(found, verdict))


def page_text(found: Comparison | Report, verdict: Verdict | None = None, **options) -> str:
    return page.render(as_report(found, verdict), **options)


def json_text(found: Comparison | Report, verdict: Verdict | None = None) -> str:
    return tables.render_json(as_report(found, verdict))


def csv_text(found: Comparison | Report, verdict: Verdict | None = None) -> str:
    return tables.render_csv(as_report(found, verdict))


def junit_text(found: Comparison | Report, verdict: Verdict | None = None, **options) -> str:
    return junit.render(as_report(found, verdict), **options)


def github_text(found: Comparison | Report, verdict: Verdict | None = None, **options) -> str:
    return github.render(as_report(found, verdict), **options)
