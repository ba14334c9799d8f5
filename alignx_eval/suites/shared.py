"""What the suites that run the language model have in common: where a text starts, and how an estimate becomes a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.encode import CorpusVectors
from alignx_eval.statistics.clustered import Estimate

UNDEFINED: dict[str, Any] = {"value": None}  # the fields of a Row whose `reason` says why there is no number


def start_token(tokenizer: Any) -> tuple[int | None, str]:
    """The token that every text starts with, and its role: BOS, else EOS (it ends the document before), else none."""
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id, "bos"
    if tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id, "eos"
    return None, "none"


def start_before(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """What goes before `ids`, a text tokenized without special tokens: the start token, or nothing where the text (as a template may)
    begins with it, or where the tokenizer has none."""
    start, _ = start_token(tokenizer)
    return [] if start is None or (len(ids) > 0 and ids[0] == start) else [start]


def interval_fields(estimate: Estimate) -> dict[str, Any]:
    """The fields of a Row that an estimate fills."""
    return {
        "value": estimate.value,
        "se": estimate.se,
        "ci_low": estimate.ci_low,
        "ci_high": estimate.ci_high,
        "method": estimate.method,
    }


def corpus_fingerprint(corpus: ParallelCorpus) -> dict[str, Any]:
    """Which text was measured: must agree for two results to compare."""
    return {
        "corpus": corpus.name,
        "split": corpus.split,
        "content": corpus.content_hash,
        "lines": len(corpus),
        "languages": sorted(corpus.languages),
    }


def truncation_notes(vectors: CorpusVectors) -> list[str]:
    """What the reader of a report has to know about sentences that lost their end."""
    cut = {language: int(flags.sum()) for language, flags in vectors.truncated.items() if flags.any()}
    if not cut:
        return []
    worst = sorted(cut.items(), key=lambda item: -item[1])[:5]
    return [
        f"{sum(cut.values())} sentences in {len(cut)} languages were longer than the model's context and were cut, most of all "
        + ", ".join(f"{language} ({count})" for language, count in worst)
        + "; their vectors do not stand for the whole sentence."
    ]
