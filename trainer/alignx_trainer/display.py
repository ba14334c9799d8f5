"""Progress and remarks of a training on stderr: a bar on a terminal, a line every tenth of the steps elsewhere."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from alignx_eval import processes

if TYPE_CHECKING:
    from rich.progress import Progress


class Display:
    """Context manager. `say` writes a line, `step` shows a step; of several processes the main one alone does, and none
    with `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._silent = quiet or not processes.is_main()
        self._bar: Progress | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def say(self, line: str) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def step(self, done: int, total: int, entry: dict[str, Any]) -> None:
        """Show step `done` of `total`, whose line of the log is `entry`."""
        if self._silent:
            return
        losses = [f"lm {entry['lm']:.3f}"]
        losses += [f"{name} {entry[name]:.3f}" for name in ("contrastive", "matching") if entry[name] is not None]
        speed = f"{entry['tokens_per_second']:.0f} tokens/s"
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._draw(done, total, " ".join([*losses, speed]))
            if done == total or entry.get("stopped"):  # what comes next may have a display of its own
                self._close()
        elif done in (1, total) or done % max(1, total // 10) == 0:
            left = f"{entry['seconds'] / done * (total - done) / 60:.1f} min left"
            self.say("  ".join([f"step {done}/{total}", *losses, speed, left]))

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            count, bar, left = MofNCompleteColumn(), BarColumn(bar_width=None), TimeRemainingColumn(compact=True)
            text_column = TextColumn("{task.description}", markup=False)
            # Drawn at a step and at no other time, so that what others write in between stays.
            self._bar = Progress(
                count, bar, text_column, left, console=Console(stderr=True), auto_refresh=False, expand=True
            )
            self._bar.add_task("", total=total, completed=done - 1)
            self._bar.start()
        (task,) = self._bar.tasks
        if done != task.completed + 1 or total != task.total:  # another run than before
            self._bar.reset(task.id, total=total, completed=done - 1)
        self._bar.update(task.id, completed=done, description=text, refresh=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
