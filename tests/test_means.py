"""One mean, one interval, one verdict: in the rows, the headlines, the diagnosis, the series and on every page."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.comparisons import small_comparison
from helpers.reports import as_report, console_text, markdown_text
from scipy import stats

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.contrasts import contrasts_of, list_contrasts
from alignx_eval.comparison.means import align_layer, mean_difference, table_layer
from alignx_eval.comparison.rows import details, is_mean, own_language, pivot_of
from alignx_eval.render import view


def suite_means(contrast):
    return {
        (row.suite, row.metric, row.layer): row
        for row in contrast.rows
        if row.language is None and row.other_language is None
    }


def test_a_headline_is_the_row_of_its_mean():
    comparison = small_comparison()
    report = as_report(comparison)
    seen = 0
    for contrast in list_contrasts(comparison):
        means = suite_means(contrast)
        for headline, change in view.changes_of(report, contrast):
            row = means.get((headline.suite, headline.metric, headline.layer))
            if row is None:
                continue
            seen += 1
            estimate = change.mean.estimate
            assert (change.mean.base, change.mean.candidate) == (row.base, row.candidate)
            assert (estimate.value, estimate.se, estimate.ci_low, estimate.ci_high) == (
                row.difference, row.se, row.ci_low, row.ci_high
            )  # fmt: skip
            assert (change.word, change.mean.p_adjusted) == (row.verdict, row.p_adjusted)
    assert seen >= 4


def test_what_the_adjusted_p_does_not_support_is_no_evidence_on_every_page():
    """An unadjusted interval beside 0 used to be called better under a row that said no evidence."""
    comparison = small_comparison()
    report = as_report(comparison)
    found = [
        (headline, change)
        for headline in report.headlines
        for change in headline.changes
        if change.mean is not None and change.mean.estimate.ci_low * change.mean.estimate.ci_high > 0
        and change.word == "no-evidence"
    ]  # fmt: skip
    assert found
    for headline, change in found:
        assert change.mean.p_adjusted >= comparison.alpha
        assert "no evidence of a difference" in headline.sentence
        numbers = view.change_numbers(headline, change)
        assert f"○ no evidence: {numbers}" in markdown_text(comparison).replace("\\", "")
        assert f"{numbers.replace('−', '-')} no evidence" in console_text(comparison)


def test_a_mean_over_some_of_the_languages_is_tested_in_the_family_of_its_suite():
    comparison = small_comparison()
    contrast = contrasts_of(comparison, "alignx")[0]
    rows = details(row for row in contrast.rows if row.metric == "bits_per_byte")
    mean = mean_difference(comparison, contrast, rows[1:], of=len(rows))
    assert (mean.rows, mean.of) == (len(rows) - 1, len(rows))
    assert mean.estimate.value == pytest.approx(np.mean([row.difference for row in rows[1:]]))
    family = [row.p for row in contrast.rows if row.suite == "language_modelling" and row.p_adjusted is not None]
    t = mean.estimate.value / mean.estimate.se
    p = 2 * stats.t.sf(abs(t), mean.estimate.degrees_of_freedom)
    adjusted = stats.false_discovery_control([*family, p])[-1]
    assert mean.p_adjusted == pytest.approx(adjusted, rel=0.1)  # ours takes the skewness into account
    assert mean.verdict == ("better" if mean.p_adjusted < comparison.alpha else "no-evidence")
    assert mean_difference(comparison, contrast, rows[: len(rows) // 2 - 1], of=len(rows)) is None


def test_the_mean_of_the_suite_is_taken_only_over_the_same_rows():
    comparison = small_comparison()
    contrast = contrasts_of(comparison, "alignx")[0]
    rows = details(row for row in contrast.rows if (row.metric, row.layer) == ("precision_at_1", "3"))
    whole = mean_difference(comparison, contrast, rows)
    assert whole.estimate.method == suite_means(contrast)["layers", "precision_at_1", "3"].method
    assert "jackknife" in mean_difference(comparison, contrast, rows[1:]).estimate.method
    one = mean_difference(comparison, contrast, rows[:1])
    assert (one.estimate.value, one.verdict) == (rows[0].difference, rows[0].verdict)


def test_means_into_and_out_of_the_pivot_are_those_of_their_directions():
    comparison = small_comparison()
    contrast = contrasts_of(comparison, "alignx")[0]
    bleu = [row for row in contrast.rows if row.metric == "bleu"]
    means = [row for row in bleu if is_mean(row) and row.se is not None]
    for mean in means:
        chosen = [
            row
            for row in details(bleu)
            if mean.language in (None, row.language) and mean.other_language in (None, row.other_language)
        ]
        found = mean_difference(comparison, contrast, chosen)
        assert (found.estimate.value, found.verdict) == (mean.difference, mean.verdict)


def test_the_pivot_is_that_of_the_fingerprints():
    results = {name: dict(small_comparison().results[name]) for name in ("base", "alignx")}
    assert pivot_of(results) == "eng_Latn"
    for suites in results.values():
        layers = suites["layers"]
        suites["layers"] = dataclasses.replace(layers, fingerprint={**layers.fingerprint, "pivot": "deu_Latn"})
    assert pivot_of(results) == "deu_Latn"
    comparison = compare(results, base="base", candidates=["alignx"])
    assert comparison.pivot == "deu_Latn"
    rows = [row for row in comparison.rows if row.language == "deu_Latn" and row.other_language == "eng_Latn"]
    assert not rows or {own_language(row, comparison.pivot) for row in rows} == {"eng_Latn"}


def test_the_layer_is_the_recorded_one_else_the_middle_one():
    rows = next(iter(small_comparison().results.values()))["layers"].rows
    assert align_layer({"align_layer": 2}, rows) == ("2", "layer 2 (the align layer)")
    assert align_layer({"align_layer": 99}, rows)[0] == align_layer({}, rows)[0] == table_layer({}, rows)
    assert align_layer({"middle_layer": "1"}, rows)[0] == "1"
    assert align_layer({}, []) == (None, "") and table_layer({}, []) is None
