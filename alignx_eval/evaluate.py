"""Measure checkpoints: suite after suite, one checkpoint in memory at a time, nothing twice that a run directory
already holds."""

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
from alignx_eval.suites import table
from alignx_eval.suites.table import MEASURING_VERSIONS, Options

if TYPE_CHECKING:
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.engine.base import Engine, Progress


def check(engine: Engine, corpus: ParallelCorpus, suites: Sequence[str], options: Options) -> None:
    """Raise what the suites would raise later: InputError and MissingAssetError. Measures nothing."""
    for suite in check_suites(suites):
        table.check(suite, engine, corpus, table.resolved(suite, options))


def evaluate(
    engine: Engine,
    corpus: ParallelCorpus,
    suites: Sequence[str],
    options: Options,
    *,
    directory: RunDirectory | None = None,
    progress: Callable[[str], Progress | None] | None = None,
    finished: Callable[[str, SuiteResult, bool], None] | None = None,
) -> dict[str, SuiteResult]:
    """Results by suite. With a `directory`, each suite is stored as soon as it is complete, and read from there if it
    is.

    `progress(suite)` gives the callable that the suite reports to; `finished(suite, result, reused)` is called after
    each. Raises what opening of data and the suites raise: InputError, MissingAssetError.
    """
    results: dict[str, SuiteResult] = {}
    for suite in check_suites(suites):
        chosen = table.resolved(suite, options)
        if suite == "tasks" and directory is not None:
            chosen = _with_earlier_tasks(engine, corpus, chosen, directory)
        identity = table.identity(suite, engine, corpus, chosen)
        key = suite_key(label=engine.name, content_hash=engine.content_hash, suite=suite, options=identity)
        # Of several processes all measure or none: a suite may need every one of them.
        reused = processes.all_agree(
            directory is not None and directory.is_done(engine.name, suite, key, samples=options.samples)
        )
        if not reused:
            started = time.perf_counter()
            result = table.measure(suite, engine, corpus, chosen, progress(suite) if progress else None)
            result.seconds = time.perf_counter() - started
            if not result.rows:
                raise InputError(
                    f"suite {suite}: nothing could be measured with this corpus; choose other --suites or --languages"
                )
            result.fingerprint |= {"measuring_version": MEASURING_VERSIONS[suite]}
            if not options.samples:
                result.samples = []
            if directory is not None and directory.writable:
                directory.save(engine.name, key, result, options=identity, samples=options.samples)
        if directory is not None and (
            reused or directory.writable
        ):  # also what was just measured is read back, so that a resumed run is the same as one without a break
            result = directory.load(engine.name, suite)
            if not options.samples:
                result.samples = []
        results[suite] = result
        if finished:
            finished(suite, result, reused)
    return results


def _with_earlier_tasks(engine: Engine, corpus: ParallelCorpus, options: Options, directory: RunDirectory) -> Options:
    """`options` with the tasks that `directory` holds of this checkpoint and these options: what is asked for is added
    to them."""
    if "tasks" not in directory.suites(engine.name):
        return options
    key, before = directory.key_and_options(engine.name, "tasks")
    now = table.identity("tasks", engine, corpus, options)
    same = {**before, "tasks": None} == {**now, "tasks": None}
    if not same or key != suite_key(label=engine.name, content_hash=engine.content_hash, suite="tasks", options=before):
        return options
    if before["tasks"] == now["tasks"]:
        return options
    from alignx_eval.suites.tasks import DEFAULT_TASKS

    return replace(
        options, tasks=tuple(dict.fromkeys([*(before["tasks"] or DEFAULT_TASKS), *(now["tasks"] or DEFAULT_TASKS)]))
    )
