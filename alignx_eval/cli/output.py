"""From a comparison to files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignx_eval.cli.display import Display
from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write
from alignx_eval.settings import Settings

if TYPE_CHECKING:
    from alignx_eval.judgement.report import Report


def write_reports(report: Report, folder: Path, settings: Settings) -> None:
    """report.html, summary.md and, where there is a verdict, junit.xml into the run directory `folder`."""
    for name in ("report.html", "summary.md", *(["junit.xml"] if report.verdict is not None else [])):
        atomic_write(folder / name, _render(report, Path(name).suffix, settings))


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
        atomic_write(Path(output).expanduser(), _render(report, Path(output).suffix, settings))
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


def check_outputs(outputs: Sequence[str]) -> None:
    """Find out before hours of measuring that a file of -o cannot be written."""
    for output in outputs:
        path = Path(output).expanduser()
        if path.is_dir():
            raise InputError(f"-o {output}: is a folder, a file name is needed")
        _check_folder(f"-o {output}", path.absolute().parent)


def _check_folder(what: str, folder: Path) -> None:
    """Raise InputError where `folder` is not there and cannot be made, or cannot be written to."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{what}: {folder} is a file, a folder is needed")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{what}: the folder {folder} cannot be written to")


def _render(report: Report, suffix: str, settings: Settings) -> str:
    if suffix == ".html":
        from alignx_eval.render.html import page

        return page.render(report)
    if suffix == ".md":
        from alignx_eval.render import markdown

        return markdown.render(report)
    if suffix == ".xml":
        from alignx_eval.render import junit

        return junit.render(report, strict=settings.strict)
    from alignx_eval.render import tables

    return tables.render_json(report) if suffix == ".json" else tables.render_csv(report)
