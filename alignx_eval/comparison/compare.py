"""Results of two or more checkpoints -> paired differences, each with an interval, a p value and a verdict. Pure: no
model, no file.

Every difference is `candidate - reference`, paired by item and clustered by document. The reference is the base
(contrast `candidate-base`: what training changed) or the control, which had the same tokens without alignment (contrast
`candidate-control`: the effect of alignment).

How a row is judged. The difference and its 95 % interval come from the per-item statistics (`Items`): cluster-robust
standard errors for means and ratios, the delete-a-cluster jackknife for BLEU, chrF and CKA. The p value is that of a
sign-flip (or swap) randomization test over clusters; for jackknife items, which cannot be flipped, that of a t test. p
values are adjusted by Benjamini-Hochberg over a family: all rows of one suite in one contrast of one candidate that
have a direction (`higher_is_better` is not None) and enough data. So a verdict does not depend on which other
candidates or suites were part of the call.

    better, worse       adjusted p < alpha, in the direction of the difference
    no-evidence         adjusted p >= alpha; this never says that the two are equal: see the interval and the minimum
                        detectable effect
    insufficient-data   fewer than MINIMUM_CLUSTERS clusters, no per-item statistics, missing or undefined on one side,
                        or not to be judged on one side (`Row.unjudged`); see `reason`
    no-direction        a descriptive row: neither direction is better; outside of the family, no adjusted p
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignx_eval.comparison.comparable import check_comparable
from alignx_eval.comparison.paired_items import PairedItems, clusters_of, point_of
from alignx_eval.comparison.rows import (
    MINIMUM_CLUSTERS,
    Comparison,
    ComparisonRow,
    ContrastKind,
    RowVerdict,
    pivot_of,
)
from alignx_eval.errors import NotComparableError
from alignx_eval.results import Items, LayerSimilarity, Row, SuiteResult
from alignx_eval.statistics.clustered import Estimate
from alignx_eval.statistics.multiplicity import benjamini_hochberg
from alignx_eval.statistics.power import minimum_detectable_effect
from alignx_eval.statistics.signflip import draws_for_family, sign_flip_test


def compare(
    results: Mapping[str, Mapping[str, SuiteResult]],
    *,
    base: str,
    candidates: Sequence[str],
    control: str | None = None,
    checkpoints: Mapping[str, Mapping[str, Any]] | None = None,
    corpus: Mapping[str, Any] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    allow_mismatch: Collection[str] = (),
    series: bool = False,
    layer_similarity: Sequence[LayerSimilarity] = (),
) -> Comparison:
    """Compare each candidate with the base, and with the control if there is one.

    results: label -> suite -> SuiteResult. checkpoints: label -> what is known about it (`name, reference,
    content_hash, stage, step, align_layer, provenance, format, parameters`). corpus: `name, split, languages, lines,
    ...`. allow_mismatch: fields of a fingerprint that may differ; what did is in `mismatches`. series: the candidates
    are steps of one training, in order. layer_similarity: what is known of it, for the reader only. The same input and
    seed give the same numbers. Raises NotComparableError, with a table of what differs, where fingerprints, items or
    clusters disagree.
    """
    labels = list(dict.fromkeys([base, *candidates, *([control] if control is not None else [])]))
    missing = [label for label in labels if label not in results]
    if missing:
        raise ValueError(f"no results for {missing}; there are {list(results)}")
    warnings, mismatches = check_comparable(results, labels, allow_mismatch)
    comparison = Comparison(
        base=base,
        candidates=list(candidates),
        control=control,
        rows=[],
        results={label: dict(results[label]) for label in labels},
        checkpoints={label: dict((checkpoints or {}).get(label, {"name": label})) for label in labels},
        corpus=dict(corpus or {}),
        warnings=warnings,
        mismatches=mismatches,
        alpha=alpha,
        seed=seed,
        series=series,
        layer_similarity=[each for each in layer_similarity if {each.reference, each.candidate} <= set(labels)],
        pivot=pivot_of({label: results[label] for label in labels}),
    )
    suites = list(dict.fromkeys(suite for label in labels for suite in results[label]))
    for candidate in candidates:
        contrasts: list[tuple[str, ContrastKind]] = [(base, "candidate-base")]
        if control is not None and control != candidate:
            contrasts.append((control, "candidate-control"))
        for reference, contrast in contrasts:
            for suite in suites:
                sides = [_Side(name, results[name].get(suite)) for name in (reference, candidate)]
                if any(side.result is not None for side in sides):
                    comparison.rows += _compare_suite(sides[0], sides[1], contrast, alpha, seed)
    comparison.warnings[:0] = [
        f"{label}: {warning}"
        for label in labels
        for result in comparison.results[label].values()
        for warning in result.warnings
    ]
    comparison.warnings += _missing_warnings(comparison.rows)
    return comparison


def _missing_warnings(rows: list[ComparisonRow]) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.reason and row.reason.startswith("not measured for "):
            counts[row.suite, row.reason] = counts.get((row.suite, row.reason), 0) + 1
    return [f"{suite}: {count} rows were {reason}" for (suite, reason), count in counts.items()]


@dataclass(frozen=True, slots=True)
class _Side:
    """One checkpoint's part in a suite."""

    name: str
    result: SuiteResult | None

    def rows(self) -> dict[str, Row]:
        table: dict[str, Row] = {}
        for row in self.result.rows if self.result is not None else []:
            if row.key in table:
                raise ValueError(f"two rows of {self.name} have the key {row.key}")
            table[row.key] = row
        return table

    def items(self, key: str) -> Items | None:
        return self.result.items.get(key) if self.result is not None else None


