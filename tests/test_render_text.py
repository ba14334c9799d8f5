"""Console, Markdown, JSON and CSV: what they say, that they say the same, and that hostile text cannot break them."""

from __future__ import annotations

import copy
import csv
import html as html_text
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from helpers.comparisons import INTERFACE, large_comparison, single_run, small_comparison
from helpers.reports import (
    as_report,
    console_text,
    csv_text,
    github_text,
    json_text,
    junit_text,
    markdown_text,
    page_text,
)

from alignx_eval import wording
from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.contrasts import list_contrasts
from alignx_eval.judgement.gate import describe_row, judge
from alignx_eval.judgement.policy import default_policy
from alignx_eval.render import console, markdown, view

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\x00\ud800 | `code` @user\r\n# heading"


def comparison(control: bool = True):
    return small_comparison(control=control)


def width(text: str) -> int:
    return max(console.columns_of(line) for line in text.splitlines())


def test_console_fits_80_columns_and_30_lines_with_the_findings_first():
    verdict = judge(comparison(), default_policy())
    text = console_text(comparison(), verdict, report_path="run/report.html", next_command="alignx-eval report run")
    body = [line for line in text.splitlines() if not line.startswith(("Report", "Next"))]
    assert width("\n".join(body)) <= 80
    assert len(text.splitlines()) <= 30
    parts = [
        "Effect of alignment: alignx - tuned",
        "What training changed: alignx - base",
        "Worst languages",
        "Price",
        "Diagnosis",
        "Gate (",
        "Report",
    ]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert text.rstrip().endswith("Next    alignx-eval report run")
    assert "tur_Latn" in text and "\033" not in text


def test_every_rendering_shows_the_same_headline_numbers():
    headlines = as_report(comparison()).headlines
    assert [headline.metric for headline in headlines] == [
        "precision_at_1", "bleu", "chrf++", "off_target_rate", "bits_per_byte", "next_sentence.acc"
    ]  # fmt: skip
    screen = console_text(comparison()).replace("-", "−")
    summary = markdown_text(comparison()).replace("\\", "")
    page = " ".join(re.sub("<[^>]*>", " ", page_text(comparison())).split())
    document = json.loads(json_text(comparison()))["headlines"]
    for headline, written in zip(headlines, document, strict=True):
        assert written["sentence"] == headline.sentence and written["value"] == headline.value
        for change in headline.changes:
            numbers, word = view.change_numbers(headline, change), view.WORDS[change.word]
            assert f"{numbers} {word}" in screen and f"{word}: {numbers}" in summary and f"{word} {numbers}" in page


def test_a_checkpoint_alone_shows_its_headline_numbers():
    screen = console_text(single_run())
    assert "precision@1 (peak: layer 3)" in screen and "language-ID probe, layer 6" in screen
    assert "bits per byte (worst: zho_Hans)" in screen
    texts = [screen.replace("-", "−"), markdown_text(single_run()).replace("\\", ""), page_text(single_run())]
    found = view.measured(single_run())
    assert [each.row.metric for each in found] == [
        "precision_at_1", "probe_balanced_accuracy", "bits_per_byte", "chrf++", *["next_sentence.acc"] * len(INTERFACE)
    ]  # fmt: skip
    for each in found:
        value, low, high = (
            wording.number(end, each.row.metric) for end in (each.row.value, each.row.ci_low, each.row.ci_high)
        )
        assert re.search(rf"{re.escape(f'{value} [{low}, {high}]')} +{each.row.n}\b", texts[0])
        for text in texts[1:]:
            assert value in text and f"[{low}, {high}]" in text
    assert "chance 0.250" in screen
    assert width(screen) <= 80 and len(screen.splitlines()) <= 30


