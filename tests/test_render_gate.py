"""The gate in every rendering: one verdict, said the same way by console, JSON, CSV, Markdown, JUnit, annotations, HTML
and exit code."""

from __future__ import annotations

import csv
import dataclasses
import html as html_text
import io
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from functools import cache

import pytest
from helpers.comparisons import checkpoint_facts, corpus_facts, synthetic_results
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
from alignx_eval.comparison.rows import Comparison
from alignx_eval.judgement.gate import LEVELS, STATUSES, GateRow, Verdict, describe_row, judge
from alignx_eval.judgement.policy import Policy, Rule, default_policy
from alignx_eval.render import console, markdown, view

LANGUAGES = ("eng_Latn", "deu_Latn", "tur_Latn", "zho_Hans")
LINES = 120
WORDS = {
    "red": "regression",
    "missing": "missing",
    "amber": "not settled",
    "grey": "not judged",
    "green": "within tolerance",
}
HOSTILE = (
    "evil\x1b[31m\x00\ud800%0A::error::\n::error title=x::owned\r\n"
    "# heading | `code` @user ]]> </script><script>alert(1)</script> \"'&, :"
)


@cache
def results(name: str):
    return synthetic_results(name, LANGUAGES, blocks=2, lines=LINES)


def together(*candidates: str, given: dict | None = None, **options) -> Comparison:
    """base and candidates through the real `compare`; `given` replaces the results of a candidate."""
    names = ("base", *candidates)
    measured = {name: (given or {}).get(name) or results(name) for name in names}
    facts = {name: {**checkpoint_facts(name), "align_layer": 1} for name in names}
    return compare(
        measured,
        base="base",
        candidates=candidates,
        checkpoints=facts,
        corpus=corpus_facts(LANGUAGES, LINES),
        **options,
    )


def without_rows(name: str, suite: str, code: str) -> dict:
    """Results in which a suite has nothing about a language."""
    changed = dict(results(name))
    rows = [row for row in changed[suite].rows if code not in (row.language, row.other_language)]
    items = {row.key: changed[suite].items[row.key] for row in rows if row.key in changed[suite].items}
    changed[suite] = dataclasses.replace(changed[suite], rows=rows, items=items)
    return changed


def generous(**changes) -> Policy:
    """The default policy with tolerances that nothing here exceeds."""
    policy = default_policy()
    return policy.model_copy(
        update={
            "rules": tuple(rule.model_copy(update={"tolerance": 50 * rule.tolerance}) for rule in policy.rules),
            **changes,
        }
    )


@cache
def case(name: str) -> tuple[Comparison, Verdict]:
    policy = default_policy()
    if name == "fail":
        comparison = together("damaged")
    elif name == "one of two fails":
        comparison = together("alignx", "damaged")
    elif name == "missing rows":
        comparison, policy = (
            together("alignx", given={"alignx": without_rows("alignx", "language_modelling", "deu_Latn")}),
            generous(),
        )
    elif name == "nothing measured":
        only = {label: {"language_id": results(label)["language_id"]} for label in ("base", "alignx")}
        comparison = together("alignx", given=only)
    elif name == "rule without rows":
        extra = Rule(suite="tasks", metric="no_such_task.acc", tolerance=0.02)
        comparison, policy = together("alignx"), generous(require_all=True, rules=(*generous().rules, extra))
    elif name == "too few items":
        comparison, policy = together("alignx"), generous(min_n=LINES + 1)
    elif name == "inconclusive":
        comparison = together("drifted")
    elif name == "pass":
        comparison, policy = together("alignx"), generous()
    else:
        comparison, policy = (
            together("damaged"),
            Policy(rules=(Rule(suite="language_modelling", metric="*", tolerance=9), WARNING)),
        )
    return comparison, judge(comparison, policy, enforced=True)


WARNING = Rule(suite="translation", metric="chrf++", tolerance=0.5, level="warn")
CASES = {
    "fail": ("fail", 3, 3),
    "one of two fails": ("fail", 3, 3),
    "missing rows": ("incomplete", 2, 2),
    "nothing measured": ("incomplete", 2, 2),
    "rule without rows": ("incomplete", 2, 2),
    "too few items": ("incomplete", 2, 2),
    "inconclusive": ("inconclusive", 0, 4),
    "pass": ("pass", 0, 0),
    "pass with a warning": ("pass", 0, 0),
}


