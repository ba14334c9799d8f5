"""Run a command as its user does."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

import alignx_eval.cli

ROOT = Path(alignx_eval.__file__).parent.parent
LINES = {
    "eng_Latn": [
        f"The {thing} is {state}." for thing in ("door", "lamp", "sensor") for state in ("open", "closed", "new", "on")
    ],
    "deu_Latn": [
        f"{thing} ist {state}."
        for thing in ("Die Tür", "Die Lampe", "Der Sensor")
        for state in ("offen", "zu", "neu", "an")
    ],
    "rus_Cyrl": [
        f"{thing} {state}."
        for thing in ("Дверь", "Лампа", "Датчик")
        for state in ("открыто", "закрыто", "новое", "включено")
    ],
}


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "trainer"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb", **changes}


def write_corpus(folder: Path, lines: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, sentences in lines.items():
        (folder / f"{code}.txt").write_text("".join(sentence + "\n" for sentence in sentences), encoding="utf-8")
    return folder


def call(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """The entry point in this process: exit code, stdout, stderr."""
    level = logging.getLogger().level
    monkeypatch.setattr(sys, "argv", ["alignx-eval", *map(str, arguments)])
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as stopped:
        alignx_eval.cli.main()
    logging.getLogger().setLevel(level)
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err
