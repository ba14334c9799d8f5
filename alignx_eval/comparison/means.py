"""Means over languages or directions: at which layer, with which interval and verdict. One place, one number.

A suite reports the mean of its own rows, and `compare` tests it like any other row: its difference, interval, adjusted
p and verdict are those of the mean wherever it is shown. Where some of its languages cannot be judged, that row has no
verdict either; the mean of the others is then made here, from their items: one cluster (document) is left out of all of
them at once, because translations of a line are not independent (delete-a-cluster jackknife), its p is that of a t
test, adjusted as one more row of the suite's family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignx_eval.comparison.paired_items import PairedItems, clusters_of
from alignx_eval.comparison.rows import MINIMUM_CLUSTERS, ComparisonRow, RowVerdict, details, is_mean
from alignx_eval.statistics.clustered import Estimate, t_test
from alignx_eval.statistics.jackknife import jackknife
from alignx_eval.statistics.multiplicity import benjamini_hochberg

if TYPE_CHECKING:
    from alignx_eval.comparison.contrasts import Contrast
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.results import Row


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """Mean over rows of candidate - reference, with the means of both sides and the verdict on the difference.

    `rows` of the `of` rows asked for are in it. `verdict` and `p_adjusted` are as those of a row; `reason` says why
    there is no verdict.
    """

    base: float
    candidate: float
    estimate: Estimate
    rows: int
    of: int
    verdict: RowVerdict
    p_adjusted: float | None
    reason: str | None = None


def mean_difference(
    comparison: Comparison, contrast: Contrast, rows: Sequence[ComparisonRow], *, of: int | None = None
) -> MeanDifference | None:
    """Mean difference over `rows`, single languages or directions of one metric (at one layer) of `contrast`.

    `of`: of how many languages or directions they are (default: as many as there are rows). Rows without an interval,
    without items on both sides, and with other clusters than the first one, are left out; `rows` of the result counts
    the others. None where they are fewer than half: a mean over the rest would be another quantity.
    """
    of = len(rows) if of is None else of
    own = _suite_mean(contrast, rows) if len(rows) == of else None
    if own is not None:
        assert own.base is not None and own.candidate is not None and own.difference is not None
        estimate = Estimate(
            own.difference,
            own.se,
            own.ci_low,
            own.ci_high,
            own.n,
            own.clusters,
            own.method,
            own.degrees_of_freedom,
            own.skewness,
        )
        return MeanDifference(own.base, own.candidate, estimate, len(rows), of, own.verdict, own.p_adjusted, own.reason)
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
    verdict, p_adjusted, reason = _verdict(comparison, contrast, rows[0], estimate)
    return MeanDifference(float(base), float(candidate), estimate, len(points), of, verdict, p_adjusted, reason)


def _suite_mean(contrast: Contrast, rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """The suite's own row of the mean over exactly `rows`, where all of them and the mean have an interval."""
    if not rows or any(row.se is None for row in rows):
        return None
    if len(rows) == 1:  # its own mean
        return rows[0]
    what = (rows[0].suite, rows[0].metric, rows[0].layer)
    same = [row for row in contrast.rows if (row.suite, row.metric, row.layer) == what]
    keys = {row.key for row in rows}
    for mean in (row for row in same if is_mean(row) and row.se is not None):
        # None stands for all languages on that side of a direction.
        members = {
            row.key
            for row in details(same)
            if mean.language in (None, row.language) and mean.other_language in (None, row.other_language)
        }
        if members == keys:
            return mean
    return None


def _verdict(
    comparison: Comparison, contrast: Contrast, row: ComparisonRow, estimate: Estimate
) -> tuple[RowVerdict, float | None, str | None]:
    """Verdict, adjusted p and why there is none, of a mean that no row of the suite holds; `row` is any that is in
    it."""
    if row.higher_is_better is None:
        return "no-direction", None, None
    if estimate.clusters < MINIMUM_CLUSTERS or estimate.se is None or estimate.degrees_of_freedom is None:
        return "insufficient-data", None, f"{estimate.clusters} clusters, a verdict needs {MINIMUM_CLUSTERS}"
    family = [each.p for each in contrast.rows if each.suite == row.suite and each.p_adjusted is not None]
    p = t_test(estimate.value, estimate.se, estimate.degrees_of_freedom, estimate.skewness)
    adjusted = float(benjamini_hochberg(np.array([*family, p], dtype=np.float64))[-1])
    if adjusted >= comparison.alpha or estimate.value == 0:
        return "no-evidence", adjusted, None
    return ("better" if (estimate.value > 0) == row.higher_is_better else "worse"), adjusted, None


def align_layer(checkpoint: Mapping[str, Any], rows: Iterable[ComparisonRow | Row]) -> tuple[str | None, str]:
    """The layer that a checkpoint was aligned at, else the middle one, and its title: chosen without a look at the
    results.

    `checkpoint` holds what is known of it (`align_layer`, `middle_layer`), `rows` the layers that were measured. None
    without layers.
    """
    recorded = checkpoint.get("align_layer")
    layers = {row.layer for row in rows if row.layer is not None}
    if recorded is not None and str(recorded) in layers:
        return str(recorded), f"layer {recorded} (the align layer)"
    numbers = [int(layer) for layer in layers if layer.isdigit()]
    if not numbers:
        return None, ""
    # A baseline holds some layers only, so the middle one is then a recorded fact.
    middle = checkpoint.get("middle_layer", max(numbers) // 2)
    return str(middle), f"layer {middle} (the middle one; no align layer is recorded)"


def table_layer(checkpoint: Mapping[str, Any], rows: Iterable[ComparisonRow | Row]) -> str | None:
    """The layer that tables by language show: that of `align_layer` where it is among the rows, else the last one
    before the norm."""
    rows = list(rows)
    layers = {row.layer for row in rows if row.layer is not None}
    layer, _ = align_layer(checkpoint, rows)
    return (
        layer if layer in layers else max((each for each in layers if "+" not in each), key=layer_order, default=None)
    )


def marked_layer(checkpoint: Mapping[str, Any]) -> str | None:
    """The layer that a checkpoint was aligned at, as a layer name, or None."""
    layer = checkpoint.get("align_layer")
    return None if layer is None else str(layer)


def layer_order(layer: str) -> tuple[int, bool]:
    """Sort key of layer names: "0", "1", ..., "L", "L+norm"."""
    number = re.match(r"\d+", layer)
    return int(number.group()) if number else 10**6, "+" in layer
