"""Whether two results compare: fingerprints side by side, and what differs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from alignx_eval.errors import NotComparableError
from alignx_eval.results import SuiteResult


def check_comparable(
    results: Mapping[str, Mapping[str, SuiteResult]], labels: Sequence[str], allow_mismatch: Collection[str]
) -> tuple[list[str], list[str]]:
    """Warnings about the environment, and mismatches that are allowed; raises NotComparableError about those that are
    not."""
    refused: list[tuple[str, str, str, str]] = []  # suite, field, "value in label", "value in other label"
    warnings: dict[str, list[str]] = {}
    allowed: dict[str, list[str]] = {}
    for suite in dict.fromkeys(suite for label in labels for suite in results[label]):
        reference, *others = [label for label in labels if suite in results[label]]
        first = results[reference][suite]
        for label in others:
            second = results[label][suite]
            for name, left, right in _differences(first.fingerprint, second.fingerprint):
                if {name, name.split(".")[0]} & set(allow_mismatch):
                    allowed.setdefault(f"{name} is {left} in {reference} and {right} in {label}", []).append(suite)
                else:
                    refused.append((suite, name, f"{left} in {reference}", f"{right} in {label}"))
            # Without the same items in the same order there are no pairs, so these two can not be allowed.
            for name in ("item_ids", "default_clusters"):
                lists = list(getattr(first, name)), list(getattr(second, name))
                if lists[0] != lists[1]:
                    left, right = _first_difference(*lists)
                    refused.append((suite, name, f"{left} in {reference}", f"{right} in {label}"))
            for name, left, right in _differences(first.environment, second.environment):
                warnings.setdefault(f"{name} is {left} in {reference} and {right} in {label}", []).append(suite)
    if refused:
        raise NotComparableError(
            "the results were measured differently, so their numbers do not compare:\n"
            + _table(("suite", "what differs", "one", "other"), refused)
            + "\nMeasure all checkpoints with the same data and options, or allow a field with --allow-mismatch FIELD."
        )
    told = [[f"{text} ({', '.join(suites)})" for text, suites in found.items()] for found in (warnings, allowed)]
    return told[0], told[1]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, two spaces apart, indented by two."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (header, *rows)
    )


def _differences(left: Mapping[str, Any], right: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """(dotted field, left, right) of all that differs, compared as JSON so that a result read from disk equals one in
    memory."""
    found: list[tuple[str, str, str]] = []
    for name in dict.fromkeys([*left, *right]):
        if isinstance(left.get(name), Mapping) and isinstance(right.get(name), Mapping):
            found += _differences(left[name], right[name], f"{prefix}{name}.")
            continue
        texts = [_as_json(side[name]) if name in side else "absent" for side in (left, right)]
        if texts[0] != texts[1]:
            found.append((prefix + name, _shorten(texts[0]), _shorten(texts[1])))
    return found


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def _shorten(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:80]}... ({len(text)} characters)"


def _first_difference(left: list[str], right: list[str]) -> tuple[str, str]:
    if len(left) != len(right):
        return f"{len(left)} items", f"{len(right)} items"
    index = next(index for index, (one, other) in enumerate(zip(left, right, strict=True)) if one != other)
    where = f"item {index + 1} of {len(left)} is "
    return where + repr(_shorten(str(left[index]))), repr(_shorten(str(right[index])))
