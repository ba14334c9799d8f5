"""Console, Markdown, JSON and CSV: what they say, that they say the same, and that hostile text cannot break them."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest
from render_fixture import large_comparison, single_run, small_comparison

from alignx_eval.comparison import compare
from alignx_eval.render import console, html, markdown, tables, view

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m\x00\ud800 | `code` @user\r\n# heading"


def comparison(control: bool = True):
    return small_comparison(control=control)


def width(text: str) -> int:
    return max(console._cells(line) for line in text.splitlines())


def test_console_fits_80_columns_and_one_screen():
    text = console.render(comparison(), report_path="run/report.html", next_command="alignx-eval report run")
    body = [line for line in text.splitlines() if not line.startswith(("Report", "Next"))]
    assert width("\n".join(body)) <= 80
    assert len(text.splitlines()) <= 45
    parts = ["Effect of alignment", "Worst languages", "Diagnosis", "Report  run/report.html"]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert text.rstrip().endswith("Next    alignx-eval report run")
    assert "tur_Latn" in text and "\033" not in text


def test_console_shows_the_means_of_the_first_contrast():
    screen = console.render(comparison()).replace("-", "−")
    contrast = view.contrasts(comparison())[0]
    means = view.headline_means(comparison(), contrast)
    assert [row.metric for row in means] == ["precision_at_1", "chrf++"]
    for row in means:
        number = f"{view.difference(row.difference, row.metric)} {view.interval(row)} {view.WORDS[row.verdict]}, n = {row.n}"
        assert number in screen and row.contrast == "candidate-control"


def test_console_narrow_and_wide_labels():
    wide = copy.copy(comparison())
    wide.findings = wide.warnings = ["模型" * 80]
    wide.control = "对照" * 30
    assert width(console.render(wide, width=60)) <= 60


def test_console_colour_and_NO_COLOR(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" in console.render(comparison(), colour=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in console.render(comparison(), colour=True)


def test_without_a_control_every_renderer_says_so():
    none = comparison(False)
    for text in (console.render(none), markdown.render(none), html.render(none)):
        assert "not evidence" in " ".join(text.split()) and "effect of alignment" in " ".join(text.split()).lower()
        assert "Effect of alignment:" not in text
    assert view.no_control_sentence(comparison()) is None


def test_S5_no_evidence_is_never_called_equal():
    for text in (console.render(comparison()), markdown.render(comparison())):
        assert not re.search(r"\b(equal|identical|the same score)\b", text)


def test_S11_renderers_agree_on_every_count():
    together = comparison()
    document = json.loads(tables.render_json(together))
    screen, summary, page = console.render(together), markdown.render(together), html.render(together)
    tiles = [
        dict(zip(("better", "worse", "no-evidence", "insufficient-data"), map(int, re.findall(r"<dd>(\d+)</dd>", group))))
        for group in re.findall(r'<dl class="tiles">.*?</dl>', page, re.S)
    ]
    assert len(tiles) == len(document["counts"]) == 2
    for tile, counts in zip(tiles, document["counts"], strict=True):
        rows = [row for row in together.rows if row.contrast == counts["contrast"] and row.candidate_name == counts["candidate"]]
        for verdict in tile:
            expected = sum(row.verdict == verdict for row in rows)
            assert tile[verdict] == counts[verdict] == expected
        shown = [f"{counts[verdict]} {view.WORDS[verdict]}" for verdict in tile]
        assert "  " + ", ".join(shown) in screen
        assert "| " + " | ".join(str(counts[verdict]) for verdict in tile) + " |" in summary
        assert len(rows) == sum(counts[verdict] for verdict in view.VERDICTS)


def test_S9_a_checkpoint_with_itself():
    results = single_run().results["alignx"]
    same = compare({"a": results, "b": results}, base="a", candidates=["b"])
    assert view.count_verdicts(same.rows)["better"] == view.count_verdicts(same.rows)["worse"] == 0
    screen = console.render(same)
    assert "0 better, 0 worse" in screen and "none is below" in screen
    assert not re.search(r"[-−]0\.0+(?!\d)", markdown.render(same))  # no minus before a zero


def test_json_has_a_schema_version_and_no_nan():
    spoilt = copy.deepcopy(comparison())
    spoilt.rows[0] = replace(spoilt.rows[0], difference=math.nan, ci_low=-math.inf)
    spoilt.corpus["odd"] = {"value": math.nan, "text": "\ud800"}

    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads(tables.render_json(spoilt), parse_constant=refuse)
    assert document["schema_version"] == 1
    assert document["comparison_rows"][0]["difference"] is None
    assert len(document["comparison_rows"]) == len(spoilt.rows)
    page = html.render(spoilt).rpartition("<script>")[0]  # the script itself may say Infinity
    for text in (page, markdown.render(spoilt), console.render(spoilt), tables.render_csv(spoilt)):
        assert not re.search(r"\b(nan|inf|infinity)\b", text, re.I), re.search(r".{40}\b(nan|inf|infinity)\b.{40}", text, re.I)
        text.encode("utf-8")


def test_csv_reads_back():
    lines = list(csv.DictReader(io.StringIO(tables.render_csv(comparison()))))
    assert len(lines) == len(comparison().rows)
    for line, row in zip(lines, comparison().rows, strict=True):
        assert line["verdict"] == row.verdict and line["suite"] == row.suite
        assert (float(line["difference"]) if line["difference"] else None) == row.difference
        assert (line["language"] or None) == row.language
    single = list(csv.DictReader(io.StringIO(tables.render_csv(single_run()))))
    assert single and single[0]["checkpoint"] == "alignx"


def test_markdown_verdict_first_and_balanced_details():
    text = markdown.render(comparison())
    parts = ["## Diagnosis", "## Worst languages", "## What changed", "✓ better", "## Price", "Findings", "Alignment by layer, layer 3"]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert text.count("<details>") == text.count("</details>") > 0
    header = 0
    for line in text.splitlines():  # every row of a table has as many cells as its heading
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (header and cells) or cells == header, line
        header = cells


def test_markdown_names_the_layer_that_training_changed_most():
    text = markdown.render(comparison())
    for start in ("What training changed, alignx against base", "Effect of alignment, alignx against tuned"):
        line = next(line for line in text.splitlines() if line.startswith(f"- {start}, layer against layer: Layer 3 is the one least like"))
        assert line.endswith("debiased CKA 0.880 \\[0.870, 0.890\\] (mean of 10 languages, n = 60, 30 clusters).")
    without = copy.copy(comparison())
    without.layer_similarity = []
    assert "layer against layer" not in markdown.render(without)


def test_S14_markdown_stays_under_the_limit_and_says_what_is_missing(monkeypatch):
    big = large_comparison(languages=51, blocks=4, lines=4)
    assert len(markdown.render(big).encode()) < 900_000
    monkeypatch.setattr(markdown, "MAXIMUM_BYTES", 20_000)
    text = markdown.render(big)
    assert len(text.encode()) < 20_000 and "parts were left out" in text and text.count("<details>") == text.count("</details>")


def test_S14_hostile_text_in_console_and_markdown():
    bad = copy.deepcopy(comparison())
    bad.findings = [HOSTILE]
    bad.warnings = [HOSTILE]
    bad.sentence = HOSTILE
    for text in (console.render(bad), markdown.render(bad)):
        text.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", text)
    summary = markdown.render(bad)
    assert "<img" not in summary and "@user" not in summary and "\n# heading" not in summary and "`code`" not in summary


def test_single_checkpoint():
    single = single_run()
    for text in (console.render(single), markdown.render(single), html.render(single)):
        assert "without a comparison" in " ".join(text.split())
        assert "✓ better" not in text and "Worst languages" not in text


def test_worst_languages_are_losses_in_order():
    contrast = view.contrasts(comparison())[0]
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
    assert view.difference(value, metric) == expected


def test_quantities_for_people():
    assert [view.quantity(value, "B") for value in (None, 12, 2_400_000_000)] == ["–", "12 B", "2.4 GB"]
    assert [view.duration(value) for value in (None, 45, 171, 11100)] == ["–", "45 s", "2 min 51 s", "3 h 5 min"]
