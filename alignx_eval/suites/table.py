"""The table of suites: what each is run with, and what decides its numbers. A new suite is a module with `run` and
`check`, and one entry.

A suite's module, and with it what it depends on (scikit-learn, sacreBLEU, lm-eval), is imported only where the suite is
asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from alignx_eval.languages import DEFAULT_PIVOT

if TYPE_CHECKING:
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.engine.base import Engine, Progress
    from alignx_eval.engine.encode import Pooling
    from alignx_eval.results import SuiteResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the suites may be told.

    `languages` are those that were asked for, None for all of the corpus; the corpus may hold the pivot besides, for
    the suites that cannot do without it. `limit` caps the documents of each task; `window` is that of bits per byte, in
    tokens. `tasks` None stands for our own task in the `languages` asked for, or in all of its languages where none
    were named (or none of them has it).
    """

    languages: tuple[str, ...] | None = None
    pivot: str = DEFAULT_PIVOT
    pooling: Pooling = "mean"
    seed: int = 0
    template: str = "plain"
    tasks: tuple[str, ...] | None = None
    limit: int | None = None
    window: int = 512
    cache_dir: str | None = None
    samples: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One entry. `version` is part of every result's key and fingerprint: raise it with each change that moves the
    suite's numbers or what they mean. `deciding` are the options that decide its numbers, and `further` those that it
    takes besides; `checked` those of `check`. `paired`: every language is paired with the pivot, so the suite cannot do
    without it. `own_text`: it does not read the corpus.
    """

    version: int
    deciding: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    paired: bool = False
    own_text: bool = False


# In the order of measuring (`metrics.SUITES`).
TABLE = {
    "layers": Suite(
        version=3, deciding=("pooling", "seed", "pivot"), further=("cache_dir",), checked=("pivot",), paired=True
    ),
    "language_id": Suite(version=2, deciding=("pooling", "seed"), further=("cache_dir",)),
    "language_modelling": Suite(version=2, deciding=("window",), checked=("window",)),
    "translation": Suite(version=2, deciding=("template", "pivot"), checked=("template", "pivot"), paired=True),
    "tasks": Suite(version=2, deciding=("tasks", "limit"), checked=("tasks", "limit"), own_text=True),
}
MEASURING_VERSIONS = {name: suite.version for name, suite in TABLE.items()}
PIVOT_SUITES = tuple(name for name, suite in TABLE.items() if suite.paired)


def resolved(name: str, options: Options) -> Options:
    """The options with what follows from them: the names of our own task in the languages asked for."""
    if name != "tasks":
        return options
    from alignx_eval.suites.tasks import chosen_tasks

    return replace(options, tasks=chosen_tasks(options.tasks, options.languages))


def identity(name: str, engine: Engine, corpus: ParallelCorpus, options: Options) -> dict[str, Any]:
    """What decides the numbers of a suite besides the checkpoint's content, as plain JSON; `options` must be resolved.

    A pivot stands there where it is not the default one, so that what was measured before there was a choice is known
    again.
    """
    environment = engine.environment()
    found: dict[str, Any] = {
        "measuring_version": MEASURING_VERSIONS[name],
        "dtype": environment["dtype"],
        "device": environment["device"],
    }
    if not TABLE[name].own_text:
        text = text_of(name, corpus, options)
        found |= {
            "corpus": text.name,
            "split": text.split,
            "content_hash": text.content_hash,
            "languages": list(text.languages),
            "lines": len(text),
        }
    for option in TABLE[name].deciding:
        value = getattr(options, option)
        if option != "pivot" or value != DEFAULT_PIVOT:
            found[option] = list(value) if isinstance(value, tuple) else value
    return found


def text_of(name: str, corpus: ParallelCorpus, options: Options) -> ParallelCorpus:
    """The text that a suite is measured on: the languages asked for, and the pivot for the suites that need it."""
    return corpus if TABLE[name].paired or options.languages is None else corpus.select(options.languages)


def measure(
    name: str, engine: Engine, corpus: ParallelCorpus, options: Options, progress: Progress | None
) -> SuiteResult:
    """Run a suite; `options` must be resolved. Raises what its `run` raises."""
    suite = TABLE[name]
    told = {option: getattr(options, option) for option in (*suite.deciding, *suite.further)}
    text = () if suite.own_text else (text_of(name, corpus, options),)
    result: SuiteResult = import_module(f"alignx_eval.suites.{name}").run(engine, *text, **told, progress=progress)
    return result


def check(name: str, engine: Engine, corpus: ParallelCorpus, options: Options) -> None:
    """Raise what `measure` would raise later, measuring nothing."""
    suite = TABLE[name]
    told = {option: getattr(options, option) for option in suite.checked}
    text = () if suite.own_text else (text_of(name, corpus, options),)
    import_module(f"alignx_eval.suites.{name}").check(engine, *text, **told)