def test_what_is_not_to_be_judged_is_no_claim_anywhere():
    """Outputs that are mostly empty: numbers and the reason are shown, and nothing is called better."""
    results = {name: dict(small_comparison().results[name]) for name in ("base", "alignx", "tuned")}
    reason = "95 % of its outputs are empty"
    for name in ("base",):
        suite = results[name]["translation"]
        rows = [replace(row, unjudged=reason) if row.metric in ("bleu", "chrf++") else row for row in suite.rows]
        results[name]["translation"] = replace(suite, rows=rows, warnings=["the sentinel warning"])
    one = results["alignx"]["language_modelling"]
    rows = [
        replace(row, unjudged="12 % of the bytes are unknown") if row.language == "tur_Latn" else row
        for row in one.rows
    ]
    results["alignx"]["language_modelling"] = replace(one, rows=rows)
    found = compare(results, base="base", candidates=["alignx"], control="tuned", corpus=comparison().corpus)
    bleu = next(headline for headline in as_report(found).headlines if headline.metric == "bleu")
    assert [change.word for change in bleu.changes] == ["better", "no-claim"]  # the control was measured well
    claim = f"against base (what training changed) no claim: base: {reason} (eng_Latn to deu_Latn, and 17 more)"
    assert claim in bleu.sentence and "against tuned" in bleu.sentence
    bits = next(headline for headline in as_report(found).headlines if headline.metric == "bits_per_byte")
    assert bits.scope == "mean of 9 of 10 languages" and "mean of 9 of 10 languages: alignx" in bits.sentence
    assert bits.sentence.endswith("Left out: alignx: 12 % of the bytes are unknown (tur_Latn).")
    screen, summary, page = console_text(found), markdown_text(found), page_text(found)
    assert "bits per byte (9 of 10)" in screen
    assert f"no claim: base: {reason}" in " ".join(screen.split())
    assert f"no claim: base: {reason}" in summary and f"no verdict, base: {reason}" in summary
    page = " ".join(re.sub("<[^>]*>", " ", page).split())
    assert f"no claim base: {reason}" in page and f"no verdict, base: {reason}" in page
    alone = compare({"base": results["base"]}, base="base", candidates=[])
    for text in (console_text(alone), markdown_text(alone), page_text(alone)):
        assert f"not to be judged: {reason}" in " ".join(text.split())
    only = compare({name: results[name] for name in ("base", "alignx")}, base="base", candidates=["alignx"])
    assert f"BLEU: no claim: base: {reason} (eng_Latn to deu_Latn, and 17 more)." in as_report(only).findings


def test_the_references_own_rate_stands_beside_the_off_target_rate():
    results = {}
    for name in ("base", "alignx"):
        results[name] = dict(small_comparison().results[name])
        suite = results[name]["translation"]
        rows = [replace(row, null=0.033) if row.metric == "off_target_rate" else row for row in suite.rows]
        mean = replace(rows[-1], metric="off_target_rate", language=None, other_language=None, null=0.033)
        results[name]["translation"] = replace(suite, rows=[*rows, mean])
    found = compare(results, base="base", candidates=["alignx"], corpus=comparison().corpus)
    off_target = next(headline for headline in as_report(found).headlines if headline.metric == "off_target_rate")
    assert (
        off_target.references_rate == pytest.approx(0.033)
        and "the references' own rate is 0.033" in off_target.sentence
    )
    assert "off-target rate of the references themselves: 0.033" in console_text(found)
    assert "references' own rate 0.033" in markdown_text(found)
    page = page_text(found).replace("&#39;", "'")
    assert "references' own rate 0.033" in page and "<b>0.033" not in page
    table = re.search(r'aria-label="off-target rate, alignx − base">.*?</table>', page, re.S)
    assert "References' own rate: 0.033." in page and table is not None
    gated = judge(found, default_policy())
    assert any(
        "references' own rate 0.033" in describe_row(row)
        for row in gated.candidates[0].rows
        if row.row.metric == "off_target_rate"
    )
    alone = compare({"alignx": results["alignx"]}, base="alignx", candidates=[], corpus=comparison().corpus)
    for text in (console_text(alone), markdown_text(alone), page_text(alone).replace("&#39;", "'")):
        assert "references' own rate 0.033" in " ".join(text.split())


def test_each_suite_says_on_which_text_it_stands():
    only = {name: {"tasks": small_comparison().results[name]["tasks"]} for name in ("base", "alignx")}
    both = {name: small_comparison().results[name] for name in ("base", "alignx")}
    tasks = "on the task next_sentence (60 documents in each of 10 languages)"
    for results, said in (
        (only, f", {tasks}."),
        (both, f", on 60 parallel lines of interface (test split) in 10 languages, and {tasks}."),
    ):
        found = compare(results, base="base", candidates=["alignx"], corpus=comparison().corpus)
        assert said in as_report(found).sentence
        verdict = judge(found, default_policy())
        alone = compare({"alignx": results["alignx"]}, base="alignx", candidates=[], corpus=comparison().corpus)
        shown = [
            render(each, verdict)
            for each in (found,)
            for render in (console_text, markdown_text, page_text, junit_text)
        ]
        shown += [render(alone) for render in (console_text, markdown_text, page_text)]
        for text in shown:
            text = " ".join(text.replace("\\", "").split())
            assert tasks in text
            assert ("parallel lines of interface" in text) == (results is both)
        page = page_text(found)
        assert ("alignx-eval comparison, interface test" in page) == (results is both)
        assert ("Home Assistant" in page) == (results is both)


