"""Tasks of the LM evaluation harness, with one result per document, so that checkpoints are compared in pairs."""

from __future__ import annotations

import difflib
import fnmatch
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from alignx_eval.assets import asset_folder
from alignx_eval.engine.base import Engine, Progress
from alignx_eval.engine.harness import (
    cut_documents,
    cut_text,
    lm_eval_version,
    quiet,
    run_tasks,
    task_manager,
)
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import LANGUAGES
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean
from alignx_eval.suites.interface_choice import hash_of
from alignx_eval.suites.shared import interval_fields

SUITE = "tasks"
DEFAULT_TASKS = ("interface_choice",)
DEFAULT_LIMIT = 100
_TASK_OF_LANGUAGE = re.compile(r"(?P<family>.+)_(?P<code>[a-z]{3}_[A-Z][a-z]{3})")


def run(
    engine: Engine, *, tasks: Sequence[str] | None = None, limit: int | None = None, progress: Progress | None = None
) -> SuiteResult:
    """Run lm-eval tasks: ours under `tasks/`, or any other that lm-eval knows; the default is `interface_choice` in all
    its languages.

    `tasks` are names of tasks, groups and tags, and patterns of task names (`interface_choice_*`). `limit` is the
    number of documents of each task, the first ones (`DEFAULT_LIMIT` for None).

    Prompts start as lm-eval starts them, unlike the texts of the other suites: with what the tokenizer adds by itself;
    an empty prompt with BOS, else EOS, else a line break. Where a document is longer than the model's context, lm-eval
    cuts its beginning: such a task decides nothing (its rows are `unjudged`, and a warning names it).

    Rows: metric `TASK.METRIC` in lm-eval's names, such as `interface_choice.acc` and `interface_choice.acc_norm`
    (log-likelihood divided by the answer's characters). A task called FAMILY_xxx_Yyyy gives rows of its family with
    `language` xxx_Yyyy, and where all tasks of a family have the same documents also their mean over the languages (no
    `language`). Metrics that are means over documents have items [mean]; lm-eval's other metrics (perplexity, corpus
    BLEU) have a value alone. `chance` is 1 / choices for accuracies of multiple choice.

    Raises InputError for an unknown task and for a context that has no room for an answer, MissingAssetError where a
    task's data cannot be had.
    """
    started = time.perf_counter()
    check(engine, tasks=tasks, limit=limit)
    loaded = _load(_names(tasks))
    documents_of_each = DEFAULT_LIMIT if limit is None else limit
    if progress is not None:
        progress(0, 1, "tasks")
    with quiet():
        model = engine.harness_model(loaded)
        cut = cut_documents(model, loaded, documents_of_each)
        report = run_tasks(model, loaded, documents_of_each)
    if progress is not None:
        progress(1, 1, "tasks")

    start, empty_start = engine.harness_starts()
    result = SuiteResult(
        suite=SUITE,
        rows=[],
        fingerprint={"start": "as lm-eval: what the tokenizer adds; an empty prompt: BOS, else EOS, else a line break"},
        environment=engine.environment()
        | {
            "lm_eval": lm_eval_version(),
            "start_token": start,
            "start_token_of_empty_prompt": empty_start,
            "context": model.max_length,
        },
        notes=[
            f"Prompts of tasks start as lm-eval starts them. For {engine.name}: "
            + (
                "with no start token, as its tokenizer adds none"
                if start == "none"
                else f"with {start}, which its tokenizer adds"
            )
            + f"; an empty prompt with {empty_start}."
        ],
    )
    families: dict[tuple[str, bool], list[tuple[Row, tuple[str, ...]]]] = {}
    for task in sorted(report["samples"]):
        documents = sorted(report["samples"][task], key=lambda sample: sample["doc_id"])
        if not documents:
            continue
        result.fingerprint[task] = _task_fingerprint(task, documents, report)
        match = _TASK_OF_LANGUAGE.fullmatch(task)
        family, language = (match["family"], match["code"]) if match and match["code"] in LANGUAGES else (task, None)
        for filter_name in dict.fromkeys(sample["filter"] for sample in documents):
            chosen = [sample for sample in documents if sample["filter"] == filter_name]
            ids, clusters = _identities(chosen)
            for metric in chosen[0]["metrics"]:
                row, values = _metric_row(
                    engine.name, task, family, language, metric, filter_name, chosen, clusters, report
                )
                if row is None:
                    continue
                if task in cut:
                    row = replace(row, unjudged=cut_text(cut[task], report, task, model.max_length))
                result.rows.append(row)
                if values is not None:
                    result.items[row.key] = Items("mean", values)
                    result.clusters[row.key] = clusters
                    if language is not None:
                        families.setdefault((row.metric, bool(row.higher_is_better)), []).append((row, ids))
            result.samples += _samples(task, language, chosen, ids)
    for (metric, higher_is_better), members in families.items():
        mean = _family_row(engine.name, metric, higher_is_better, members, result)
        if mean is not None:
            result.rows.append(mean)
    result.warnings += [
        f"{task}: {cut_text(count, report, task, model.max_length)}" for task, count in sorted(cut.items())
    ]
    result.seconds = time.perf_counter() - started
    return result


