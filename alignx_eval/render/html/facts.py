"""What was measured, with what, and what training took, in the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.comparison.costs import own_costs, total
from alignx_eval.comparison.rows import labels
from alignx_eval.judgement.findings import uses_corpus
from alignx_eval.metrics import SUITE_TITLES
from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison


def cost_totals(comparison: Comparison) -> list[dict[str, Any]]:
    """What each checkpoint with several stages of its own took in all, beyond the base."""
    own = {label: own_costs(comparison, label) for label in labels(comparison) if label != comparison.base}
    return [
        dict.fromkeys(wording.AMOUNTS) | total(costs) | {"label": label}
        for label, costs in own.items()
        if len(costs) > 1
    ]


def facts(comparison: Comparison) -> dict[str, Any]:
    """Who was measured, how, and on what machine, as plain name and value pairs."""
    checkpoints = []
    for label in labels(comparison):
        meta = comparison.checkpoints.get(label, {})
        role = "base" if label == comparison.base else "control" if label == comparison.control else "candidate"
        checkpoints.append(
            {
                "label": label,
                "role": role if comparison.candidates else "checkpoint",
                "reference": meta.get("reference") or "",
                "stage": meta.get("stage") or "",
                "step": meta.get("step"),
                "align_layer": meta.get("align_layer"),
                "format": meta.get("format") or "",
                "parameters": wording.quantity(float(meta["parameters"])) if meta.get("parameters") else "",
                "content_hash": str(meta.get("content_hash") or "")[:16],
            }
        )
    fingerprints: list[dict[str, Any]] = []
    environments: list[dict[str, Any]] = []
    for suite in view.suites(comparison):
        results = {label: by_suite[suite] for label, by_suite in comparison.results.items() if suite in by_suite}
        for table, attribute in ((fingerprints, "fingerprint"), (environments, "environment")):
            names = sorted({name for result in results.values() for name in getattr(result, attribute)})
            for name in names:
                values = {label: _plain(getattr(result, attribute).get(name)) for label, result in results.items()}
                same = len(set(values.values())) == 1
                text = (
                    next(iter(values.values()))
                    if same
                    else "; ".join(f"{label}: {value}" for label, value in values.items())
                )
                table.append({"suite": SUITE_TITLES.get(suite, suite), "name": name, "value": text, "same": same})
    seconds = [
        {
            "suite": SUITE_TITLES.get(suite, suite),
            "times": [_seconds(comparison, label, suite) for label in labels(comparison)],
        }
        for suite in view.suites(comparison)
    ]
    used = comparison.corpus if uses_corpus(comparison) else {}
    corpus = {name.replace("_", " "): _plain(value) for name, value in used.items() if value not in (None, "", [], {})}
    return {
        "checkpoints": checkpoints,
        "fingerprints": fingerprints,
        "environments": environments,
        "seconds": seconds,
        "corpus": corpus,
    }


def _seconds(comparison: Comparison, label: str, suite: str) -> str:
    result = comparison.results.get(label, {}).get(suite)
    return wording.duration(result.seconds) if result and result.seconds else "–"


def _plain(value: Any) -> str:
    """A recorded value as short text."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, (list, tuple)):
        text = ", ".join(_plain(item) for item in value)
    else:
        text = json.dumps(wording.finite(value), ensure_ascii=False)
    return text if len(text) <= 1000 else f"{text[:1000]} … [{len(text) - 1000} more characters]"


def notes(comparison: Comparison) -> list[str]:
    """Sentences of the suites for the reader, each once, with the checkpoints it is about where that is not all."""
    found: dict[str, list[str]] = {}
    for label in labels(comparison):
        for note in dict.fromkeys(
            note for result in comparison.results.get(label, {}).values() for note in result.notes
        ):
            found.setdefault(note, []).append(label)
    every = len(labels(comparison))
    return [note if len(labels) == every else f"{', '.join(labels)}: {note}" for note, labels in found.items()]
