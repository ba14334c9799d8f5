"""Comparing results: pairing, verdicts, families, contrasts, what does not compare and what is missing."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from helpers.measured import LANGUAGES, LINES, measured, result
from scipy import stats

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.contrasts import list_contrasts
from alignx_eval.comparison.means import mean_difference
from alignx_eval.comparison.rows import MINIMUM_CLUSTERS, ComparisonRow
from alignx_eval.errors import NotComparableError
from alignx_eval.judgement.report import report_of
from alignx_eval.results import Items, Row, SuiteResult


def pick(rows: list[ComparisonRow], **wanted) -> ComparisonRow:
    found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def numbers(row: ComparisonRow) -> list[float]:
    return [value for value in dataclasses.asdict(row).values() if isinstance(value, float)]


def test_S9_compare_A_A():
    same = measured("A", 0)
    for labels in (("A", "A"), ("A", "copy")):
        comparison = compare(
            {"A": same, "copy": measured("copy", 0)}, base=labels[0], candidates=[labels[1]], control="A"
        )
        assert comparison.rows
        for row in comparison.rows:
            assert (row.difference, row.p) == (0.0, 1.0), row
            # of outcomes (0 or 1) the interval says how much may have gone unseen; of all else there is no spread to
            # make one of
            assert row.ci_low == -row.ci_high <= 0, row
            assert row.se == 0 or "pseudo-items" in row.method, row
            assert row.verdict == ("no-direction" if row.higher_is_better is None else "no-evidence")
            assert row.p_adjusted == (None if row.higher_is_better is None else 1.0)
            assert row.n > 0 and row.clusters > 0 and row.method
            assert all(math.isfinite(value) for value in numbers(row))
        assert all(
            "no evidence of a difference" in finding or "none is worse" in finding or "none is claimed" in finding
            for finding in report_of(comparison, None).findings
        )


def test_a_model_and_its_own_export_differ_by_exactly_nothing_unless_outcomes_are_counted():
    random = np.random.default_rng(5)
    entries = [
        ("bits_per_byte", None, None, None, False, Items("mean", random.gamma(4.0, 0.5, LINES))),
        ("cosine", "1", "deu_Latn", "eng_Latn", None, Items("mean", random.random(LINES))),
        ("acc", None, "deu_Latn", None, True, Items("mean", (random.random(LINES) < 0.5).astype(float))),
        (
            "off_target_rate",
            None,
            "eng_Latn",
            "deu_Latn",
            False,
            Items("ratio", np.column_stack([np.zeros(LINES), np.ones(LINES)])),
        ),
    ]
    sides = {name: {"language_modelling": result("language_modelling", name, entries)} for name in ("model", "export")}
    comparison = compare(sides, base="model", candidates=["export"])
    for metric in ("bits_per_byte", "cosine"):
        row = pick(comparison.rows, metric=metric)
        assert (row.difference, row.se, row.ci_low, row.ci_high, row.p) == (0, 0, 0, 0, 1), row
    for metric in ("acc", "off_target_rate"):  # nothing seen is not nothing there
        row = pick(comparison.rows, metric=metric)
        assert row.difference == 0 and row.ci_low == -row.ci_high < 0 and "pseudo-items" in row.method, row


def test_findings_and_verdicts_of_a_real_difference():
    results = {
        "base": measured("base", 1),
        "tuned": measured("tuned", 2),
        "alignx": measured("alignx", 3, lift=0.25, worse_language="zho_Hans"),
    }
    stages = {"base": [("pretrain", 9e6, 3000.0)], "tuned": [("pretrain", 9e6, 3000.0), ("single", 2e6, 300.0)]}
    stages["alignx"] = [("pretrain", 9e6, 3000.0), ("stage 1", 1e6, 200.0), ("stage 2", 1e6, 250.0)]
    checkpoints = {
        label: {
            "align_layer": 2 if label == "alignx" else None,
            "provenance": {
                "stages": [{"stage": stage, "tokens": tokens, "seconds": seconds} for stage, tokens, seconds in listed]
            },
        }
        for label, listed in stages.items()
    }
    comparison = compare(
        results,
        base="base",
        candidates=["alignx"],
        control="tuned",
        checkpoints=checkpoints,
        corpus={"name": "interface", "split": "test", "lines": LINES, "languages": ["eng_Latn", *LANGUAGES]},
    )
    for contrast, reference in (("candidate-base", "base"), ("candidate-control", "tuned")):
        rows = [row for row in comparison.rows if row.contrast == contrast]
        assert {row.base_name for row in rows} == {reference}
        assert pick(rows, metric="precision_at_1", layer="2", other_language="deu_Latn").verdict == "better"
        assert pick(rows, metric="precision_at_1", layer="4", other_language="deu_Latn").verdict == "worse"
        assert pick(rows, metric="precision_at_1", layer="1", other_language="deu_Latn").verdict == "no-evidence"
        assert pick(rows, metric="bits_per_byte", language="deu_Latn").verdict == "better"  # lower is better
        assert pick(rows, metric="bits_per_byte", language="deu_Latn").difference < 0
        assert pick(rows, metric="bits_per_byte", language="zho_Hans").verdict == "worse"
        assert pick(rows, metric="bleu", other_language="zho_Hans").verdict == "worse"
        assert pick(rows, metric="cka_debiased", layer="2", other_language="deu_Latn").verdict == "no-direction"
        for row in rows:
            assert row.difference == pytest.approx(row.candidate - row.base)
            assert row.ci_low <= row.difference <= row.ci_high
    text = "\n".join(report_of(comparison, None).findings)
    assert (
        "Retrieval of translations (precision@1) at layer 2 (the align layer), mean of 3 directions: alignx 0." in text
    )
    assert "BLEU, mean of 3 directions: alignx" in text
    for contrast in (
        "against base",
        "(what training changed) better: +",
        "against tuned",
        "(the effect of alignment) better: +",
    ):
        assert (
            contrast in report_of(comparison, None).findings[0] and contrast in report_of(comparison, None).findings[1]
        )
    assert "(the effect of alignment) translations are further apart (before the final norm lower: -" in text
    assert "zho_Hans" in text and "are worse at adjusted p" in text
    assert (
        "Price of alignx: 7.5 min and 2.00 million tokens; the control tuned took 5.0 min" in text
        and "1.50 times its time" in text
    )
    assert report_of(comparison, None).sentence.startswith(
        "alignx was compared with base (the base: what training changed) and with tuned (the control,"
    )
    assert "on 120 parallel lines of interface (test split) in 4 languages" in report_of(comparison, None).sentence
    assert all("n = 120" in finding or finding.startswith("Price") for finding in report_of(comparison, None).findings)


def test_S5_nothing_is_ever_called_equal():
    comparison = compare({"a": measured("a", 1), "b": measured("b", 2)}, base="a", candidates=["b"])
    text = " ".join(
        [
            report_of(comparison, None).sentence,
            *report_of(comparison, None).findings,
            *(row.verdict for row in comparison.rows),
        ]
    )
    assert "no evidence of a difference" in text
    assert "equal" not in text.lower() and "same" not in text.lower() and "identical" not in text.lower()
    assert "Without a control, none of this is called an effect of alignment." in report_of(comparison, None).sentence
    assert "the effect of alignment" not in text


def test_each_kind_of_items_is_measured_by_its_own_method():
    comparison = compare({"a": measured("a", 1), "b": measured("b", 2)}, base="a", candidates=["b"])
    methods = {row.metric: row.method for row in comparison.rows}
    assert "cluster-robust" in methods["precision_at_1"] and "sign flips" in methods["precision_at_1"]
    assert "linearised" in methods["bits_per_byte"] and "sign flips" in methods["bits_per_byte"]
    assert (
        "linearised" in methods["off_target_rate"] and "swaps" in methods["off_target_rate"]
    )  # the judged lines differ
    assert "jackknife" in methods["bleu"] and "swaps" in methods["bleu"]
    assert "jackknife" in methods["cka_debiased"] and "t test" in methods["cka_debiased"]
    assert {row.clusters for row in comparison.rows} == {60}
    row = pick(comparison.rows, metric="acc", language="deu_Latn")
    assert row.minimum_detectable_effect == pytest.approx((stats.t.ppf(0.975, 59) + stats.t.ppf(0.8, 59)) * row.se)


def test_S6_clusters_of_lines_widen_the_interval():
    def side(seed: int, per_document: int) -> dict[str, SuiteResult]:
        luck = np.repeat(np.random.default_rng(seed).standard_normal(30), 4)
        return {
            "tasks": result(
                "tasks",
                "x",
                [("acc", None, "deu_Latn", None, True, Items("mean", luck))],
                lines_per_document=per_document,
            )
        }

    apart = compare({"a": side(1, 1), "b": side(2, 1)}, base="a", candidates=["b"]).rows[0]
    together = compare({"a": side(1, 4), "b": side(2, 4)}, base="a", candidates=["b"]).rows[0]
    assert together.se == pytest.approx(2 * apart.se, rel=0.05)
    assert (apart.clusters, together.clusters) == (120, 30)
    assert together.p > apart.p


def test_S7_pure_noise_rarely_yields_a_verdict():
    random = np.random.default_rng(5)

    def side(hits: np.ndarray) -> dict[str, SuiteResult]:
        entries = [("acc", str(layer), "deu_Latn", None, True, Items("mean", hits[layer])) for layer in range(40)]
        return {"tasks": result("tasks", "x", entries)}

    alarms = tempting = 0
    for seed in range(60):
        sides = [side((random.random((40, LINES)) < 0.5).astype(float)) for _ in range(2)]
        rows = compare({"a": sides[0], "b": sides[1]}, base="a", candidates=["b"], seed=seed).rows
        alarms += any(row.verdict in ("better", "worse") for row in rows)
        tempting += any(row.p < 0.05 for row in rows)
    assert stats.binomtest(alarms, 60, 0.05, alternative="greater").pvalue > 0.001
    assert tempting > 30  # without adjustment, most runs of pure noise would have something to report


def test_S8_mean_and_interval_are_of_one_estimator():
    bad = measured("b", 2)
    bad["tasks"].rows[0] = dataclasses.replace(bad["tasks"].rows[0], value=0.123)
    with pytest.raises(ValueError, match="is not that of its items"):
        compare({"a": measured("a", 1), "b": bad}, base="a", candidates=["b"])
    # the mean over languages in a finding has the same weights in value and interval: it is the mean of the rows
    comparison = compare({"a": measured("a", 1), "b": measured("b", 2)}, base="a", candidates=["b"])
    for metric in ("bleu", "bits_per_byte", "off_target_rate", "acc"):
        rows = [row for row in comparison.rows if row.metric == metric]
        mean = mean_difference(comparison, list_contrasts(comparison)[0], rows)
        assert mean.estimate.value == pytest.approx(np.mean([row.difference for row in rows]), abs=1e-12)
        assert (mean.rows, mean.estimate.n, mean.estimate.clusters) == (3, LINES, 60)
    # and its interval counts the lines once, not once a language: with the same hits in all languages it is that of one
    # language
    hits = [np.random.default_rng(seed).random(LINES) for seed in (1, 2)]
    sides = [
        {
            "tasks": result(
                "tasks", "x", [("acc", None, language, None, True, Items("mean", side)) for language in LANGUAGES]
            )
        }
        for side in hits
    ]
    comparison = compare({"a": sides[0], "b": sides[1]}, base="a", candidates=["b"])
    assert mean_difference(comparison, list_contrasts(comparison)[0], comparison.rows).estimate.se == pytest.approx(
        comparison.rows[0].se, rel=1e-9
    )


def test_S10_what_is_missing_is_listed():
    a, b = measured("a", 1), measured("b", 2)
    lost = b["tasks"].rows.pop(0)
    extra = Row(suite="tasks", metric="extra", checkpoint="b", value=1.0, n=LINES)
    b["tasks"].rows.append(extra)
    b["language_modelling"].rows[1] = dataclasses.replace(b["language_modelling"].rows[1], value=None, reason="no text")
    del b["translation"]
    comparison = compare({"a": a, "b": b}, base="a", candidates=["b"])
    row = next(row for row in comparison.rows if row.key == lost.key)
    assert (row.verdict, row.reason, row.base, row.candidate, row.difference) == (
        "insufficient-data",
        "not measured for b",
        lost_value(a, lost),
        None,
        None,
    )
    row = next(row for row in comparison.rows if row.key == extra.key)
    assert (row.verdict, row.reason) == ("insufficient-data", "not measured for a")
    row = pick(comparison.rows, metric="bits_per_byte", language="rus_Cyrl")
    assert (row.verdict, row.reason, row.difference) == ("insufficient-data", "undefined for b: no text", None)
    assert sum(row.suite == "translation" for row in comparison.rows) == 9
    assert "translation: 9 rows were not measured for b" in comparison.warnings
    assert {row.key for row in comparison.rows} == {
        row.key for side in (a, b) for suite in side.values() for row in suite.rows
    }


def lost_value(side: dict[str, SuiteResult], lost: Row) -> float | None:
    return next(row.value for row in side[lost.suite].rows if row.key == lost.key)


def test_too_few_clusters_give_no_verdict():
    def side(seed: int, per_document: int) -> dict[str, SuiteResult]:
        values = np.random.default_rng(seed).standard_normal(LINES) + 5 * seed
        return {
            "tasks": result(
                "tasks",
                "x",
                [("acc", None, "deu_Latn", None, True, Items("mean", values))],
                lines_per_document=per_document,
            )
        }

    few = compare({"a": side(1, 20), "b": side(2, 20)}, base="a", candidates=["b"]).rows[0]
    assert (few.verdict, few.reason, few.p_adjusted) == (
        "insufficient-data",
        f"6 clusters, a verdict needs {MINIMUM_CLUSTERS}",
        None,
    )
    assert few.ci_low < few.difference < few.ci_high
    assert few.p == pytest.approx(2 / 2**6)  # exact: all six agree
    one = compare({"a": side(1, 120), "b": side(2, 120)}, base="a", candidates=["b"]).rows[0]
    assert (one.verdict, one.se, one.p, one.reason) == (
        "insufficient-data",
        None,
        None,
        "a single cluster has no spread",
    )
    enough = compare({"a": side(1, 12), "b": side(2, 12)}, base="a", candidates=["b"]).rows[0]
    assert (enough.clusters, enough.verdict) == (10, "better")


def test_rows_without_items_have_no_interval_and_no_verdict():
    a, b = measured("a", 1), measured("b", 2)
    for side, value in ((a, 1.0), (b, 2.0)):
        side["tasks"].rows.append(Row(suite="tasks", metric="summary", checkpoint="x", value=value, n=LINES))
        side["tasks"].rows.append(
            Row(suite="tasks", metric="fertility", checkpoint="x", value=value, n=LINES, higher_is_better=None)
        )
    rows = compare({"a": a, "b": b}, base="a", candidates=["b"]).rows
    row = pick(rows, metric="summary")
    assert (row.difference, row.se, row.p, row.verdict) == (1.0, None, None, "insufficient-data")
    assert row.reason == "no statistics per item, so no interval and no test"
    assert pick(rows, metric="fertility").verdict == "no-direction"


def test_R17_pools_of_different_size_do_not_compare():
    a, b = measured("a", 1), measured("b", 2)
    b["layers"].rows[0] = dataclasses.replace(b["layers"].rows[0], n=LINES - 1)
    row = compare({"a": a, "b": b}, base="a", candidates=["b"]).rows[0]
    assert (row.verdict, row.reason, row.difference) == ("insufficient-data", "120 items for a and 119 for b", None)


def test_T4_fingerprints_must_agree():
    a, b, c = measured("a", 1), measured("b", 2), measured("c", 3)
    b["layers"].fingerprint = {"corpus": {"name": "test", "content": "xyz"}, "pooling": "last"}
    c["tasks"].fingerprint["prompt"] = "alpaca"
    c["tasks"].item_ids = ("other", *c["tasks"].item_ids[1:])
    with pytest.raises(NotComparableError) as error:
        compare({"a": a, "b": b, "c": c}, base="a", candidates=["b"], control="c")
    assert error.value.exit_code == 5
    table = [line.split("  ") for line in str(error.value).splitlines()[1:-1]]
    rows = [tuple(cell.strip() for cell in line if cell.strip()) for line in table]
    assert rows[0] == ("suite", "what differs", "one", "other")
    assert ("layers", "pooling", '"mean" in a', '"last" in b') in rows
    assert ("layers", "corpus.content", '"abc" in a', '"xyz" in b') in rows
    assert ("tasks", "prompt", "absent in a", '"alpaca" in c') in rows
    assert ("tasks", "item_ids", "item 1 of 120 is 'line 0' in a", "'other' in c") in rows
    allowed = compare({"a": a, "b": b}, base="a", candidates=["b"], allow_mismatch={"corpus", "pooling"})
    assert 'pooling is "mean" in a and "last" in b (layers)' in allowed.mismatches
    with pytest.raises(NotComparableError, match="item_ids"):  # without the same items there are no pairs to allow
        compare({"a": a, "c": c}, base="a", candidates=["c"], allow_mismatch={"prompt", "item_ids"})


def test_a_suite_that_the_base_lacks_is_checked_between_the_others():
    base, tuned, alignx = measured("base", 1), measured("tuned", 2), measured("alignx", 3)
    del base["tasks"]
    alignx["tasks"].fingerprint["pooling"] = "last"
    with pytest.raises(NotComparableError, match="in tuned +"):
        compare({"base": base, "tuned": tuned, "alignx": alignx}, base="base", candidates=["tuned", "alignx"])


def test_fingerprints_read_from_disk_equal_those_in_memory():
    a, b = measured("a", 1), measured("b", 2)
    for suite in a.values():
        suite.fingerprint["languages"] = ("eng_Latn", "deu_Latn")
    for suite in b.values():
        suite.fingerprint = json.loads(json.dumps(suite.fingerprint | {"languages": ["eng_Latn", "deu_Latn"]}))
    assert compare({"a": a, "b": b}, base="a", candidates=["b"]).rows


def test_R11_another_environment_is_a_warning():
    a, b = measured("a", 1), measured("b", 2)
    for suite in b.values():
        suite.environment = {"dtype": "bfloat16"}
    warnings = compare({"a": a, "b": b}, base="a", candidates=["b"]).warnings
    assert warnings == ['dtype is "float32" in a and "bfloat16" in b (layers, language_modelling, translation, tasks)']


def test_clusters_that_differ_do_not_compare():
    a, b = measured("a", 1), measured("b", 2)
    b["tasks"].clusters[b["tasks"].rows[0].key] = tuple(str(line) for line in range(LINES))
    with pytest.raises(NotComparableError, match="clustered differently"):
        compare({"a": a, "b": b}, base="a", candidates=["b"])


def test_a_wrong_number_of_clusters_never_becomes_singletons():
    a = measured("a", 1)
    a["tasks"].clusters[a["tasks"].rows[0].key] = ("x",)
    with pytest.raises(ValueError, match="1 clusters for 120 items"):
        compare({"a": a}, base="a", candidates=["a"])


def test_other_candidates_and_suites_change_nothing():
    results = {
        "base": measured("base", 1),
        "tuned": measured("tuned", 2),
        "x": measured("x", 3, lift=0.1),
        "y": measured("y", 4),
    }
    together = compare(results, base="base", candidates=["x", "y"], control="tuned")
    alone = compare(results, base="base", candidates=["x"], control="tuned")
    assert [row for row in together.rows if row.candidate_name == "x"] == alone.rows
    assert {row.candidate_name for row in together.rows} == {"x", "y"}
    tasks = compare(
        {label: {"tasks": suites["tasks"]} for label, suites in results.items()},
        base="base",
        candidates=["x"],
        control="tuned",
    )
    assert tasks.rows == [row for row in alone.rows if row.suite == "tasks"]
    assert "x and y were each compared" in report_of(together, None).sentence
    # the control itself may be a candidate: then it is compared with the base only
    contrasts = {
        (row.candidate_name, row.contrast)
        for row in compare(results, base="base", candidates=["tuned", "x"], control="tuned").rows
    }
    assert contrasts == {("tuned", "candidate-base"), ("x", "candidate-base"), ("x", "candidate-control")}


def test_exchanging_base_and_candidate_turns_the_signs():
    a, b = measured("a", 1), measured("b", 2, lift=0.1)
    forward = compare({"a": a, "b": b}, base="a", candidates=["b"]).rows
    backward = compare({"a": a, "b": b}, base="b", candidates=["a"]).rows
    turned = {"better": "worse", "worse": "better"}
    for row, other in zip(forward, backward, strict=True):
        assert other.difference == -row.difference
        assert (other.ci_low, other.ci_high) == pytest.approx((-row.ci_high, -row.ci_low), rel=1e-9, abs=1e-12)
        assert other.p == pytest.approx(row.p, rel=1e-9)
        assert other.verdict == turned.get(row.verdict, row.verdict)


def test_same_seed_same_numbers():
    sides = {"a": measured("a", 1), "b": measured("b", 2)}
    first, second = (compare(sides, base="a", candidates=["b"], seed=7) for _ in range(2))
    assert first.rows == second.rows and report_of(first, None).findings == report_of(second, None).findings


def test_no_value_is_a_numpy_scalar_or_nan():
    comparison = compare({"a": measured("a", 1), "b": measured("b", 2)}, base="a", candidates=["b"])
    text = json.dumps([dataclasses.asdict(row) for row in comparison.rows], allow_nan=False)
    assert "NaN" not in text
    for row in comparison.rows:
        assert {type(value) for value in dataclasses.asdict(row).values()} <= {str, float, int, bool, type(None)}


def test_empty_results_give_no_rows():
    comparison = compare({"a": {}, "b": {}}, base="a", candidates=["b"])
    assert comparison.rows == [] and report_of(comparison, None).findings == []


def test_two_rows_with_one_key_are_refused():
    a = measured("a", 1)
    a["tasks"].rows.append(a["tasks"].rows[0])
    with pytest.raises(ValueError, match="have the key"):
        compare({"a": a}, base="a", candidates=["a"])


def test_a_strong_row_survives_a_large_family():
    random = np.random.default_rng(0)

    def side(lift: float) -> dict[str, SuiteResult]:
        values = random.standard_normal((1000, 40))
        values[17] += lift
        entries = [("acc", str(index), "deu_Latn", None, True, Items("mean", values[index])) for index in range(1000)]
        return {"tasks": result("tasks", "x", entries, lines=40, lines_per_document=1)}

    rows = compare({"a": side(0.0), "b": side(3.0)}, base="a", candidates=["b"]).rows
    assert len(rows) == 1000 and "39999 draws" in rows[0].method
    assert [row.layer for row in rows if row.verdict == "better"] == ["17"]
