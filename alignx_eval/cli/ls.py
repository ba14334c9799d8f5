"""`alignx-eval ls`: what there is to choose from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    languages = "languages"
    tasks = "tasks"
    corpora = "corpora"
    suites = "suites"
    metrics = "metrics"
    checkpoints = "checkpoints"


def ls(kind: Annotated[Kind, typer.Argument(help="What to list.", show_choices=True)]) -> None:
    """List languages, tasks, corpora, suites, metrics or bundled checkpoints, one per line: aligned on a terminal,
    tab-separated in a pipe.

    \b
    Examples:
      alignx-eval ls suites
      alignx-eval ls languages | grep Cyrl
    """
    rows = {
        Kind.languages: _languages,
        Kind.tasks: _tasks,
        Kind.corpora: _corpora,
        Kind.suites: _suites,
        Kind.metrics: _metrics,
        Kind.checkpoints: _checkpoints,
    }[kind]()
    _print_table(rows)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _languages() -> list[list[str]]:
    from alignx_eval.languages import LANGUAGES

    return [
        [language.code, language.name, language.script, language.direction, language.bleu_tokenizer]
        for language in LANGUAGES.values()
    ]


def _tasks() -> list[list[str]]:
    from alignx_eval.suites.tasks import list_tasks

    return [[name] for name in list_tasks()]


def _corpora() -> list[list[str]]:
    from alignx_eval.corpora import list_corpora

    rows = []
    for corpus in list_corpora():
        languages = corpus["languages"]
        assert isinstance(languages, list)
        rows.append(
            [
                str(corpus["name"]),
                str(corpus["split"]),
                f"{corpus['lines']} lines",
                f"{len(languages)} languages",
                str(corpus["licence"]),
                str(corpus["summary"]),
            ]
        )
    return rows


def _suites() -> list[list[str]]:
    from alignx_eval.metrics import SUITES

    return [[name, text] for name, text in SUITES.items()]


def _metrics() -> list[list[str]]:
    from alignx_eval.metrics import METRICS

    return [[name, card.about] for name, card in METRICS.items()]


def _checkpoints() -> list[list[str]]:
    from alignx_eval.checkpoint import BUNDLED_CHECKPOINTS

    return [[f"bundled:{name}", text] for name, text in BUNDLED_CHECKPOINTS.items()]
