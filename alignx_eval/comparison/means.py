"""Means over languages of a comparison: at which layer, with which interval and verdict. One place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignx_eval.comparison.paired_items import PairedItems, clusters_of
from alignx_eval.statistics.clustered import Estimate
from alignx_eval.statistics.jackknife import jackknife

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison, ComparisonRow
    from alignx_eval.results import Row


CONTRAST_MEANING = {"candidate-base": "what training changed", "candidate-control": "the effect of alignment"}


RETRIEVAL = ("precision_at_1",)  # raw cosine, both directions


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """Mean over rows of candidate - reference, with the means of both sides. `rows` of the `of` rows asked for are in it."""

    base: float
    candidate: float
    estimate: Estimate
    rows: int
    of: int


def mean_difference(
    comparison: Comparison, rows: Sequence[ComparisonRow], *, of: int | None = None
) -> MeanDifference | None:
    """Mean difference over `rows` of one contrast, which are those of `of` languages or directions (default: as many as there are rows).

    Rows without an interval, without items on both sides, and with other clusters than the first one, are left out; `rows` of the result
    counts the others. None where they are fewer than half: a mean over the rest would be another quantity.
    """
    of = len(rows) if of is None else of
    points, left, first = [], [], None
    for row in rows:
        if row.se is None:
            continue
        sides = [comparison.results[name][row.suite] for name in (row.base_name, row.candidate_name)]
        items = [side.items.get(row.key) for side in sides]
        if items[0] is None or items[1] is None:
            continue
        paired = PairedItems(items[0], items[1], clusters_of(row.key, sides[0], items[0]))
        point, left_out = paired.left_out()
        shape = (paired.clusters, left_out.shape)
        first = shape if first is None else first
        if shape == first and np.isfinite(left_out).all():
            points.append(point)
            left.append(left_out[1] - left_out[0])
    if not points or 2 * len(points) < of:
        return None
    base, candidate = np.mean(points, axis=0)
    differences = [point[1] - point[0] for point in points]
    estimate = jackknife(float(np.mean(differences)), np.mean(left, axis=0), n=min(row.n for row in rows))
    return MeanDifference(float(base), float(candidate), estimate, len(points), of)


def align_layer(comparison: Comparison, rows: Sequence[ComparisonRow | Row], candidate: str) -> tuple[str | None, str]:
    """The layer that the candidate was aligned at, else the middle one: chosen without a look at the results."""
    recorded = comparison.checkpoints.get(candidate, {}).get("align_layer")
    layers = [row.layer for row in rows if row.suite == "layers" and row.layer is not None]
    if recorded is not None and str(recorded) in layers:
        return str(recorded), f"layer {recorded} (the align layer)"
    numbers = [int(layer) for layer in layers if layer.isdigit()]
    if not numbers:
        return None, ""
    # A baseline holds some layers only, so the middle one is then a recorded fact.
    middle = comparison.checkpoints.get(candidate, {}).get("middle_layer", max(numbers) // 2)
    return str(middle), f"layer {middle} (the middle one; no align layer is recorded)"


def _sign(estimate: Estimate) -> int:
    """1 or -1 where the interval lies on one side of 0, else 0."""
    if estimate.ci_low is None or estimate.ci_high is None or estimate.ci_low <= 0 <= estimate.ci_high:
        return 0
    return 1 if estimate.value > 0 else -1


def details(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """The rows of single languages or directions, without the means that a suite reports beside them."""
    pairs = [row for row in rows if row.language is not None and row.other_language is not None]
    return pairs or [row for row in rows if row.language is not None]


def table_layer(comparison: Comparison, label: str, rows: Iterable[ComparisonRow | Row]) -> str | None:
    """The layer that tables by language show: the align layer, else the middle one; chosen without a look at the results."""
    layers = {row.layer for row in rows if row.layer is not None}
    marked = marked_layer(comparison, label)
    if marked in layers or not layers:
        return marked if layers else None
    blocks = sorted((layer for layer in layers if "+" not in layer), key=layer_order)
    return (
        blocks[-1] if not blocks[-1].isdigit() or str(int(blocks[-1]) // 2) not in layers else str(int(blocks[-1]) // 2)
    )


def marked_layer(comparison: Comparison, label: str) -> str | None:
    """The layer that the checkpoint was aligned at, as a layer name, or None."""
    layer = comparison.checkpoints.get(label, {}).get("align_layer")
    return None if layer is None else str(layer)


def layer_order(layer: str) -> tuple[int, bool]:
    """Sort key of layer names: "0", "1", ..., "L", "L+norm"."""
    number = re.match(r"\d+", layer)
    return int(number.group()) if number else 10**6, "+" in layer