def chosen_tasks(tasks: Sequence[str] | None, languages: Sequence[str] | None) -> tuple[str, ...] | None:
    """The tasks that were asked for, else our own in the `languages` asked for; None for the default, where that leaves
    none."""
    if tasks is not None:
        return tuple(tasks)
    wanted = [f"{family}_{code}" for family in DEFAULT_TASKS for code in languages or ()]
    return tuple(task for task in wanted if task in list_tasks()) or None


def check(engine: Engine, *, tasks: Sequence[str] | None = None, limit: int | None = None) -> None:
    """Raise what `run` would raise later, without asking the engine: InputError for an unknown task, MissingAssetError
    for data that is not at hand.

    The tasks are loaded for that, and kept for `run`.
    """
    if tasks is not None and not tasks:
        raise InputError("no task given; `alignx-eval ls tasks` lists what there is")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; a task needs at least 1 document")
    _load(_names(tasks))


def _names(tasks: Sequence[str] | None) -> tuple[str, ...]:
    return DEFAULT_TASKS if tasks is None else tuple(tasks)


def list_tasks() -> list[str]:
    """Names of our own tasks and groups, without importing lm-eval."""
    import yaml

    class Names(yaml.SafeLoader):
        pass

    Names.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    names = []
    for path in sorted(asset_folder("tasks").rglob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=Names)  # noqa: S506  (a SafeLoader)
        name = definition.get("group") or definition.get("task")
        if isinstance(name, str):
            names.append(name)
    return sorted(names)


@lru_cache(maxsize=1)
def _load(names: tuple[str, ...]) -> dict[str, Any]:
    """lm-eval's task objects by name, their data read, for names of tasks, groups and tags and for patterns."""
    with quiet():
        manager = task_manager(False)
        ours = (*manager.all_tasks, *(f"{group}_" for group in manager.all_groups))
        if not all(name in manager.all_tasks or (_is_pattern(name) and name.startswith(ours)) for name in names):
            manager = task_manager(True)
        loaded: dict[str, Any] = {}
        for name in dict.fromkeys(found for wanted in names for found in _matches(wanted, manager)):
            try:
                loaded |= manager.load([name])["tasks"]
            except (OSError, ConnectionError) as error:  # what `datasets` raises without network or cache
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise MissingAssetError(
                    f"the data of task {name} is not at hand: {first}; download it once with the network on"
                ) from error
    return loaded


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _matches(name: str, manager: Any) -> list[str]:
    """The names that `name` stands for. A pattern stands for single tasks; for groups and tags only where no task
    matches, as they would bring the same tasks again."""
    if name in manager.all_tasks:
        return [name]
    found = []
    if _is_pattern(name):
        found = fnmatch.filter(manager.all_subtasks, name) or fnmatch.filter(manager.all_tasks, name)
    if not found:
        near = difflib.get_close_matches(name.rstrip("*_"), manager.all_tasks, n=4)
        hint = f"nearest: {', '.join(near)}" if near else "`alignx-eval ls tasks` lists ours"
        raise InputError(f"no task matches {name!r}; {hint}" if _is_pattern(name) else f"unknown task {name!r}; {hint}")
    return found


def _task_fingerprint(task: str, documents: list[dict[str, Any]], report: dict[str, Any]) -> dict[str, Any]:
    content = hash_of(
        *(f"{sample['doc_hash']} {sample['prompt_hash']} {sample['target_hash']}" for sample in documents)
    )
    return {
        "version": str(report["versions"].get(task)),
        "examples_in_prompt": report["n-shot"].get(task, 0),
        "documents": len({sample["doc_id"] for sample in documents}),
        "content": content,
    }