def test_every_warning_and_every_note_is_in_every_rendering():
    """Warnings of a checkpoint's numbers, warnings of the environment, and how each checkpoint was opened."""
    results = {name: dict(small_comparison().results[name]) for name in ("base", "alignx", "tuned")}
    layers = results["alignx"]["layers"]
    own = [f"sentinel {number}: one token holds 99 % of the norm" for number in range(4)]
    results["alignx"]["layers"] = replace(
        layers, warnings=own, environment={**layers.environment, "sentinel": "bfloat16"}
    )
    facts = {
        name: {"notes": [f"the sentinel adapter of {name} was merged", "a revision is not pinned"]} for name in results
    }
    found = compare(
        results, base="base", candidates=["alignx"], control="tuned", checkpoints=facts, corpus=comparison().corpus
    )
    environment = 'sentinel is absent in base and "bfloat16" in alignx (layers)'
    notes = [
        *(f"{name}: the sentinel adapter of {name} was merged" for name in results),
        "base, tuned, alignx: a revision is not pinned",
    ]
    assert found.warnings[:4] == [f"alignx: {text}" for text in own] and environment in found.warnings
    assert as_report(found).sentence.endswith(f"There are {len(found.warnings)} warnings.")
    verdict = judge(found, default_policy())
    alone = compare(
        {"alignx": results["alignx"]}, base="alignx", candidates=[], checkpoints=facts, corpus=comparison().corpus
    )
    shown = {
        "console": console_text(found, verdict),
        "markdown": markdown_text(found, verdict),
        "html": page_text(found, verdict),
        "json": json_text(found, verdict),
        "junit": junit_text(found, verdict),
        "annotations": github_text(found, verdict),
    }
    for rendering, text in shown.items():
        text = " ".join(html_text.unescape(text.replace('\\"', '"').replace("\\_", "_").replace("%25", "%")).split())
        for sentence in (*found.warnings[:4], environment, *notes):
            assert sentence in text, (rendering, sentence)
    for render in (console_text, markdown_text, page_text, json_text):
        text = " ".join(render(alone).split())
        assert (
            own[0] in text and "the sentinel adapter of alignx was merged" in text and "There are 4 warnings" in text
        ), render
    # Loud: above the findings, or a kind of their own.
    assert (
        shown["html"].index("sentinel 0") < shown["html"].index('id="findings"') and "No warnings" not in shown["html"]
    )
    assert shown["markdown"].index("sentinel 0") < shown["markdown"].index("## Findings")
    assert re.search(r"^::warning title=[^:]*::alignx: sentinel 0", shown["annotations"], re.M)
    root = ET.fromstring(shown["junit"])
    assert [each.get("value") for each in root.iter("property") if each.get("name") == "warning"] == found.warnings
    assert "warning: alignx: sentinel 0" in next(root.iter("system-out")).text


def test_console_narrow_and_wide_labels():
    wide = copy.copy(comparison())
    wide.warnings = ["模型" * 80]
    wide.control = "对照" * 30
    assert width(console_text(wide, width=60)) <= 60


