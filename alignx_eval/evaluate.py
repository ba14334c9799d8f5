"""Measure checkpoints: suite after suite, one checkpoint in memory at a time, nothing twice that a run directory already holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alignx_eval import processes
from alignx_eval.errors import InputError
from alignx_eval.results import SuiteResult
from alignx_eval.run_directory import RunDirectory, suite_key

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.encode import Pooling

# In the order of measuring: what is cheap and tells most comes first.
SUITES = {
    "layers": "alignment of languages layer by layer: cosine, CKA, retrieval",
    "language_id": "how well a linear probe reads the language off each layer",
    "language_modelling": "bits per byte per language",
    "translation": "BLEU, chrF++ and off-target rate, from and to the pivot language",
    "tasks": "tasks of the LM evaluation harness",
}

# Part of every result's key and fingerprint: raise a suite's number with each change that moves its numbers or what they mean.
MEASURING_VERSIONS = {"layers": 3, "language_id": 2, "language_modelling": 2, "translation": 2, "tasks": 2}

PIVOT = "eng_Latn"
PIVOT_SUITES = ("layers", "translation")  # every language is paired with the pivot, so these cannot do without it

BUNDLED_CHECKPOINTS = {
    "base": "small model pre-trained on monolingual text and bitext of the corpus `interface`",
    "tuned": "base after instruction tuning alone; the control, on the same number of tokens as alignx",
    "alignx": "base after AlignX stages 1 (alignment) and 2 (instruction tuning)",
}

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


def check_suites(suites: Sequence[str]) -> tuple[str, ...]:
    """The suites in the order of measuring, each once. Raises InputError for an unknown name or none at all."""
    unknown = [suite for suite in suites if suite not in SUITES]
    if unknown:
        raise InputError(f"unknown suite {unknown[0]!r}; known: {', '.join(SUITES)}")
    if not suites:
        raise InputError(f"no suite given; known: {', '.join(SUITES)}")
    return tuple(suite for suite in SUITES if suite in suites)


def check(checkpoint: Checkpoint, corpus: ParallelCorpus, suites: Sequence[str], options: Options) -> None:
    """Raise, for an open checkpoint, what its suites would raise later: InputError and MissingAssetError. Measures nothing."""
    from alignx_eval.suites import language_id, language_modelling, layers, tasks, translation

    for suite in check_suites(suites):
        text = _text_of(suite, corpus, options)
        if suite == "layers":
            layers.check(checkpoint, text)
        elif suite == "language_id":
            language_id.check(checkpoint, text)
        elif suite == "language_modelling":
            language_modelling.check(checkpoint, text, window=options.window)
        elif suite == "translation":
            translation.check(checkpoint, text, template=options.template)
        else:
            tasks.check(_chosen_tasks(options), options.limit)


def evaluate(
    checkpoint: Checkpoint,
    corpus: ParallelCorpus,
    suites: Sequence[str],
    options: Options,
    *,
    directory: RunDirectory | None = None,
    progress: Callable[[str], Progress | None] | None = None,
    finished: Callable[[str, SuiteResult, bool], None] | None = None,
) -> dict[str, SuiteResult]:
    """Results of `checkpoint` by suite. With a `directory`, each suite is stored as soon as it is complete, and read from there if it is.

    `progress(suite)` gives the callable that the suite reports to; `finished(suite, result, reused)` is called after each.
    Raises what opening of data and the suites raise: InputError, MissingAssetError.
    """
    results: dict[str, SuiteResult] = {}
    for suite in check_suites(suites):
        if suite == "tasks" and directory is not None:
            options = _with_earlier_tasks(checkpoint, corpus, options, directory)
        relevant = _relevant_options(suite, checkpoint, corpus, options)
        key = suite_key(label=checkpoint.name, content_hash=checkpoint.content_hash, suite=suite, options=relevant)
        # Of several processes all measure or none: a suite may need every one of them.
        reused = processes.all_agree(
            directory is not None and directory.is_done(checkpoint.name, suite, key, samples=options.samples)
        )
        if not reused:
            started = time.perf_counter()
            result = _measure(suite, checkpoint, corpus, options, progress(suite) if progress else None)
            result.seconds = time.perf_counter() - started
            if not result.rows:
                raise InputError(
                    f"suite {suite}: nothing could be measured with this corpus; choose other --suites or --languages"
                )
            result.fingerprint |= {"measuring_version": MEASURING_VERSIONS[suite]}
            if not options.samples:
                result.samples = []
            if directory is not None and directory.writable:
                directory.save(checkpoint.name, key, result, options=relevant, samples=options.samples)
        if directory is not None and (
            reused or directory.writable
        ):  # also what was just measured is read back, so that a resumed run is the same as one without a break
            result = directory.load(checkpoint.name, suite)
            if not options.samples:
                result.samples = []
        results[suite] = result
        if finished:
            finished(suite, result, reused)
    return results


def relabel(result: SuiteResult, label: str) -> SuiteResult:
    """The same result under another checkpoint label."""
    return replace(result, rows=[replace(row, checkpoint=label) for row in result.rows])


def unique_label(label: str, taken: Sequence[str]) -> str:
    """`label`, or `label (2)`, `label (3)`, ... where it is taken."""
    candidate, number = label, 1
    while candidate in taken:
        number += 1
        candidate = f"{label} ({number})"
    return candidate


def release_memory() -> None:
    """Give the memory of a model that is no longer referenced back, also on an accelerator."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def _with_earlier_tasks(
    checkpoint: Checkpoint, corpus: ParallelCorpus, options: Options, directory: RunDirectory
) -> Options:
    """`options` with the tasks that `directory` holds of this checkpoint and these options: what is asked for is added to them."""
    if "tasks" not in directory.suites(checkpoint.name):
        return options
    key, before = directory.key_and_options(checkpoint.name, "tasks")
    now = _relevant_options("tasks", checkpoint, corpus, options)
    same = {**before, "tasks": None} == {**now, "tasks": None}
    if not same or key != suite_key(
        label=checkpoint.name, content_hash=checkpoint.content_hash, suite="tasks", options=before
    ):
        return options
    if before["tasks"] == now["tasks"]:
        return options
    from alignx_eval.suites.tasks import DEFAULT_TASKS

    return replace(
        options, tasks=tuple(dict.fromkeys([*(before["tasks"] or DEFAULT_TASKS), *(now["tasks"] or DEFAULT_TASKS)]))
    )


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