@dataclasses.dataclass
class Said:
    """What a reader of one rendering takes from it."""

    outcome: str | None  # None where it says nothing about the whole
    counts: dict[tuple[str, str, str], int]  # (candidate, level, status), those that are not 0
    text: str = ""  # what is read by people, unescaped; empty for tables
    red: bool | None = None  # whether a CI system shows an error, if it reads this rendering


def one_line(text: str) -> str:
    return " ".join(text.split())


def from_console(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    lines = console_text(comparison, verdict, width=10_000).splitlines()
    counts = {}
    for line in lines:
        name = re.match(r"  (?:FAIL|INCOMPLETE|INCONCLUSIVE|PASS) (\w+); ", line)
        label = name.group(1) if name else verdict.candidates[0].candidate
        for level, text in re.findall(r"(?:^  |; )(block|warn|info): ([^;]*)", line):
            counts |= {(label, level, status): int(number) for number, status in re.findall(r"(\d+) (\w+)", text)}
    return Said(lines[0].partition(":")[0].lower(), counts, "\n".join(lines))


def from_json(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    found = json.loads(json_text(comparison, verdict))["verdict"]
    counts = {
        (each["candidate"], level, status): number
        for each in found["candidates"]
        for level, by_status in each["counts"].items()
        for status, number in by_status.items()
        if number
    }
    rows = Counter(
        (each["candidate"], row["level"], row["status"]) for each in found["candidates"] for row in each["rows"]
    )
    assert counts == rows
    code = found["exit_code_strict" if strict else "exit_code"]
    assert code == verdict.exit_code(strict=strict)
    # The rows are in order of severity within their level.
    first = [
        next((row for row in each["rows"] if row["level"] == level), None)
        for each in found["candidates"]
        for level in LEVELS
    ]
    return Said(found["outcome"], counts, found["sentence"] + json.dumps(first), code != 0)


def from_csv(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    lines = list(csv.DictReader(io.StringIO(csv_text(comparison, verdict))))
    gated = [line for line in lines if line["gate_status"]]
    counts = Counter((line["candidate_name"], line["gate_level"], line["gate_status"]) for line in gated)
    return Said(None, dict(counts))


def from_markdown(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    text = html_text.unescape(re.sub(r"\\(.)", r"\1", markdown_text(comparison, verdict)))
    first = re.match(r"# \S (\w+): ", text)
    counts = {}
    for line in re.findall(r"^\| \w+ against \w+ \| \S (?:FAIL|INCOMPLETE|INCONCLUSIVE|PASS) \|.*$", text, re.M):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        label, level = cells[0].split()[0], cells[2].split()[0]
        counts |= {
            (label, level, status): int(cell) for status, cell in zip(STATUSES, cells[3:], strict=True) if int(cell)
        }
    return Said(first.group(1).lower(), counts, text)


def from_junit(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    root = ET.fromstring(junit_text(comparison, verdict, strict=strict))
    counts, errors = Counter(), 0
    for suite in root.iter("testsuite"):
        cases = suite.findall("testcase")
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(attribute)) == len(suite.findall(f"testcase/{tag}"))
        assert int(suite.get("tests")) == len(cases)
        errors += int(suite.get("failures")) + int(suite.get("errors"))
        for each in cases:
            if each.get("name") == "verdict":
                continue
            words, level = re.match(
                r"([a-z ]+?)(?: \(level (\w+), only shown\))?: ", each.find("system-out").text
            ).groups()
            status = next(status for status, word in WORDS.items() if word == words)
            counts[each.get("classname").split()[0], level or "block", status] += 1
            children = {child.tag for child in each} - {"system-out"}
            expected = {"red": {"failure"}, "missing": {"error"}, "green": set()}.get(
                status, {"failure" if strict else "skipped"}
            )
            assert children == (expected if level is None or status == "green" else {"skipped"})
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(root.get(attribute)) == sum(1 for _ in root.iter(tag))
    properties = [{each.get("name"): each.get("value") for each in suite} for suite in root.iter("properties")]
    assert properties[0]["exit code"] == str(verdict.exit_code(strict=strict))
    text = "\n".join(element.get("message") or element.get("value") or element.text or "" for element in root.iter())
    return Said(properties[0]["overall outcome"], dict(counts), text, errors > 0)


def from_annotations(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    lines = github_text(comparison, verdict, strict=strict).splitlines()
    assert 1 <= len(lines) <= 10
    found = [re.fullmatch(r"::(error|warning|notice) title=([^:,]*)::(.*)", line).groups() for line in lines]
    messages = [message.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%") for _, _, message in found]
    outcome = found[0][1].rpartition(" ")[2].lower()
    assert (found[0][0] == "error") == (verdict.exit_code(strict=strict) != 0)
    return Said(outcome, {}, "\n".join(messages), any(kind == "error" for kind, _, _ in found))


def from_html(comparison: Comparison, verdict: Verdict, strict: bool) -> Said:
    page = page_text(comparison, verdict)
    outcome = re.search(r'class="banner o-(\w+)"', page).group(1)
    levels = {"Rows that decide": "block", "Rows that warn": "warn", "Rows for information": "info"}
    label, counts = verdict.candidates[0].candidate, {}
    names = iter(
        each.candidate for each in verdict.candidates for level in LEVELS if any(r.level == level for r in each.rows)
    )
    for title, pills in re.findall(r'<p class="counts"><strong>([^:<]*):</strong>(.*?)</p>', page, re.S):
        label = next(names)
        for status, number in re.findall(r'class="verdict g-(\w+)".*?</span>[\w ]+</span> (\d+)', pills):
            counts[label, levels[title], status] = int(number)
    return Said(outcome, counts, one_line(html_text.unescape(re.sub("<[^>]*>", " ", page))))


READERS = {
    "console": from_console,
    "json": from_json,
    "csv": from_csv,
    "markdown": from_markdown,
    "junit": from_junit,
    "annotations": from_annotations,
    "html": from_html,
}


def names_row(text: str, gated: GateRow) -> bool:
    """Whether a rendering names a row: in the words of the gate, by its key, or in titles for people."""
    if describe_row(gated) in text or f'"key": "{gated.key}"' in text:
        return True
    return gated.row is not None and view.row_title(gated.row) in text and view.pair_title(gated.row) in text


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_S11_every_rendering_and_the_exit_code_say_the_same(name, strict):
    comparison, verdict = case(name)
    outcome, code, strict_code = CASES[name]
    assert (verdict.outcome, verdict.exit_code(), verdict.exit_code(strict=True)) == (outcome, code, strict_code)
    expected = Counter((row.candidate, row.level, row.status) for each in verdict.candidates for row in each.rows)
    worst = verdict.worst(1)
    for rendering, read in READERS.items():
        said = read(comparison, verdict, strict)
        assert said.outcome in (outcome, None), rendering
        if rendering != "annotations":  # ten lines have no room for counts beyond those of the sentence
            assert said.counts == dict(expected), rendering
        if said.red is not None:
            assert said.red == (verdict.exit_code(strict=strict) != 0), rendering
        if said.text:
            assert not worst or names_row(said.text, worst[0]), rendering
            told = [
                each.sentence.partition(": ")[2] for each in verdict.candidates if each.sentence in verdict.sentence
            ]
            assert told and all(sentence in said.text for sentence in told), rendering


def test_the_cases_have_what_they_are_named_after():
    assert case("fail")[1].candidates[0].counts()["red"] > 3
    assert [each.outcome for each in case("one of two fails")[1].candidates] == ["inconclusive", "fail"]
    assert case("missing rows")[1].candidates[0].counts()["missing"] == 1
    assert case("nothing measured")[1].candidates[0].rows == ()
    assert [row.row for row in case("rule without rows")[1].worst(9)] == [None]
    assert {row.status for row in case("too few items")[1].candidates[0].rows} == {"grey"}
    assert case("inconclusive")[1].candidates[0].counts()["amber"] > 0
    assert case("pass with a warning")[1].candidates[0].counts("warn")["red"] > 0


def every_rendering(comparison: Comparison, verdict: Verdict) -> dict[str, str]:
    return {
        "console": console_text(comparison, verdict, report_path="run/report.html"),
        "json": json_text(comparison, verdict),
        "csv": csv_text(comparison, verdict),
        "markdown": markdown_text(comparison, verdict),
        "junit": junit_text(comparison, verdict),
        "annotations": github_text(comparison, verdict),
        "html": page_text(comparison, verdict),
    }


def test_the_rule_is_one_sentence_in_every_rendering_for_people():
    comparison, verdict = case("fail")
    for rendering, text in every_rendering(comparison, verdict).items():
        if rendering != "csv":
            assert verdict.rule in one_line(html_text.unescape(text.replace("\\", ""))), rendering


def test_an_enforced_verdict_comes_first():
    comparison, verdict = case("fail")
    shown = every_rendering(comparison, verdict)
    assert shown["console"].startswith("FAIL: damaged against base: 26 of 29 judged rows lost")
    assert shown["markdown"].startswith("# ✕ FAIL: damaged against base")
    assert shown["annotations"].startswith("::error title=alignx-eval%3A FAIL::FAIL: damaged against base")
    assert list(json.loads(shown["json"]))[:3] == ["schema_version", "verdict", "mismatches"]
    first = ET.fromstring(shown["junit"]).find("testsuite/testcase")
    assert first.get("name") == "verdict" and first.find("failure").get("message").startswith(
        "FAIL: damaged against base"
    )


def test_a_verdict_that_is_not_enforced_is_one_line_below_the_findings():
    comparison, enforced = case("fail")
    verdict = dataclasses.replace(enforced, enforced=False)
    shown = every_rendering(comparison, verdict)
    lines = shown["console"].splitlines()
    assert [line for line in lines if "FAIL" in line] == [lines[-2]]
    assert lines[-2] == "Gate (default policy, not enforced): FAIL, 26 regression, 3 not settled"
    assert lines[-1].startswith("Report")
    assert shown["markdown"].startswith("# damaged against base\n")
    assert shown["markdown"].index("## Findings") < shown["markdown"].index(
        "## Gate (default policy, not enforced): ✕ FAIL"
    )
    assert json.loads(shown["json"])["verdict"]["enforced"] is False
    assert "::error" not in shown["annotations"] and "not enforced" in shown["annotations"].splitlines()[0]
    assert {
        each.get("value") for each in ET.fromstring(shown["junit"]).iter("property") if each.get("name") == "enforced"
    } == {"no"}


def test_json_has_every_field_of_a_gated_row_and_the_policy():
    comparison, verdict = case("fail")
    found = json.loads(json_text(comparison, verdict))["verdict"]
    for row, gated in zip(found["candidates"][0]["rows"], verdict.candidates[0].rows, strict=True):
        names = {field.name for field in dataclasses.fields(gated)} - {"row"}
        assert {name: row[name] for name in names} == {name: getattr(gated, name) for name in names}
        assert (row["key"], row["n"], row["ci_low"]) == (gated.key, gated.row.n, gated.row.ci_low)
    assert Policy.model_validate(found["policy"]) == verdict.policy
    assert (found["policy_name"], found["rule"]) == (verdict.policy_name, verdict.rule)


def test_csv_joins_the_gate_to_its_rows():
    comparison, verdict = case("fail")
    lines = list(csv.DictReader(io.StringIO(csv_text(comparison, verdict))))
    assert len(lines) == len(comparison.rows)
    gated = {each.key: each for each in verdict.candidates[0].rows}
    for line, row in zip(lines, comparison.rows, strict=True):
        each = gated.get(row.key)
        assert line["gate_status"] == (each.status if each else "") and line["gate_level"] == (
            each.level if each else ""
        )
        for name in ("tolerance", "loss", "p_adjusted"):
            assert line[f"gate_{name}"] == ("" if each is None else str(getattr(each, name)))
    comparison, verdict = case("rule without rows")
    last = list(csv.DictReader(io.StringIO(csv_text(comparison, verdict))))[-1]
    assert last["gate_status"] == "missing" and "no_such_task.acc" in last["gate_reason"] and not last["suite"]
    comparison, verdict = case("nothing measured")
    *rows, last = csv.DictReader(io.StringIO(csv_text(comparison, verdict)))
    assert rows and "gate_outcome" not in last and last["gate_reason"] == verdict.candidates[0].sentence
    assert not any(line[name] for line in rows for name in line if name.startswith("gate_"))


def test_allowed_mismatches_are_shown_in_every_rendering():
    other = dict(results("alignx"))
    other["translation"] = dataclasses.replace(
        other["translation"], fingerprint={**other["translation"].fingerprint, "template": "chat"}
    )
    comparison = together("alignx", given={"alignx": other}, allow_mismatch=["template"])
    assert comparison.mismatches == ['template is "plain" in base and "chat" in alignx (translation)']
    shown = every_rendering(comparison, judge(comparison, default_policy()))
    assert json.loads(shown["json"])["mismatches"] == comparison.mismatches
    lines = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert {line["mismatches"] for line in lines} == set(comparison.mismatches)
    assert (
        "::warning title=alignx-eval%3A measured differently (--allow-mismatch)::" + comparison.mismatches[0]
        in shown["annotations"]
    )
    found = [
        each.get("value") for each in ET.fromstring(shown["junit"]).iter("property") if each.get("name") == "mismatch"
    ]
    assert found == comparison.mismatches
    for rendering in ("console", "markdown", "html"):
        text = html_text.unescape(one_line(shown[rendering]))
        assert comparison.mismatches[0] in text, rendering
    assert comparison.mismatches[0] in one_line("\n".join(shown["console"].splitlines()[:20]))
    assert comparison.mismatches[0] in html_text.unescape(shown["markdown"].partition("## Gate")[0])


def test_S14_at_most_ten_annotations_and_the_last_counts_the_rest():
    comparison, verdict = case("fail")
    lines = github_text(comparison, verdict).splitlines()
    assert len(lines) == 10 and all(line.startswith("::error") for line in lines)
    assert lines[-1].endswith(f"({len(verdict.worst(999)) - 9} more rows in the report)")
    assert [describe_row(row) for row in verdict.worst(9)] == [
        re.match(r"::\w+ title=[^:]*::(.*?\))", line).group(1) for line in lines[1:]
    ]


def test_annotations_of_rows_that_are_only_shown_are_no_errors():
    lines = github_text(*case("pass with a warning")).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::notice"] + ["::warning"] * 9


def test_S14_hostile_text_breaks_no_rendering():
    given = {HOSTILE: results("damaged")}
    measured = {"base": results("base"), **given}
    facts = {label: {"name": label, "align_layer": 1, "stage": HOSTILE} for label in measured}
    comparison = compare(
        measured, base="base", candidates=[HOSTILE], checkpoints=facts, corpus=corpus_facts(LANGUAGES, LINES)
    )
    comparison.mismatches = [HOSTILE]
    comparison.warnings = [HOSTILE]
    verdict = judge(comparison, default_policy(), policy_name=HOSTILE, enforced=True)
    assert verdict.outcome == "fail"
    shown = every_rendering(dataclasses.replace(as_report(comparison, verdict), findings=[HOSTILE]), verdict)
    for rendering, text in shown.items():
        text.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", text), rendering
    root = ET.fromstring(shown["junit"])
    clean = one_line(wording.clean(HOSTILE))
    assert {case.get("classname").partition(" against ")[0] for case in root.iter("testcase")} == {clean}
    assert [one_line(each.get("value")) for each in root.iter("property") if each.get("name") == "mismatch"] == [clean]
    commands = shown["annotations"].splitlines()
    assert len(commands) == 10 and all(
        re.match(r"::(error|warning|notice) title=[^:,\r\n]*::", line) for line in commands
    )
    assert "%250A" in commands[0] and "%0A::error title=x" in commands[0]
    document = json.loads(shown["json"])
    assert document["mismatches"] == [wording.clean(HOSTILE)] and document["verdict"]["policy_name"] == wording.clean(
        HOSTILE
    )
    lines = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert {line["candidate_name"] for line in lines} == {wording.clean(HOSTILE)} and len(lines) == len(comparison.rows)
    assert (
        "<script>" not in shown["markdown"] and "@user" not in shown["markdown"] and "`code`" not in shown["markdown"]
    )
    assert "\n# heading" not in shown["markdown"] and "\n# heading" not in shown["console"]
    assert "<script>alert" not in shown["html"]
    shown["console"] += console_text(comparison, dataclasses.replace(verdict, enforced=False))
    assert "\n# heading" not in shown["console"]
    assert not any(
        line.startswith("::") for rendering in ("console", "markdown") for line in shown[rendering].splitlines()
    )


def test_S14_markdown_stays_under_the_limit_with_many_candidates(monkeypatch):
    comparison, verdict = case("one of two fails")
    whole = markdown_text(comparison, verdict)
    monkeypatch.setattr(markdown, "MAXIMUM_BYTES", len(whole.encode()) // 2)
    text = markdown_text(comparison, verdict)
    assert len(text.encode()) < markdown.MAXIMUM_BYTES and "parts were left out" in text
    assert text.startswith("# ✕ FAIL") and verdict.rule.partition(",")[0] in html_text.unescape(text)
    assert text.count("<details>") == text.count("</details>")


def test_markdown_tables_have_as_many_cells_as_their_heading():
    for name in CASES:
        header = 0
        for line in markdown_text(*case(name)).splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not (header and cells) or cells == header, line
            header = cells


@pytest.mark.parametrize("name", CASES)
def test_S5_no_rendering_of_the_gate_calls_anything_equal(name):
    for rendering, text in every_rendering(*case(name)).items():
        if rendering == "html":
            text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
            text = text.replace("is not “equal”", "").replace("does not say that two checkpoints are equal", "")
        assert not re.search(r"\b(equal|identical|the same score|no difference|unchanged)\b", text, re.I), rendering


def test_console_fits_80_columns():
    for name in CASES:
        text = console_text(*case(name), report_path="run/report.html")
        assert max(console.columns_of(line) for line in text.splitlines()) <= 80
        assert len(text.splitlines()) <= 50


def test_console_names_the_three_worst_rows_once():
    comparison, verdict = case("fail")
    screen = one_line(console_text(comparison, verdict))
    assert [screen.count(describe_row(row)) for row in verdict.worst(4)] == [1, 1, 1, 0]


def test_diagnoses_with_their_evidence():
    comparison, verdict = case("fail")
    found = as_report(comparison).diagnoses
    assert {each.status for each in found} > {"found"}
    shown = every_rendering(comparison, verdict)
    document = json.loads(shown["json"])["diagnoses"]
    assert [(each["rule"], each["status"]) for each in document] == [(each.rule, each.status) for each in found]
    summary = html_text.unescape(shown["markdown"].replace("\\", ""))
    for each in found:
        assert each.sentence in summary and all(evidence.text in summary for evidence in each.evidence)
        assert view.brief(each).partition(" ...")[0] in each.sentence
    screen = one_line(shown["console"])
    for status, word in view.DIAGNOSIS_WORDS.items():
        rules = [each.rule for each in view.worst_diagnoses(found) if each.status == status]
        assert not rules or f"{word}: {', '.join(rules)}" in screen


def test_series_in_the_renderings():
    comparison = together("alignx", "drifted", "damaged", series=True)
    verdict = judge(comparison, default_policy())
    shown = every_rendering(comparison, verdict)
    document = json.loads(shown["json"])["series"]
    assert [step["label"] for step in document["steps"]] == ["base", "alignx", "drifted", "damaged"]
    assert document["first_failure"]["label"] == "damaged"
    assert document["sentence"] in one_line(shown["console"])
    assert document["sentence"] in html_text.unescape(shown["markdown"].replace("\\", ""))
