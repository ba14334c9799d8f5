"""Suite `language_id`: how well a linear probe reads the language off each layer, and how much of that is script or the
probe's own doing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.base import Engine
from alignx_eval.engine.batches import START_RULE
from alignx_eval.engine.encode import Pooling, Progress
from alignx_eval.errors import InputError
from alignx_eval.languages import DEFAULT_PIVOT, LANGUAGES
from alignx_eval.measures import probe
from alignx_eval.measures.cka import number_groups
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean
from alignx_eval.suites.shared import corpus_fingerprint, interval_fields, start_notes

SUITE = "language_id"
FOLDS = 5


def run(
    engine: Engine,
    corpus: ParallelCorpus,
    *,
    pivot: str = DEFAULT_PIVOT,
    pooling: Pooling = "mean",
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> SuiteResult:
    """Language probe at every layer, five folds; all lines of a group (document) and all their translations are in one
    fold.

    Folds and random labels depend on the corpus and the seed only, so every checkpoint is probed in the same way and
    differences are paired.
    `pivot` has no part in it. Rows (kind of items in brackets); none has a direction, as alignment wants less in the
    middle and more at the end:
      probe_balanced_accuracy   per layer: mean recall over languages [mean]; null: the accuracy on random labels
      probe_recall              per layer and language [mean]
      probe_selectivity         per layer: accuracy - accuracy on random labels, held out [mean]
      probe_control_fit         per layer: accuracy on random labels in training, i.e. what the probe can memorise
      probe_within_script       per layer: accuracy when only languages of the same script compete, over languages that
                                share theirs [mean]
      probe_divergence          at "L" and "L+norm": accuracy there - mean over the middle half of the layers [mean]
      probe_majority, probe_script_only   without layer: always the same language; the dominant script of the text
                                          alone, same folds [mean]
    extras: `maps` with the confusion matrix (shares) at up to three layers. Raises InputError for fewer than two
    languages or groups of lines, and for sentences that are longer than the model's context.
    """
    started = time.perf_counter()
    check(engine, corpus)
    languages, lines = corpus.languages, len(corpus)
    groups = number_groups(corpus.groups)
    # Two streams, so that the labels do not depend on how many random numbers the folds took.
    fold_stream, label_stream = np.random.default_rng(seed).spawn(2)
    folds = probe.grouped_folds(groups, FOLDS, fold_stream)
    control = probe.control_labels(len(languages), lines, label_stream)
    scripts = [LANGUAGES[language].script for language in languages]
    vectors = engine.encode(corpus, pooling=pooling, cache_dir=cache_dir, progress=progress)

    result = SuiteResult(suite=SUITE, rows=[], item_ids=corpus.ids, default_clusters=corpus.groups)
    chance = 1 / len(languages)

    def add(
        metric: str, layer: str | None, values: np.ndarray | float, language: str | None = None, **fields: Any
    ) -> None:
        items = None
        if isinstance(values, np.ndarray):
            items = Items("mean", values.astype(np.float32))
            fields = interval_fields(clustered_mean(items.values, corpus.groups)) | fields
        else:
            fields["value"] = values
        row = Row(
            suite=SUITE,
            metric=metric,
            checkpoint=engine.name,
            layer=layer,
            language=language,
            n=lines,
            higher_is_better=None,
            **fields,
        )
        result.rows.append(row)
        if items is not None:
            result.items[row.key] = items

    accuracy: dict[str, np.ndarray] = {}
    confusions: dict[str, np.ndarray] = {}
    shared_script = np.array([scripts.count(script) > 1 for script in scripts])
    for number, layer in enumerate(vectors.layer_names):
        found = probe.language_probe(vectors.layer(layer), folds, control, scripts)
        accuracy[layer] = found.correct.mean(axis=0)
        confusions[layer] = probe.confusion(found.predicted) / lines
        control_accuracy = float(found.control.mean())
        add("probe_balanced_accuracy", layer, accuracy[layer], chance=chance, null=control_accuracy)
        add("probe_selectivity", layer, accuracy[layer] - found.control.mean(axis=0))
        add("probe_control_fit", layer, found.control_fit, chance=chance, method="training accuracy, no interval")
        if found.within_script is not None:
            within = found.within_script[shared_script].mean(axis=0)
            rivals = [scripts.count(script) for script in scripts if scripts.count(script) > 1]
            add("probe_within_script", layer, within, chance=float(np.mean([1 / count for count in rivals])))
        for language, correct in zip(languages, found.correct, strict=True):
            add("probe_recall", layer, correct.astype(np.float32), language, chance=chance)
        if progress is not None:
            progress(number + 1, len(vectors.layer_names), f"probing layer {layer}")

    blocks = len(vectors.layer_names) - 2
    middle = [layer for layer in vectors.layer_names[:-1] if blocks / 4 <= int(layer) <= 3 * blocks / 4]
    for layer in vectors.layer_names[-2:] if middle else ():  # a model of one block has no middle
        add("probe_divergence", layer, accuracy[layer] - np.mean([accuracy[each] for each in middle], axis=0))
    add("probe_majority", None, chance, method="always the same language; balanced, so no interval")
    add(
        "probe_script_only",
        None,
        probe.script_only([corpus.sentences[language] for language in languages], folds).mean(axis=0),
        chance=chance,
    )

    align_layer = engine.align_layer
    names = (
        vectors.layer_names[0],
        str(align_layer if align_layer is not None else blocks // 2),
        vectors.layer_names[-2],
    )
    result.extras["maps"] = [
        {
            "metric": "probe_confusion",
            "layer": layer,
            "languages": list(languages),
            "values": confusions[layer].round(3).tolist(),
        }
        for layer in dict.fromkeys(names)
        if layer in confusions
    ]
    result.fingerprint = corpus_fingerprint(corpus) | {
        "pooling": pooling,
        "start": START_RULE,
        "seed": seed,
        "folds": int(folds.max()) + 1,
        "shrinkage": probe.SHRINKAGE,
        "language_order": list(languages),
    }
    result.notes += start_notes(engine)
    result.environment = engine.environment() | {"start_token": engine.start}
    result.seconds = time.perf_counter() - started
    return result


def check(engine: Engine, corpus: ParallelCorpus) -> None:
    """Raise InputError for what `run` could not measure, without measuring."""
    if len(corpus.languages) < 2:
        raise InputError(
            f"suite {SUITE}: a language probe needs at least two languages, the corpus has "
            f"{', '.join(corpus.languages)}"
        )
    if len(set(corpus.groups)) < 2:
        raise InputError(
            f"suite {SUITE}: a probe needs at least two groups of lines, one to learn from and one to be tested on"
        )
    engine.check_encode(corpus)
