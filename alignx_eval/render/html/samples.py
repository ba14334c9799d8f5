"""The browser of translated samples in the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.render import view
from alignx_eval.render.html.curves import line_styles

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison


SAMPLE_BYTES = 500_000  # of the whole report's 3 MB
SAMPLE_CHARACTERS = 600  # of one text; a model that does not stop writes thousands


def sample_browser(comparison: Comparison) -> dict[str, Any] | None:
    """Translations of the same sentence by every checkpoint, the largest gains and losses of each direction under a
    size cap."""
    styles = line_styles(comparison)
    names = [label for label in styles if comparison.results.get(label, {}).get("translation")]
    joined: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for label in names:
        for sample in comparison.results[label]["translation"].samples:
            key = (
                str(sample.get("language") or ""),
                str(sample.get("other_language") or ""),
                str(sample.get("id") or ""),
            )
            joined.setdefault(key, {})[label] = sample
    if not joined:
        return None
    candidate = comparison.candidates[0] if comparison.candidates and comparison.candidates[0] in names else names[-1]
    other = next(
        (label for label in (comparison.control, comparison.base) if label in names and label != candidate), None
    )
    directions: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (source, target, identity), by_label in joined.items():
        if candidate not in by_label:
            continue
        first = by_label[candidate]
        scores = {label: _sentence_score(sample) for label, sample in by_label.items()}
        delta = None
        after, before = scores.get(candidate), scores.get(other or "")
        if after is not None and before is not None:
            delta = after - before
        directions.setdefault((source, target), []).append(
            {
                "id": _shorten(identity),
                "s": _shorten(first.get("source") or ""),
                "r": _shorten(first.get("reference") or ""),
                "o": [_shorten(by_label[label].get("output") or "") if label in by_label else None for label in names],
                "c": [None if (score := scores.get(label)) is None else round(score, 1) for label in names],
                "x": [by_label.get(label, {}).get("target_language") in ("off", "empty") for label in names],
                "d": None if delta is None else round(delta, 1),
            }
        )
    for items in directions.values():
        items.sort(
            key=lambda item: (
                item["d"] is None,
                item["d"] if item["d"] is not None else -(item["c"][names.index(candidate)] or 0.0),
                item["id"],
            )
        )
    chosen = {}
    for count in (20, 14, 10, 7, 5, 3, 2, 1):
        chosen = {
            pair: items if len(items) <= 2 * count else items[:count] + items[-count:]
            for pair, items in directions.items()
        }
        if len(json.dumps(list(chosen.values()), ensure_ascii=False).encode("utf-8", "replace")) <= SAMPLE_BYTES:
            break
    ordered = sorted(chosen)
    data: dict[str, Any] = {
        "names": names,
        "styles": [styles[label] for label in names],
        "delta": [candidate, other] if other else None,
        "directions": [
            {
                "source": {"code": source, "lang": view.language_tag(source), "dir": view.text_direction(source)},
                "target": {"code": target, "lang": view.language_tag(target), "dir": view.text_direction(target)},
                "title": f"{source} → {target}",
                "items": chosen[source, target],
            }
            for source, target in ordered
        ],
    }
    shown = sum(len(items) for items in chosen.values())
    static = data["directions"][0]
    return {
        "data": data,
        "static": static,
        "static_items": static["items"][:3],
        "names": names,
        "styles": styles,
        "shown": shown,
        "total": len(joined),
        "delta": f"{candidate} − {other}" if other else "",
        "attribution": comparison.corpus.get("attribution") or "",
        "licence": comparison.corpus.get("licence") or "",
    }


def _sentence_score(sample: Mapping[str, Any]) -> float | None:
    value = sample.get("chrf++")
    return float(value) if isinstance(value, (int, float)) else None


def _shorten(text: Any) -> str:
    text = wording.clean(text)
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    return f"{text[:SAMPLE_CHARACTERS]} … [{len(text) - SAMPLE_CHARACTERS} more characters]"
