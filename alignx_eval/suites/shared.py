"""What the suites have in common: which text was measured, and how an estimate becomes a row."""

from __future__ import annotations

from typing import Any

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.base import Engine
from alignx_eval.statistics.clustered import Estimate

UNDEFINED: dict[str, Any] = {"value": None}  # the fields of a Row whose `reason` says why there is no number


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


def start_notes(engine: Engine) -> list[str]:
    """What the reader of a report has to know where no start token can stand before a sentence."""
    if engine.start != "none":
        return []
    return [
        f"The tokenizer of {engine.name} has neither a BOS nor an EOS token: no start token stands before a sentence, "
        "and the first "
        "token of a sentence may hold most of what is pooled."
    ]
