"""Measure checkpoints: suite after suite, one checkpoint in memory at a time, nothing twice that a run directory already holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignx_eval import processes
from alignx_eval.errors import InputError
from alignx_eval.metrics import check_suites
from alignx_eval.results import SuiteResult
from alignx_eval.run_directory import RunDirectory, suite_key
from alignx_eval.suites.table import (
    MEASURING_VERSIONS,
    Options,
    Progress,
    _chosen_tasks,
    _measure,
    _relevant_options,
    _text_of,
)

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.corpora import ParallelCorpus


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
