"""Progress and remarks on stderr: a bar on a terminal, one line per finished suite elsewhere, nothing with --quiet."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from alignx_eval.results import SuiteResult


class Display:
    """Context manager. `say` writes a line, `bar(label)` gives the callable that `evaluate` wants for the progress of
    each suite. Warnings that the package logs are said as lines too, each once."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet
        self._progress: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._warnings = _Warnings(self.say)

    def __enter__(self) -> Display:
        logger = logging.getLogger("alignx_eval")
        logger.addHandler(self._warnings)
        logger.propagate = False
        if not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger("alignx_eval")
        logger.removeHandler(self._warnings)
        logger.propagate = True
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        if self.quiet:
            return
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def bar(self, label: str) -> Callable[[str], Callable[[int, int, str], None] | None]:
        def start(suite: str) -> Callable[[int, int, str], None] | None:
            if self._progress is None:
                return None
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(f"{label}: {suite}", total=None)

            def update(done: int, total: int, what: str) -> None:
                self._progress.update(
                    self._task, completed=done, total=total or None, description=f"{label}: {suite} {what}"
                )

            return update

        return start

    def finished(self, label: str) -> Callable[[str, SuiteResult, bool], None]:
        from alignx_eval.pipeline import suite_line

        def report(suite: str, result: SuiteResult, reused: bool) -> None:
            self.say(suite_line(label, suite, result, reused))

        return report


class _Warnings(logging.Handler):
    """Passes each message on once."""

    def __init__(self, say: Callable[[str], None]):
        super().__init__(logging.WARNING)
        self._say = say
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            self._say(text)