def _identities(samples: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Id and cluster of each document: those it carries itself, else its number and itself."""
    documents = [sample["doc"] if isinstance(sample["doc"], dict) else {} for sample in samples]
    numbers = tuple(str(sample["doc_id"]) for sample in samples)
    ids = tuple(str(document.get("id", number)) for document, number in zip(documents, numbers, strict=True))
    if len(set(ids)) < len(ids):
        ids = numbers
    # Only our own documents are known to carry their cluster under this name.
    ours = all("group" in document and "gold" in document for document in documents)
    return ids, tuple(document["group"] for document in documents) if ours else ids


def _metric_row(
    name: str,
    task: str,
    family: str,
    language: str | None,
    metric: str,
    filter_name: str,
    samples: list[dict[str, Any]],
    clusters: tuple[str, ...],
    report: dict[str, Any],
) -> tuple[Row | None, np.ndarray | None]:
    """One metric of one task, and its value per document where it is a mean over documents."""
    aggregate = report["results"][task].get(f"{metric},{filter_name}")
    if not isinstance(aggregate, int | float) or not np.isfinite(aggregate):
        return None, None
    multiple_choice = report["configs"][task].get("output_type") == "multiple_choice"
    common: dict[str, Any] = {
        "suite": SUITE,
        "metric": f"{family}.{metric}" + ("" if filter_name == "none" else f".{filter_name}"),
        "checkpoint": name,
        "language": language,
        "n": len(samples),
        "higher_is_better": report["higher_is_better"].get(task, {}).get(metric, True),
        "chance": None,
    }
    if multiple_choice and metric.startswith("acc"):
        common["chance"] = float(np.mean([1 / len(sample["arguments"]) for sample in samples]))
    scores = [sample[metric] for sample in samples]
    if all(isinstance(score, bool | int | float | np.number) for score in scores):
        values = np.array(scores, dtype=np.float64)
        if np.isfinite(values).all() and abs(values.mean() - aggregate) <= 1e-9 * max(1.0, abs(aggregate)):
            return Row(**interval_fields(clustered_mean(values, clusters)), **common), values
    return Row(value=float(aggregate), method="lm-eval's aggregate", **common), None


def _family_row(
    name: str, metric: str, higher_is_better: bool, members: list[tuple[Row, tuple[str, ...]]], result: SuiteResult
) -> Row | None:
    """Mean over the languages of a family whose documents are the same in all, with all languages of a document taken
    together."""
    first, ids = members[0]
    if len(members) < 2 or any(other != ids for _, other in members):
        return None
    values = np.mean([result.items[row.key].values for row, _ in members], axis=0)
    clusters = result.clusters[first.key]
    fields = interval_fields(clustered_mean(values, clusters))
    fields["method"] = f"mean of {len(members)} languages; {fields['method']}"
    row = Row(
        suite=SUITE,
        metric=metric,
        checkpoint=name,
        n=len(values),
        chance=first.chance,
        higher_is_better=higher_is_better,
        unjudged=next((f"{row.language}: {row.unjudged}" for row, _ in members if row.unjudged), None),
        **fields,
    )
    result.items[row.key] = Items("mean", values)
    result.clusters[row.key] = clusters
    return row


def _samples(
    task: str, language: str | None, samples: list[dict[str, Any]], ids: tuple[str, ...]
) -> list[dict[str, Any]]:
    """What was asked and answered, as plain JSON; of a multiple choice the answer is the most probable choice."""
    plain = []
    for sample, identity in zip(samples, ids, strict=True):
        arguments = sample["arguments"]
        values = {metric: sample[metric] for metric in sample["metrics"]}
        scores = {
            metric: float(value)
            for metric, value in values.items()
            if isinstance(value, bool | int | float | np.number)
        }
        answers = sample["filtered_resps"]
        if (
            isinstance(sample["target"], int)
            and 0 <= sample["target"] < len(arguments) == len(answers)
            and len(answers) > 1
        ):
            best = max(range(len(answers)), key=lambda index: answers[index][0])
            reference, output = str(arguments[sample["target"]][1]), str(arguments[best][1])
        else:
            reference, output = str(sample["target"]), str(answers[0])
        plain.append(
            {
                "id": identity,
                "task": task,
                "language": language,
                "other_language": None,
                "source": str(arguments[0][0]),
                "reference": reference,
                "output": output,
                **scores,
            }
        )
    return plain
