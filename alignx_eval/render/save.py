"""A report in the format that a file's suffix names."""

from __future__ import annotations

from pathlib import Path

from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write, check_file
from alignx_eval.judgement.report import Report


def rendered(report: Report, suffix: str, *, strict: bool = False) -> str:
    """The report as text: ".html", ".md", ".xml" (JUnit), ".json" or ".csv". `strict`: what is not settled fails in
    JUnit too.

    Raises InputError for another suffix, and for JUnit where one checkpoint alone was measured.
    """
    if suffix == ".html":
        from alignx_eval.render.html import page

        return page.render(report)
    if suffix == ".md":
        from alignx_eval.render import markdown

        return markdown.render(report)
    if suffix == ".xml":
        from alignx_eval.render import junit

        return junit.render(report, strict=strict)
    from alignx_eval.render import tables

    if suffix == ".json":
        return tables.render_json(report)
    if suffix == ".csv":
        return tables.render_csv(report)
    raise InputError(
        f"{suffix or 'a file without a suffix'}: no format of a report; there are .html .json .md .csv .junit.xml"
    )


def save(report: Report, path: str | Path, *, strict: bool = False) -> None:
    """Write a report, as a whole or not at all; the format follows the suffix (.html .json .md .csv .junit.xml).

    Raises InputError where the suffix names no format, or the file cannot be written.
    """
    path = Path(path).expanduser()
    check_file(str(path), path)
    atomic_write(path, rendered(report, path.suffix, strict=strict))
