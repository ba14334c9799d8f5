"""What the trainer shows: a bar on a terminal, lines elsewhere, nothing where it is to be quiet; the list of recipes in
80 columns."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from alignx_trainer.config import ACCELERATE, RECIPES
from alignx_trainer.display import Display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def entry(step: int, **more: Any) -> dict[str, Any]:
    losses = {"lm": 2.0 + step, "contrastive": 1.5, "matching": None}
    return losses | {"tokens_per_second": 1234.5, "seconds": 2.0 * step} | more


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """stderr is a terminal from here on. Not a fixture: pytest puts its own stderr there before a test begins."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    terminal = on_a_terminal(monkeypatch)
    with Display() as display:
        display.say("going on from step 4 of 6")
        display.step(5, 6, entry(5))
        display.say("a remark [bold]as it is[/bold]")
        display.step(6, 6, entry(6))
    text = terminal.getvalue()
    assert text.startswith("going on from step 4 of 6\n")
    assert "5/6" in text and "6/6" in text and "lm 8.000 contrastive 1.500 1234 tokens/s" in text
    assert "matching" not in text and "a remark [bold]as it is[/bold]\n" in text
    assert "\x1b[3" in text and text.endswith("\n\x1b[?25h")  # coloured; closed, with the cursor shown again


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    with Display() as display:
        display.step(1, 2, entry(1))
    assert "1/2" in terminal.getvalue() and "\x1b[3" not in terminal.getvalue()


def test_a_bar_is_closed_with_its_run_and_the_next_run_has_its_own(monkeypatch: pytest.MonkeyPatch):
    terminal = on_a_terminal(monkeypatch)
    display = Display()
    for stopped in (False, True):
        display.step(1, 3, entry(1))
        assert display._bar is not None
        display.step(2, 3, entry(2, **({"stopped": "bits per byte rose"} if stopped else {})))
        assert (display._bar is None) == stopped
    display.step(1, 5, entry(1))
    assert terminal.getvalue().count("1/5") == 1


def test_lines_elsewhere(capsys):
    with Display() as display:
        for step in range(1, 41):
            display.step(step, 40, entry(step))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and [line.split()[1] for line in lines] == ["1/40", *(f"{step}/40" for step in range(4, 41, 4))]
    assert lines[1] == "step 4/40  lm 6.000  contrastive 1.500  1234 tokens/s  1.2 min left"


@pytest.mark.parametrize("process", ["0", "1"])
def test_quiet_and_the_other_processes_show_nothing(monkeypatch: pytest.MonkeyPatch, process: str):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv("RANK", process)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Display(quiet=process == "0") as display:
        display.say("a remark")
        display.step(1, 1, entry(1))
    assert terminal.getvalue() == ""


def test_the_recipes_fit_a_terminal_of_80_columns():
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "alignx_trainer", "ls"], stdout=child, env=environment, stderr=subprocess.PIPE
    ) as running:
        os.close(child)
        text = b""
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            text += piece
    os.close(parent)
    lines = text.decode().replace("\r", "").splitlines()
    assert running.returncode == 0 and max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line[0] != " "]
    assert names == [
        *sorted(path.stem for path in RECIPES.glob("*.yaml")),
        *sorted(f"accelerate/{path.stem}" for path in ACCELERATE.glob("*.yaml")),
    ]
