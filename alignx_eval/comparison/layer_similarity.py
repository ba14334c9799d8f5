"""Where training changed the model: debiased CKA of the same sentences in two checkpoints, layer against layer.

1 means that the geometry of the sentences is the same up to rotation and scale. It says where something changed, never
whether that is good. The vectors are those that the suite `layers` left in the cache; no model is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignx_eval.engine import vector_cache
from alignx_eval.measures import cka
from alignx_eval.results import LayerSimilarity, SuiteResult
from alignx_eval.statistics.jackknife import jackknife

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import ContrastKind


Read = Callable[[str, str], np.ndarray]  # (language, layer) -> vectors [lines, width]


def compare_layers(
    reference: Read,
    candidate: Read,
    *,
    languages: Sequence[str],
    layers: Sequence[str],
    candidate_layers: Sequence[str],
    groups: np.ndarray,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[list[list[float | None]], list[dict[str, Any]]]:
    """(`values`, `same_layer`) of a `LayerSimilarity`; groups int [lines] as `cka.number_groups` gives them.

    One language and one layer of each checkpoint are in memory as Gram matrices at a time, besides the packed halves of
    one language.
    """
    total = np.zeros((len(layers), len(candidate_layers)))
    defined = np.zeros(total.shape, dtype=int)
    paired = tuple(layers) == tuple(candidate_layers)
    left_out: dict[str, list[tuple[float, np.ndarray]]] = {layer: [] for layer in layers}
    for number, language in enumerate(languages):
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for index in range(max(len(layers), len(candidate_layers))):
            grams = []
            for read, names, packed in zip((reference, candidate), (layers, candidate_layers), sides):
                if index < len(names):
                    gram = _gram(read(language, names[index]), groups)
                    grams.append(gram)
                    packed.append(_packed(gram, len(groups)))
            if paired and grams[0] is not None and grams[1] is not None:
                try:
                    left_out[layers[index]].append(cka.debiased_cka_leave_out(grams[0], grams[1]))
                except ValueError:
                    pass  # a group is all that the lines differ in; the point below stands without an interval
        table = cka.debiased_cka_of_packed(np.stack(sides[0]), np.stack(sides[1]))
        known = np.isfinite(table)
        total += np.where(known, table, 0)
        defined += known
        if progress is not None:
            progress(number + 1, len(languages), f"comparing layers on {language}")
    mean = np.where(defined > 0, total / np.maximum(defined, 1), np.nan)
    values = [[round(float(value), 4) if np.isfinite(value) else None for value in row] for row in mean]
    same_layer = []
    for index, layer in enumerate(layers if paired else ()):
        entry: dict[str, Any] = {"layer": layer, "value": values[index][index], "ci_low": None, "ci_high": None}
        found = left_out[layer]
        if found and len(found) == defined[index, index]:
            estimate = jackknife(float(mean[index, index]), np.mean([each for _, each in found], axis=0), n=len(groups))
            if estimate.ci_low is not None and estimate.ci_high is not None:
                entry |= {"ci_low": round(estimate.ci_low, 4), "ci_high": round(min(1.0, estimate.ci_high), 4)}
        same_layer.append(entry)
    return values, same_layer


def similarity_key(results: Mapping[str, SuiteResult], reference: str, candidate: str) -> str | None:
    """What identifies the vectors and documents behind a `LayerSimilarity`; None where the two results are not of the
    same lines, or were made without a cache."""
    first, second = results[reference], results[candidate]
    sides = [result.extras.get("vectors") for result in (first, second)]
    if (
        sides[0] is None
        or sides[1] is None
        or (first.item_ids, first.default_clusters) != (second.item_ids, second.default_clusters)
    ):
        return None
    keys: list[dict[str, str]] = [side["keys"] for side in sides if side is not None]
    languages = [language for language in keys[0] if language in keys[1]]
    if not languages:
        return None
    identity = [[(language, side[language]) for language in languages] for side in keys]
    return hashlib.sha256(json.dumps([*identity, list(first.default_clusters)]).encode()).hexdigest()[:16]


def compare_cached_layers(
    results: Mapping[str, SuiteResult],
    reference: str,
    candidate: str,
    contrast: ContrastKind,
    *,
    cache_dir: str | Path,
    known: Sequence[LayerSimilarity] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> LayerSimilarity | None:
    """`LayerSimilarity` from `results`, label -> result of the suite `layers`; that of the same vectors in `known` is
    taken as it is.

    None where the results are not of the same lines, and where the cache no longer holds the vectors of both.
    """
    key = similarity_key(results, reference, candidate)
    if key is None:
        return None
    sides = [results[label].extras["vectors"] for label in (reference, candidate)]
    groups = results[reference].default_clusters
    keys = [side["keys"] for side in sides]
    languages = tuple(language for language in keys[0] if language in keys[1])
    labels = (reference, candidate, contrast)
    for each in known:
        if (each.reference, each.candidate, each.contrast, each.key) == (*labels, key):
            return each
    opened = [{language: vector_cache.open_entry(cache_dir, side[language]) for language in languages} for side in keys]
    entries = [{language: entry for language, entry in side.items() if entry is not None} for side in opened]
    if any(len(side) < len(languages) for side in entries):
        return None
    layers, candidate_layers = (tuple(side["layers"]) for side in sides)
    numbers = cka.number_groups(groups)
    values, same_layer = compare_layers(
        lambda language, layer: entries[0][language].get_tensor(layer),
        lambda language, layer: entries[1][language].get_tensor(layer),
        languages=languages,
        layers=layers,
        candidate_layers=candidate_layers,
        groups=numbers,
        progress=progress,
    )
    counts = len(numbers), int(numbers.max()) + 1
    return LayerSimilarity(*labels, languages, *counts, layers, candidate_layers, values, same_layer, key)


def _gram(vectors: np.ndarray, groups: np.ndarray) -> cka.CentredGram | None:
    try:
        return cka.centred_gram(vectors, groups)
    except ValueError:  # the lines do not differ, or are too few
        return None


def _packed(gram: cka.CentredGram | None, lines: int) -> np.ndarray:
    return np.full(lines * (lines - 1) // 2, np.nan, dtype=np.float32) if gram is None else cka.pack(gram.matrix)
