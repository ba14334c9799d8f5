"""From a comparison to files."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alignx_eval.cli.display import Display
from alignx_eval.files import atomic_write
from alignx_eval.render.save import rendered, save
from alignx_eval.settings import Settings

if TYPE_CHECKING:
    from alignx_eval.judgement.report import Report


def write_reports(report: Report, folder: Path, settings: Settings) -> None:
    """report.html, summary.md and, where there is a verdict, junit.xml into the run directory `folder`."""
    for name in ("report.html", "summary.md", *(["junit.xml"] if report.verdict is not None else [])):
        atomic_write(folder / name, rendered(report, Path(name).suffix, strict=settings.strict))


def write_outputs(
    report: Report,
    settings: Settings,
    display: Display,
    *,
    page: Path | None = None,
    next_command: str | None = None,
) -> None:
    """The files of -o, and the first screen to stdout, which names the `page`, else the first one of -o."""
    from alignx_eval.render import console

    for output in settings.output:
        save(report, output, strict=settings.strict)
        display.say(f"wrote {output}")
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    screen = console.render(
        report,
        report_path=str(page)
        if page is not None
        else next((name for name in settings.output if name.endswith(".html")), None),
        next_command=next_command,
        width=min(max(width, 60), 110),
        colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
    )
    sys.stdout.write(screen)
    if settings.annotations and report.verdict is not None:
        from alignx_eval.render import github

        sys.stdout.write(github.render(report, strict=settings.strict))
    sys.stdout.flush()
