"""Results of suites made by hand."""

from __future__ import annotations

import numpy as np

from alignx_eval.comparison.paired_items import point_of
from alignx_eval.results import Items, Row, SuiteResult

LANGUAGES = ("deu_Latn", "rus_Cyrl", "zho_Hans")
LINES = 120


def result(
    suite: str, checkpoint: str, entries, *, lines: int = LINES, lines_per_document: int = 2, **fields
) -> SuiteResult:
    """A suite's result from (metric, layer, language, other_language, higher_is_better, Items)."""
    rows, items = [], {}
    for metric, layer, language, other, higher, item in entries:
        row = Row(
            suite=suite,
            metric=metric,
            checkpoint=checkpoint,
            layer=layer,
            language=language,
            other_language=other,
            value=point_of(item),
            n=lines,
            higher_is_better=higher,
        )
        rows.append(row)
        items[row.key] = item
    return SuiteResult(
        suite=suite,
        rows=rows,
        items=items,
        default_clusters=tuple(f"document {line // lines_per_document}" for line in range(lines)),
        item_ids=tuple(f"line {line}" for line in range(lines)),
        fingerprint={"corpus": {"name": "test", "content": "abc"}, "pooling": "mean"},
        environment={"dtype": "float32"},
        **fields,
    )


def bleu_items(random: np.random.Generator, quality: float, lines: int = LINES) -> Items:
    length = random.integers(8, 30, lines)
    total = np.column_stack([length - order for order in range(4)])
    correct = random.binomial(total, quality ** np.arange(1, 5))
    return Items("bleu", np.column_stack([length, length, correct, total]))


def chrf_items(random: np.random.Generator, quality: float, lines: int = LINES) -> Items:
    total = random.integers(10, 60, (lines, 8))
    return Items("chrf", np.stack([total, total, random.binomial(total, quality)], axis=2).reshape(lines, 24))


def measured(name: str, seed: int, *, lift: float = 0.0, worse_language: str | None = None) -> dict[str, SuiteResult]:
    """All kinds of items for a checkpoint; `lift` moves retrieval, BLEU and bits per byte for the better."""
    random = np.random.default_rng(seed)
    difficulty = np.random.default_rng(99).random(LINES)
    layers, modelling, translation, tasks = [], [], [], []
    for language in LANGUAGES:
        sign = -1.0 if language == worse_language else 1.0
        for layer in ("0", "1", "2", "3", "4", "4+norm"):
            gain = lift if layer == "2" else -lift if layer.startswith("4") else 0.0
            hits = (difficulty + 0.3 * random.standard_normal(LINES) < 0.5 + gain).astype(float)
            layers.append(("precision_at_1", layer, "eng_Latn", language, True, Items("mean", hits)))
            left = 0.4 + gain + 0.02 * random.standard_normal(60) / 60
            layers.append(
                ("cka_debiased", layer, "eng_Latn", language, None, Items("jackknife", left, point=0.4 + gain))
            )
        size = np.random.default_rng(LANGUAGES.index(language)).integers(20, 90, LINES)
        bits = size * (1.5 - sign * lift + 0.1 * random.standard_normal(LINES))
        modelling.append(("bits_per_byte", None, language, None, False, Items("ratio", np.column_stack([bits, size]))))
        quality = 0.6 + sign * lift / 2
        translation.append(("bleu", None, "eng_Latn", language, True, bleu_items(random, quality)))
        translation.append(("chrf++", None, "eng_Latn", language, True, chrf_items(random, quality)))
        judged = (random.random(LINES) < 0.8).astype(float)
        off = judged * (random.random(LINES) < 0.1)
        translation.append(
            ("off_target_rate", None, "eng_Latn", language, False, Items("ratio", np.column_stack([off, judged])))
        )
        tasks.append(("acc", None, language, None, True, Items("mean", (random.random(LINES) < 0.5).astype(float))))
    return {
        "layers": result("layers", name, layers),
        "language_modelling": result("language_modelling", name, modelling),
        "translation": result("translation", name, translation),
        "tasks": result("tasks", name, tasks),
    }