def test_console_colour_and_NO_COLOR(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" in console_text(comparison(), colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in console_text(comparison(), colour=True)


def test_without_a_control_every_renderer_says_so():
    none = comparison(False)
    for text in (console_text(none), markdown_text(none), page_text(none)):
        assert "not evidence" in " ".join(text.split()) and "effect of alignment" in " ".join(text.split()).lower()
        assert "Effect of alignment:" not in text
    assert view.no_control_sentence(comparison()) is None


def test_S5_no_evidence_is_never_called_equal():
    for text in (console_text(comparison()), markdown_text(comparison())):
        assert not re.search(r"\b(equal|identical|the same score)\b", text)


def test_S11_counts_of_rows_are_data_and_no_headline():
    together = comparison()
    document = json.loads(json_text(together))
    assert len(document["counts"]) == 2
    for counts in document["counts"]:
        rows = [
            row
            for row in together.rows
            if row.contrast == counts["contrast"] and row.candidate_name == counts["candidate"]
        ]
        assert len(rows) == sum(counts[verdict] for verdict in view.VERDICTS)
        for verdict in view.VERDICTS:
            assert counts[verdict] == sum(row.verdict == verdict for row in rows)
        # Rows of one suite are not independent: no headline is made of how many there are.
        for text in (console_text(together), markdown_text(together), page_text(together)):
            assert f"{counts['better']} better" not in text and f"<dd>{counts['better']}</dd>" not in text


def test_S9_a_checkpoint_with_itself():
    results = single_run().results["alignx"]
    same = compare({"a": results, "b": results}, base="a", candidates=["b"])
    assert view.count_verdicts(same.rows)["better"] == view.count_verdicts(same.rows)["worse"] == 0
    screen = console_text(same)
    assert "none is below" in screen and "no evidence" in screen and not re.search(r"\b(better|worse)\b", screen)
    assert not re.search(r"[-−]0\.0+(?!\d)", markdown_text(same))  # no minus before a zero


def test_json_has_a_schema_version_and_no_nan():
    spoilt = copy.deepcopy(comparison())
    spoilt.rows[0] = replace(spoilt.rows[0], difference=math.nan, ci_low=-math.inf)
    spoilt.corpus["odd"] = {"value": math.nan, "text": "\ud800"}

    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads(json_text(spoilt), parse_constant=refuse)
    assert document["schema_version"] == 1
    assert document["comparison_rows"][0]["difference"] is None
    assert len(document["comparison_rows"]) == len(spoilt.rows)
    page = page_text(spoilt).rpartition("<script>")[0]  # the script itself may say Infinity
    for text in (page, markdown_text(spoilt), console_text(spoilt), csv_text(spoilt)):
        assert not re.search(r"\b(nan|inf|infinity)\b", text, re.I), re.search(
            r".{40}\b(nan|inf|infinity)\b.{40}", text, re.I
        )
        text.encode("utf-8")


def test_csv_reads_back():
    lines = list(csv.DictReader(io.StringIO(csv_text(comparison()))))
    assert len(lines) == len(comparison().rows)
    for line, row in zip(lines, comparison().rows, strict=True):
        assert line["verdict"] == row.verdict and line["suite"] == row.suite
        assert (float(line["difference"]) if line["difference"] else None) == row.difference
        assert (line["language"] or None) == row.language
    single = list(csv.DictReader(io.StringIO(csv_text(single_run()))))
    assert single and single[0]["checkpoint"] == "alignx"


def test_markdown_findings_first_and_balanced_details():
    text = markdown_text(comparison())
    parts = ["## Findings", "✓ better", "## Worst languages", "## Price", "## Diagnosis", "Alignment by layer, layer 3"]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert text.count("<details>") == text.count("</details>") > 0
    header = 0
    for line in text.splitlines():  # every row of a table has as many cells as its heading
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (header and cells) or cells == header, line
        header = cells


def test_markdown_names_the_layer_that_training_changed_most():
    text = markdown_text(comparison())
    for start in ("What training changed, alignx against base", "Effect of alignment, alignx against tuned"):
        line = next(
            line
            for line in text.splitlines()
            if line.startswith(f"- {start}, layer against layer: Layer 3 is the one least like")
        )
        assert line.endswith("debiased CKA 0.880 \\[0.870, 0.890\\] (mean of 10 languages, n = 60, 30 clusters).")
    without = copy.copy(comparison())
    without.layer_similarity = []
    assert "layer against layer" not in markdown_text(without)


def test_S14_markdown_stays_under_the_limit_and_says_what_is_missing(monkeypatch):
    big = large_comparison(languages=51, blocks=4, lines=4)
    assert len(markdown_text(big).encode()) < 900_000
    monkeypatch.setattr(markdown, "MAXIMUM_BYTES", 20_000)
    text = markdown_text(big)
    assert (
        len(text.encode()) < 20_000
        and "parts were left out" in text
        and text.count("<details>") == text.count("</details>")
    )


def test_S14_hostile_text_in_console_and_markdown():
    bad = copy.deepcopy(comparison())
    bad.warnings = [HOSTILE]
    bad = replace(as_report(bad), findings=[HOSTILE], sentence=HOSTILE)
    for text in (console_text(bad), markdown_text(bad)):
        text.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    summary = markdown_text(bad)
    assert "<img" not in summary and "@user" not in summary and "\n# heading" not in summary and "`code`" not in summary


def test_single_checkpoint():
    single = single_run()
    for text in (console_text(single), markdown_text(single), page_text(single)):
        assert "without a comparison" in " ".join(text.split())
        assert "✓ better" not in text and "Worst languages" not in text


def test_worst_languages_are_losses_in_order():
    contrast = list_contrasts(comparison())[0]
    worst = view.worst_languages(comparison(), contrast)
    assert contrast.kind == "candidate-control" and worst[0][0] == "tur_Latn"
    scores = [view.signed_difference(row) / row.se for _, row in worst]
    assert scores == sorted(scores) and all(score < 0 for score in scores)


@pytest.mark.parametrize(
    ("value", "metric", "expected"),
    [
        (0.1234, "acc", "+0.123"),
        (-0.00001, "acc", "0.000"),
        (-1.234, "bleu", "−1.23"),
        (None, "bleu", "–"),
        (math.nan, "acc", "–"),
        (0.0, "acc", "0.000"),
    ],
)
def test_numbers(value, metric, expected):
    assert wording.difference(value, metric) == expected


def test_quantities_for_people():
    assert [wording.quantity(value, "B") for value in (None, 12, 2_400_000_000)] == ["–", "12 B", "2.4 GB"]
    assert [wording.duration(value) for value in (None, 45, 171, 11100)] == ["–", "45 s", "2 min 51 s", "3 h 5 min"]
