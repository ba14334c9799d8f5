"""What a comparison says, in sentences: one that tells what was compared, and short findings computed from its rows and items.

A finding over several languages or directions is the plain mean of their rows, and its interval is that of the same mean: one cluster
(document) is left out of all of them at once, because translations of a line are not independent (delete-a-cluster jackknife). An
interval that holds 0 is worded as no evidence, never as equality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignx_eval.paired_items import PairedItems, clusters_of
from alignx_eval.statistics.clustered import Estimate
from alignx_eval.statistics.jackknife import jackknife

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison, ComparisonRow
    from alignx_eval.results import Row

CONTRAST_MEANING = {"candidate-base": "what training changed", "candidate-control": "the effect of alignment"}
RETRIEVAL = ("precision_at_1",)  # raw cosine, both directions


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """Mean over rows of candidate - reference, with the means of both sides."""

    base: float
    candidate: float
    estimate: Estimate
    rows: int


def describe(comparison: Comparison) -> str:
    """One sentence or two: what was compared with what, on which text, and how."""
    if not comparison.candidates:
        return ""
    was = "was" if len(comparison.candidates) == 1 else "were each"
    names = comparison.candidates
    subject = join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])
    text = f"{subject} {was} compared with {comparison.base} (the base: what training changed)"
    if comparison.control is not None:
        text += f" and with {comparison.control} (the control, trained without alignment: the effect of alignment)"
    corpus = comparison.corpus
    if corpus.get("name"):
        text += f", on {corpus['lines']} parallel lines of" if corpus.get("lines") else ", on"
        text += f" {corpus['name']}" + (f" ({corpus['split']} split)" if corpus.get("split") else "")
        if corpus.get("languages"):
            text += f" in {len(corpus['languages'])} languages"
    text += ". Differences are candidate minus reference, paired by item; intervals are 95 %"
    text += f"; a verdict needs a p below {comparison.alpha:g} after Benjamini-Hochberg adjustment within its suite."
    if comparison.control is None:
        text += " Without a control, none of this is called an effect of alignment."
    return text


def find(comparison: Comparison) -> list[str]:
    """Findings on each candidate, against the base and the control side by side, then what was lost, then the price."""
    found: list[str] = []
    for candidate in comparison.candidates:
        contrasts = []
        for contrast, reference in (("candidate-base", comparison.base), ("candidate-control", comparison.control)):
            rows = [row for row in comparison.rows if (row.candidate_name, row.base_name, row.contrast) == (candidate, reference, contrast)]
            if rows:
                contrasts.append((reference, CONTRAST_MEANING[contrast], rows))
        found += _find_means(comparison, candidate, contrasts)
        found += [f"{candidate} against {reference} ({meaning}): {_losses(comparison, rows)}" for reference, meaning, rows in contrasts]
    return found + _price(comparison)


def mean_difference(comparison: Comparison, rows: Sequence[ComparisonRow]) -> MeanDifference | None:
    """Mean difference over `rows` of one contrast. None without any.

    Rows without items on both sides, and with other clusters than the first one, are left out; `rows` of the result counts the others.
    """
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
    if not points:
        return None
    base, candidate = np.mean(points, axis=0)
    differences = [point[1] - point[0] for point in points]
    estimate = jackknife(float(np.mean(differences)), np.mean(left, axis=0), n=min(row.n for row in rows))
    return MeanDifference(float(base), float(candidate), estimate, len(points))


# Reference label, what the contrast means, its rows.
Contrasts = Sequence[tuple[str | None, str, list["ComparisonRow"]]]


def _find_means(comparison: Comparison, candidate: str, contrasts: Contrasts) -> list[str]:
    """One finding for each headline number."""
    if not contrasts:
        return []
    layer, layer_title = align_layer(comparison, contrasts[0][2], candidate)
    headlines = [
        ("Retrieval of translations (precision@1) at " + layer_title, "directions", "layers", RETRIEVAL, layer, True, 3),
        ("BLEU", "directions", "translation", ("bleu",), None, True, 2),
        ("Off-target rate", "directions", "translation", ("off_target_rate",), None, False, 3),
        ("Bits per byte", "languages", "language_modelling", ("bits_per_byte",), None, False, 3),
    ]
    found: list[str] = []
    for title, unit, suite, metrics, wanted_layer, higher_is_better, decimals in headlines:
        chosen = [
            details([row for row in rows if row.suite == suite and row.metric in metrics and row.layer == wanted_layer])
            for _, _, rows in contrasts
        ]
        # The same languages against base and control, else the candidate would have two values.
        common = set.intersection(*({row.key for row in rows if row.se is not None} for rows in chosen))
        means = [
            (reference, meaning, mean_difference(comparison, [row for row in rows if row.key in common]))
            for (reference, meaning, _), rows in zip(contrasts, chosen, strict=True)
        ]
        text = _headline(candidate, means, unit, higher_is_better, decimals)
        if text:
            found.append(f"{title}, {text}")
    return found + _last_layer(comparison, candidate, contrasts)


def _headline(
    candidate: str, means: Sequence[tuple[str | None, str, MeanDifference | None]], unit: str, higher_is_better: bool | None, decimals: int
) -> str:
    """ "mean of 18 directions: x 0.412; against base 0.250 (what training changed) better: +0.162 [...], n = 500, 480 clusters"."""
    parts = []
    count, value = 0, 0.0
    for reference, meaning, mean in means:
        if mean is not None:
            count, value = mean.rows, mean.candidate
            parts.append(f"against {reference} {mean.base:.{decimals}f} ({meaning}) {_outcome(mean.estimate, higher_is_better, decimals)}")
    return f"mean of {count} {unit}: {candidate} {value:.{decimals}f}; {'; '.join(parts)}." if parts else ""


def _outcome(estimate: Estimate, higher_is_better: bool | None, decimals: int) -> str:
    """ "better: +0.162 [+0.141, +0.183], n = 500, 480 clusters", or no evidence of a difference where the interval holds 0."""
    size = f"n = {estimate.n}, {estimate.clusters} clusters"
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{signed(estimate.value, decimals)} without interval, {size}"
    sign = _sign(estimate)
    if sign == 0:
        word = "no evidence of a difference"
    elif higher_is_better is None:
        word = "higher" if sign > 0 else "lower"
    else:
        word = "better" if (sign > 0) == higher_is_better else "worse"
    interval = f"[{signed(estimate.ci_low, decimals)}, {signed(estimate.ci_high, decimals)}]"
    return f"{word}: {signed(estimate.value, decimals)} {interval}, {size}"


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


def _last_layer(comparison: Comparison, candidate: str, contrasts: Contrasts) -> list[str]:
    """Retrieval in the last state, before and after the final norm: a change is claimed only where both show it."""
    parts = []
    for reference, meaning, rows in contrasts:
        retrieval = details([row for row in rows if row.suite == "layers" and row.metric in RETRIEVAL and row.layer is not None])
        numbered = [int(row.layer) for row in retrieval if row.layer is not None and row.layer.isdigit()]
        before = mean_difference(comparison, [row for row in retrieval if row.layer in ("L", str(max(numbered, default=None)))])
        after = mean_difference(comparison, [row for row in retrieval if str(row.layer).endswith("+norm")])
        if before is None or after is None:
            continue
        signs = {_sign(before.estimate), _sign(after.estimate)}
        claim = "the two do not agree on a change, so none is claimed"
        if len(signs) == 1:
            claim = {-1: "translations are further apart", 1: "translations are closer", 0: "no evidence of a difference"}[signs.pop()]
        outcomes = [_outcome(mean.estimate, None, 3) for mean in (before, after)]
        parts.append(f"against {reference} ({meaning}) {claim} (before the final norm {outcomes[0]}; after it {outcomes[1]})")
    return [f"Retrieval of translations in the last layer, {candidate}: {'; '.join(parts)}."] if parts else []


def _sign(estimate: Estimate) -> int:
    """1 or -1 where the interval lies on one side of 0, else 0."""
    if estimate.ci_low is None or estimate.ci_high is None or estimate.ci_low <= 0 <= estimate.ci_high:
        return 0
    return 1 if estimate.value > 0 else -1


def details(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """The rows of single languages or directions, without the means that a suite reports beside them."""
    pairs = [row for row in rows if row.language is not None and row.other_language is not None]
    return pairs or [row for row in rows if row.language is not None]


def _losses(comparison: Comparison, rows: list[ComparisonRow]) -> str:
    """Which languages got worse in what a user of the model meets: translation, language modelling, tasks."""
    suites = ("translation", "language_modelling", "tasks")
    judged = [row for suite in suites for row in details([row for row in rows if row.suite == suite]) if row.p_adjusted is not None]
    if not judged:
        return "no result of a single language in translation, language modelling or tasks has enough data for a verdict."
    smallest, largest = min(row.n for row in judged), max(row.n for row in judged)
    size = f"of {len(judged)} results by language (n = {smallest}{f' to {largest}' if largest > smallest else ''})"
    worse = sorted((row for row in judged if row.verdict == "worse"), key=lambda row: -abs(row.difference or 0) / (row.se or 1))
    if not worse:
        unseen = "a loss below the minimum detectable effect of its row cannot be seen"
        return f"{size}, none is worse at adjusted p < {comparison.alpha:g}; {unseen}."
    pivot = comparison.corpus.get("pivot") or "eng_Latn"
    by_language: dict[str, list[str]] = {}
    for row in worse:
        code = row.other_language if row.language == pivot and row.other_language else row.language
        decimals = 2 if row.metric.startswith(("bleu", "chrf")) else 3
        direction = f" {row.language} to {row.other_language}" if row.other_language else ""
        interval = f"[{signed(row.ci_low, decimals)}, {signed(row.ci_high, decimals)}]"
        by_language.setdefault(str(code), []).append(f"{row.metric}{direction} {signed(row.difference, decimals)} {interval}")
    shown = [f"{code} ({', '.join(details[:3])}{', ...' if len(details) > 3 else ''})" for code, details in by_language.items()]
    more = f"; and {len(shown) - 5} more languages" if len(shown) > 5 else ""
    count = f"{len(worse)} {'is' if len(worse) == 1 else 'are'} worse"
    return f"{size}, {count} at adjusted p < {comparison.alpha:g}: {'; '.join(shown[:5])}{more}."


def _price(comparison: Comparison) -> list[str]:
    """What each candidate's own training took, against the control's, from the provenance."""
    control = own_cost(own_stages(comparison, comparison.control)) if comparison.control is not None else {}
    found = []
    for candidate in comparison.candidates:
        own = own_cost(own_stages(comparison, candidate))
        if not own:
            continue
        text = f"Price of {candidate}: {amounts(own)}"
        if control:
            ratios = [
                f"{own[name] / control[name]:.2f} times its {title}"
                for name, title in AMOUNTS.items()
                if own.get(name) and control.get(name)
            ]
            text += f"; the control {comparison.control} took {amounts(control)}" + (
                f", so {candidate} took {join(ratios)}" if ratios else ""
            )
        found.append(text + ".")
    return found


AMOUNTS = {"seconds": "time", "tokens": "tokens", "flops": "FLOPs", "peak_memory_bytes": "peak memory"}


def stages(comparison: Comparison, label: str) -> list[dict[str, Any]]:
    """All training stages in a checkpoint's provenance, the base's included; empty where it has none."""
    recorded = (comparison.checkpoints.get(label, {}).get("provenance") or {}).get("stages") or []
    return [stage for stage in recorded if isinstance(stage, dict)]


def own_cost(stages_after_base: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Sums over training stages (memory: the largest), by the names of `AMOUNTS`; only what every stage recorded."""
    cost = {}
    for name in AMOUNTS:
        values = [float(stage[name]) for stage in stages_after_base if isinstance(stage.get(name), int | float)]
        if values and len(values) == len(stages_after_base) and all(0 <= value < math.inf for value in values):
            cost[name] = max(values) if name == "peak_memory_bytes" else sum(values)
    return cost


def own_stages(comparison: Comparison, label: str) -> list[dict[str, Any]]:
    """The training stages that came after the base's."""
    base = stages(comparison, comparison.base)
    return [stage for stage in stages(comparison, label) if stage not in base]


def amounts(cost: dict[str, float]) -> str:
    """ "7.5 min, 2.00 million tokens and ..." for what `cost` has."""
    return join([amount(name, cost[name]) for name in AMOUNTS if name in cost])


def amount(name: str, value: float) -> str:
    """One amount in its unit: "7.5 min"."""
    if name == "seconds":
        return f"{value / 60:.1f} min" if value >= 60 else f"{value:.1f} s"
    if name == "tokens":
        return f"{value / 1e6:.2f} million tokens" if value >= 1e5 else f"{value:.0f} tokens"
    return f"{value:.2e} FLOPs" if name == "flops" else f"{value / 2**30:.2f} GiB peak memory"


def signed(value: float | None, decimals: int) -> str:
    """The number with its sign; none on a rounded 0, "?" for None."""
    if value is None:
        return "?"
    text = f"{value:+.{decimals}f}"
    return text if float(text) else text[1:]


def join(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
