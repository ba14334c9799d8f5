"""The table of suites: what each is run with, and which options are part of its identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignx_eval.results import SuiteResult

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.engine.encode import Pooling


# Part of every result's key and fingerprint: raise a suite's number with each change that moves its numbers or what they mean.
MEASURING_VERSIONS = {"layers": 3, "language_id": 2, "language_modelling": 2, "translation": 2, "tasks": 2}


PIVOT = "eng_Latn"


PIVOT_SUITES = ("layers", "translation")  # every language is paired with the pivot, so these cannot do without it


Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the suites may be told.

    `languages` are those that were asked for, None for all of the corpus; the corpus may hold the pivot besides, for the suites that cannot
    do without it. `limit` caps the documents of each task; `window` is that of bits per byte, in tokens. `tasks` None stands for our own
    task in the `languages` asked for, or in all of its languages where none were named (or none of them has it).
    """

    languages: tuple[str, ...] | None = None
    pooling: Pooling = "mean"
    seed: int = 0
    template: str = "plain"
    tasks: tuple[str, ...] | None = None
    limit: int | None = None
    window: int = 512
    cache_dir: str | None = None
    samples: bool = True


def _relevant_options(suite: str, checkpoint: Checkpoint, corpus: ParallelCorpus, options: Options) -> dict[str, Any]:
    """What decides the numbers of `suite` besides the checkpoint's content."""
    weight = next(checkpoint.model.parameters())
    relevant: dict[str, Any] = {
        "measuring_version": MEASURING_VERSIONS[suite],
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": weight.device.type,
    }
    if suite == "tasks":
        return relevant | {"tasks": _chosen_tasks(options), "limit": options.limit}
    corpus = _text_of(suite, corpus, options)
    relevant |= {
        "corpus": corpus.name,
        "split": corpus.split,
        "content_hash": corpus.content_hash,
        "languages": list(corpus.languages),
        "lines": len(corpus),
    }
    if suite in ("layers", "language_id"):
        relevant |= {"pooling": options.pooling, "seed": options.seed}
    if suite == "language_modelling":
        relevant |= {"window": options.window}
    if suite == "translation":
        relevant |= {"template": options.template}
    return relevant


def _text_of(suite: str, corpus: ParallelCorpus, options: Options) -> ParallelCorpus:
    """The text that a suite is measured on: the languages asked for, and the pivot for the suites that need it."""
    return corpus if suite in PIVOT_SUITES or options.languages is None else corpus.select(options.languages)


def _measure(
    suite: str, checkpoint: Checkpoint, corpus: ParallelCorpus, options: Options, progress: Progress | None
) -> SuiteResult:
    corpus = _text_of(suite, corpus, options)
    # A suite's dependencies (scikit-learn, sacreBLEU, lm-eval) are imported only where it is asked for.
    if suite == "layers":
        from alignx_eval.suites import layers

        return layers.run(
            checkpoint,
            corpus,
            pooling=options.pooling,
            seed=options.seed,
            cache_dir=options.cache_dir,
            progress=progress,
        )
    if suite == "language_id":
        from alignx_eval.suites import language_id

        return language_id.run(
            checkpoint,
            corpus,
            pooling=options.pooling,
            seed=options.seed,
            cache_dir=options.cache_dir,
            progress=progress,
        )
    if suite == "language_modelling":
        from alignx_eval.suites import language_modelling

        return language_modelling.run(checkpoint, corpus, window=options.window, progress=progress)
    if suite == "translation":
        from alignx_eval.suites import translation

        return translation.run(checkpoint, corpus, template=options.template, progress=progress)
    from alignx_eval.suites import tasks

    return tasks.run(checkpoint, tasks=_chosen_tasks(options), limit=options.limit, progress=progress)


def _chosen_tasks(options: Options) -> list[str] | None:
    """Names for the task suite; None for its default."""
    if options.tasks is not None:
        return list(options.tasks)
    from alignx_eval.suites.tasks import DEFAULT_TASKS, list_tasks

    wanted = [f"{family}_{code}" for family in DEFAULT_TASKS for code in options.languages or ()]
    return [task for task in wanted if task in list_tasks()] or None
