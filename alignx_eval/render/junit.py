"""The verdict as JUnit XML: each gated row a test case, and one test case for the verdict on each candidate.

A red row of level block is a failure, a missing one an error, one that is not settled or not judged is skipped; under
`strict` the latter two are failures of type "inconclusive". Rows of level warn and info never fail: they are skipped
with their status. The test case of the verdict fails or errs with the candidate's outcome, so that a CI system shows
red exactly where the exit code is not 0.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignx_eval import wording
from alignx_eval.errors import InputError
from alignx_eval.judgement.gate import describe_row
from alignx_eval.render import view

if TYPE_CHECKING:
    from alignx_eval.judgement.gate import CandidateVerdict, GateRow
    from alignx_eval.judgement.report import Report

# What a test case holds beside its output: (element, type), or None where it passed.
Result = tuple[str, str] | None
_COUNTED = (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))


def render(report: Report, *, strict: bool = False) -> str:
    """XML 1.0 in the form that Jenkins, GitLab and GitHub actions read; characters that XML cannot hold become U+FFFD.

    Raises InputError where one checkpoint alone was measured.
    """
    verdict = report.verdict
    if verdict is None:
        raise InputError("JUnit needs a comparison: one checkpoint alone has no verdict")
    root = ET.Element("testsuites", name="alignx-eval")
    for candidate in verdict.candidates:
        root.append(_verdict_suite(report, candidate, strict))
        by_metric: dict[str, list[GateRow]] = {}
        for gated in candidate.rows:
            by_metric.setdefault(
                f"{gated.row.suite}.{gated.row.metric}" if gated.row is not None else "not measured", []
            ).append(gated)
        for metric, rows in by_metric.items():
            root.append(_metric_suite(candidate, metric, rows, strict))
    _count(root, list(root.iter("testcase")))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _verdict_suite(report: Report, candidate: CandidateVerdict, strict: bool) -> ET.Element:
    comparison, verdict = report.comparison, report.verdict
    assert verdict is not None
    who = _who(candidate)
    suite = ET.Element("testsuite", name=_line(f"{who}: verdict"))
    n = [gated.row.n for gated in candidate.rows if gated.row is not None]
    properties = ET.SubElement(suite, "properties")
    facts = [
        ("outcome", candidate.outcome),
        ("verdict", candidate.sentence),
        ("overall outcome", verdict.outcome),
        ("overall verdict", view.verdict_line(verdict)),
        ("exit code", str(verdict.exit_code(strict=strict))),
        ("rule", verdict.rule),
        ("policy", verdict.policy_name),
        *((f"rows of level {level}", view.status_counts(candidate, level)) for level in view.levels(candidate)),
        ("n", _range(n)),
        ("enforced", "yes" if verdict.enforced else "no"),
        ("compared", report.sentence),
        *(("warning", warning) for warning in comparison.warnings),
        *(("mismatch", mismatch) for mismatch in comparison.mismatches),
        *(("opened", note) for note in view.opening_notes(comparison)),
    ]
    for name, value in facts:
        ET.SubElement(properties, "property", name=name, value=wording.clean(value))
    outcomes: dict[str, Result] = {
        "fail": ("failure", "regression"),
        "incomplete": ("error", "incomplete"),
        "inconclusive": ("failure", "inconclusive") if strict else ("skipped", ""),
        "pass": None,
    }
    output = [candidate.sentence, view.rule_line(verdict), report.sentence]
    output += [f"warning: {warning}" for warning in comparison.warnings]
    output += [f"measured differently, and compared all the same: {mismatch}" for mismatch in comparison.mismatches]
    output += [f"opened: {note}" for note in view.opening_notes(comparison)]
    _case(suite, who, "verdict", outcomes[candidate.outcome], candidate.sentence, "\n".join(output))
    _count(suite, list(suite.iter("testcase")))
    return suite


def _metric_suite(candidate: CandidateVerdict, metric: str, rows: Sequence[GateRow], strict: bool) -> ET.Element:
    suite = ET.Element("testsuite", name=_line(f"{_who(candidate)}: {metric}"))
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(
        properties, "property", name="n", value=_range([gated.row.n for gated in rows if gated.row is not None])
    )
    for gated in rows:
        row = gated.row
        name = (
            gated.wanted
            if row is None
            else view.pair_title(row) + (f", layer {row.layer}" if row.layer is not None else "")
        )
        status = view.STATUS_WORDS[gated.status] + (
            "" if gated.level == "block" else f" (level {gated.level}, only shown)"
        )
        message = f"{status}: {describe_row(gated)}" + (f"; {gated.reason}" if gated.reason else "")
        output = message
        if row is not None and row.ci_low is not None:
            output += (
                f"; difference {wording.difference(row.difference, row.metric)}, 95 % interval {view.interval(row)}"
            )
        _case(suite, f"{_who(candidate)}.{metric}", name, _result(gated, strict), message, output)
    _count(suite, list(suite.iter("testcase")))
    return suite


def _result(gated: GateRow, strict: bool) -> Result:
    if gated.status == "green":
        return None
    if gated.level != "block":
        return "skipped", ""
    if gated.status == "red":
        return "failure", "regression"
    if gated.status == "missing":
        return "error", "missing"
    return ("failure", "inconclusive") if strict else ("skipped", "")


def _case(suite: ET.Element, classname: str, name: str, result: Result, message: str, output: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=_line(classname), name=_line(name))
    if result is not None:
        element, kind = result
        found = ET.SubElement(case, element, message=_line(message))
        if kind:
            found.set("type", kind)
    ET.SubElement(case, "system-out").text = wording.clean(output)


def _count(element: ET.Element, cases: Sequence[ET.Element]) -> None:
    element.set("tests", str(len(cases)))
    for attribute, tag in _COUNTED:
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))


def _line(text: str) -> str:
    return " ".join(wording.clean(text).split())


def _who(candidate: CandidateVerdict) -> str:
    return f"{candidate.candidate} against {candidate.reference}"


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "0"
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