@dataclass(slots=True)
class _Tested:
    """A row on its way to a verdict, with its items where they can be tested."""

    row: ComparisonRow
    paired: PairedItems | None = None


def _compare_suite(
    base: _Side, candidate: _Side, contrast: ContrastKind, alpha: float, seed: int
) -> list[ComparisonRow]:
    """All rows of one suite in one contrast: one family."""
    base_rows, candidate_rows = base.rows(), candidate.rows()
    keys = dict.fromkeys([*base_rows, *candidate_rows])
    tested = [_pair(base, candidate, base_rows.get(key), candidate_rows.get(key), contrast) for key in keys]
    family = [each for each in tested if each.row.se is not None and each.row.verdict == "no-evidence"]
    _fill_p(tested, draws_for_family(len(family), alpha=alpha), seed)
    adjusted = benjamini_hochberg(np.array([each.row.p for each in family], dtype=np.float64))
    for each, p_adjusted in zip(family, adjusted, strict=True):
        verdict: RowVerdict = "no-evidence"
        if p_adjusted < alpha and each.row.difference:
            verdict = "better" if (each.row.difference > 0) == each.row.higher_is_better else "worse"
        each.row = replace(each.row, p_adjusted=float(p_adjusted), verdict=verdict)
    return [each.row for each in tested]


def _pair(
    base: _Side, candidate: _Side, base_row: Row | None, candidate_row: Row | None, contrast: ContrastKind
) -> _Tested:
    """The row without p and adjusted p. Its verdict is `no-evidence` for now where a test will follow."""
    known = base_row or candidate_row
    assert known is not None
    row = ComparisonRow(
        suite=known.suite,
        metric=known.metric,
        layer=known.layer,
        language=known.language,
        other_language=known.other_language,
        contrast=contrast,
        base_name=base.name,
        candidate_name=candidate.name,
        base=base_row.value if base_row is not None else None,
        candidate=candidate_row.value if candidate_row is not None else None,
        n=min(each.n for each in (base_row, candidate_row) if each is not None),
        higher_is_better=known.higher_is_better,
        verdict="insufficient-data",
        null=candidate_row.null if candidate_row is not None else None,
    )
    if base_row is None or candidate_row is None:
        return _Tested(replace(row, reason=f"not measured for {base.name if base_row is None else candidate.name}"))
    for side, measured in ((base, base_row), (candidate, candidate_row)):
        if measured.value is None:
            return _Tested(replace(row, reason=f"undefined for {side.name}: {measured.reason or 'no reason given'}"))
    assert row.base is not None and row.candidate is not None
    if base_row.n != candidate_row.n:
        return _Tested(
            replace(row, reason=f"{base_row.n} items for {base.name} and {candidate_row.n} for {candidate.name}")
        )
    row = replace(row, difference=row.candidate - row.base)
    for side, measured in ((base, base_row), (candidate, candidate_row)):
        if measured.unjudged:
            return _Tested(replace(row, reason=f"no verdict, {side.name}: {measured.unjudged}"))
    if row.higher_is_better is None:
        row = replace(row, verdict="no-direction")
    base_items, candidate_items = base.items(row.key), candidate.items(row.key)
    if base_items is None or candidate_items is None or base.result is None or candidate.result is None:
        return _Tested(replace(row, reason="no statistics per item, so no interval and no test"))
    if base_items.kind != candidate_items.kind or base_items.values.shape != candidate_items.values.shape:
        return _Tested(replace(row, reason="the statistics per item differ in kind or number"))
    clusters = clusters_of(row.key, base.result, base_items)
    if clusters != clusters_of(row.key, candidate.result, candidate_items):
        both = f"{base.name} and {candidate.name}"
        raise NotComparableError(
            f"{row.key}: the items of {both} are clustered differently; measure both on the same data"
        )
    for name, value, items in (
        (base.name, base_row.value, base_items),
        (candidate.name, candidate_row.value, candidate_items),
    ):
        _check_value(row.key, name, value, items)
    paired = PairedItems(base_items, candidate_items, clusters)
    return _Tested(_with_estimate(row, paired.difference()), paired)


