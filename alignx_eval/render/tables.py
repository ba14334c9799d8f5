"""Comparison rows as tables for programs: JSON with a schema version, and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.comparison.contrasts import list_contrasts
from alignx_eval.judgement.gate import LEVELS
from alignx_eval.render import view
from alignx_eval.results import SCHEMA_VERSION

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import ComparisonRow
    from alignx_eval.judgement.evidence import Diagnosis
    from alignx_eval.judgement.findings import Headline
    from alignx_eval.judgement.gate import GateRow, Verdict
    from alignx_eval.judgement.report import Report

COLUMNS = (
    "suite",
    "metric",
    "layer",
    "language",
    "other_language",
    "contrast",
    "base_name",
    "candidate_name",
    "base",
    "candidate",
    "difference",
    "se",
    "ci_low",
    "ci_high",
    "degrees_of_freedom",
    "skewness",
    "p",
    "p_adjusted",
    "minimum_detectable_effect",
    "n",
    "clusters",
    "method",
    "higher_is_better",
    "verdict",
    "reason",
    "null",
)
GATE_COLUMNS = (
    "gate_status",
    "gate_level",
    "gate_tolerance",
    "gate_loss",
    "gate_p_adjusted",
    "gate_reason",
    "mismatches",
)


def render_json(report: Report) -> str:
    """The verdict and the comparison as JSON: counts, rows, and the rows of every checkpoint. Undefined is null, never
    NaN."""
    comparison = report.comparison
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "verdict": None if report.verdict is None else _verdict(report.verdict),
        "mismatches": list(comparison.mismatches),
        "sentence": report.sentence,
        "base": comparison.base,
        "control": comparison.control,
        "candidates": list(comparison.candidates),
        "counts": [
            {
                "contrast": contrast.kind,
                "candidate": contrast.candidate,
                "against": contrast.other,
                **view.count_verdicts(contrast.rows),
            }
            for contrast in list_contrasts(comparison)
        ],
        "headlines": [_headline(each) for each in report.headlines]
        if comparison.candidates
        else [{"title": each.title, "beside": each.beside, "key": each.row.key} for each in view.measured(comparison)],
        "diagnoses": [_diagnosis(each) for each in report.diagnoses],
        "findings": list(report.findings),
        "warnings": list(comparison.warnings),
        "opened": view.opening_notes(comparison),
        "corpus": comparison.corpus,
        "checkpoints": comparison.checkpoints,
        "layer_similarity": [dataclasses.asdict(each) for each in comparison.layer_similarity],
        "comparison_rows": [{column: getattr(row, column) for column in COLUMNS} for row in comparison.rows],
        "rows": [
            {**dataclasses.asdict(row), "checkpoint": label}
            for label, suites in comparison.results.items()
            for result in suites.values()
            for row in result.rows
        ],
    }
    if report.series is not None:
        document["series"] = dataclasses.asdict(report.series)
    return json.dumps(wording.finite(document), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome,
        "enforced": verdict.enforced,
        "exit_code": verdict.exit_code(),
        "exit_code_strict": verdict.exit_code(strict=True),
        "sentence": verdict.sentence,
        "rule": verdict.rule,
        "policy_name": verdict.policy_name,
        "policy": verdict.policy.model_dump(mode="json"),
        "candidates": [
            {
                "candidate": candidate.candidate,
                "reference": candidate.reference,
                "outcome": candidate.outcome,
                "sentence": candidate.sentence,
                "counts": {level: candidate.counts(level) for level in LEVELS},
                "rows": [_gate_row(gated) for gated in candidate.rows],
            }
            for candidate in verdict.candidates
        ],
    }


def _gate_row(gated: GateRow) -> dict[str, Any]:
    """All of a gated row, with what identifies its comparison row and says how sure it is (null where nothing was
    measured)."""
    own = {field.name: getattr(gated, field.name) for field in dataclasses.fields(gated) if field.name != "row"}
    names = ("suite", "metric", "layer", "difference", "ci_low", "ci_high", "n", "clusters")
    row = {name: getattr(gated.row, name, None) for name in names}
    # `language` is the one that the row is judged as; these two are those of the comparison row, source and target of a
    # direction.
    pair = {f"row_{name}": getattr(gated.row, name, None) for name in ("language", "other_language")}
    return {"key": gated.key, **own, **row, **pair}


def _headline(headline: Headline) -> dict[str, Any]:
    return {
        **dataclasses.asdict(headline),
        "value": headline.value,
        "scope": headline.scope,
        "sentence": headline.sentence,
    }


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    fields = {field.name: getattr(diagnosis, field.name) for field in dataclasses.fields(diagnosis)}
    evidence = [{"key": None if each.row is None else each.row.key, "text": each.text} for each in diagnosis.evidence]
    return {**fields, "evidence": evidence}


def render_csv(report: Report) -> str:
    """Comparison rows as CSV (RFC 4180, header line); of a single checkpoint, its rows. Undefined is an empty field.

    `gate_status` and the other gate columns are those of the row itself, and empty where the policy does not gate it;
    no column repeats the verdict on the whole. What the policy wants and nobody measured has a line of its own at the
    end, with the status "missing"; so has a candidate without any gated row, with no status and the verdict's sentence
    as the reason.
    """
    comparison = report.comparison
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    if comparison.candidates:
        writer.writerow((*COLUMNS, *GATE_COLUMNS))
        writer.writerows([_field(cell) for cell in line] for line in _lines(report))
        return out.getvalue()
    rows = [row for suites in comparison.results.values() for result in suites.values() for row in result.rows]
    names = [field.name for field in dataclasses.fields(rows[0])] if rows else []
    writer.writerow(names)
    writer.writerows([_field(getattr(row, name)) for name in names] for row in rows)
    return out.getvalue()


def _lines(report: Report) -> Iterator[list[object]]:
    comparison, verdict = report.comparison, report.verdict
    mismatches = "; ".join(comparison.mismatches)
    judged = {} if verdict is None else {candidate.candidate: candidate for candidate in verdict.candidates}
    gated_rows = {
        _identity(gated.row): gated
        for candidate in judged.values()
        for gated in candidate.rows
        if gated.row is not None
    }
    for row in comparison.rows:
        yield [*(getattr(row, column) for column in COLUMNS), *_gate_cells(gated_rows.get(_identity(row))), mismatches]
    for candidate in judged.values():
        unmeasured = [gated for gated in candidate.rows if gated.row is None]
        names = {"base_name": candidate.reference, "candidate_name": candidate.candidate}
        for gated in unmeasured:
            yield [*(names.get(column) for column in COLUMNS), *_gate_cells(gated), mismatches]
        if not candidate.rows:
            yield [*(names.get(column) for column in COLUMNS), *[None] * 5, candidate.sentence, mismatches]


def _identity(row: ComparisonRow) -> tuple[str, ...]:
    return row.candidate_name, row.base_name, row.contrast, row.key


def _gate_cells(gated: GateRow | None) -> list[object]:
    if gated is None:
        return [None] * 6
    reason = gated.reason if gated.row is not None else f"{gated.wanted}: {gated.reason}"
    return [gated.status, gated.level, gated.tolerance, gated.loss, gated.p_adjusted, reason]


def _field(value: object) -> object:
    value = wording.finite(value)
    if value is None:
        return ""
    # A spreadsheet runs text that starts like a formula.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\n"):
        return "'" + value
    return value