def _with_estimate(row: ComparisonRow, estimate: Estimate) -> ComparisonRow:
    row = replace(row, clusters=estimate.clusters, method=f"paired {estimate.method}")
    if estimate.ci_low is None:
        return replace(row, reason="a single cluster has no spread")
    if estimate.se is None:  # the place of a peak: an interval, and no test
        return replace(row, ci_low=estimate.ci_low, ci_high=estimate.ci_high)
    assert estimate.degrees_of_freedom is not None
    row = replace(
        row,
        se=estimate.se,
        ci_low=estimate.ci_low,
        ci_high=estimate.ci_high,
        degrees_of_freedom=estimate.degrees_of_freedom,
        skewness=estimate.skewness,
    )
    if estimate.se > 0:
        row = replace(
            row, minimum_detectable_effect=minimum_detectable_effect(estimate.se, estimate.degrees_of_freedom)
        )
    elif row.difference == 0:
        row = replace(row, reason="no item differs, so no spread to tell the minimum detectable effect from")
    if row.higher_is_better is None:
        return replace(row, verdict="no-direction")
    if estimate.clusters < MINIMUM_CLUSTERS:
        return replace(row, reason=f"{estimate.clusters} clusters, a verdict needs {MINIMUM_CLUSTERS}")
    return replace(row, verdict="no-evidence")


def _check_value(key: str, name: str, value: float | None, items: Items) -> None:
    """The number shown and the items behind it must be one estimator, else the interval is that of something else."""
    computed = point_of(items)
    if value is None or not np.isfinite(computed) or abs(computed - value) > 1e-5 * max(1.0, abs(value)):
        raise ValueError(f"{key} of {name}: the value {value} is not that of its items, {computed}")


def _fill_p(tested: list[_Tested], draws: int, seed: int) -> None:
    """p of all rows that have an interval. Each test starts from the same seed, so no row's p depends on the rows
    before it."""
    together: dict[tuple[str, ...] | int, list[tuple[_Tested, np.ndarray]]] = {}
    for each in tested:
        if each.paired is None or each.row.se is None:
            continue
        differences = each.paired.cluster_differences()
        if differences is not None:
            # Rows with the same clusters share their sign flips: one matrix product for all of them.
            together.setdefault(each.paired.clusters or len(differences), []).append((each, differences))
            continue
        p, test = each.paired.p(each.row.se, generator=np.random.default_rng(seed), draws=draws)
        each.row = replace(each.row, p=p, method=f"{each.row.method}; {test}")
    for group in together.values():
        matrix = np.stack([differences for _, differences in group], axis=1)
        p_values = np.atleast_1d(sign_flip_test(matrix, generator=np.random.default_rng(seed), draws=draws))
        for (each, _), p in zip(group, p_values, strict=True):
            each.row = replace(
                each.row, p=float(p), method=f"{each.row.method}; sign flips of clusters, at most {draws} draws"
            )
